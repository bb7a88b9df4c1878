"""One agent per device: the second is refused by number, and a killed one leaves nothing in the way."""

import os
import socket
import stat
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import evergrove
from evergrove.adapters.ownership import Ownership, check_peer, find_agent, socket_path
from evergrove.core.errors import AgentBusy, EvergroveError

SOURCE = str(Path(str(evergrove.__path__[0])).parent)


@contextmanager
def other_owner(folder: Path, runtime: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that owns the device until it is killed."""
    script = f"""
        import sys, time
        from pathlib import Path
        from evergrove.adapters.ownership import Ownership
        with Ownership.acquire(Path({str(folder)!r}), Path({str(runtime)!r})):
            print("mine", flush=True)
            sys.stdin.read()
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": SOURCE},
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "mine\n"
        yield process
        process.kill()


def test_the_second_is_refused_by_number(tmp_path: Path) -> None:
    """The error names the owner; after a kill -9 the device is taken over at once."""
    with other_owner(tmp_path, tmp_path / "run") as process:
        with pytest.raises(AgentBusy, match=f"process {process.pid} already owns"):
            Ownership.acquire(tmp_path, tmp_path / "run")
        found = find_agent(tmp_path)
        assert found is not None
        assert found.pid == process.pid
        process.kill()
        process.wait()
        assert find_agent(tmp_path) is None
        assert (tmp_path / "agent.json").exists()
        with Ownership.acquire(tmp_path, tmp_path / "run") as mine:
            found = find_agent(tmp_path)
            assert found == mine.info
            assert found.pid == os.getpid()


def test_release_leaves_the_way_free(tmp_path: Path) -> None:
    """In one process too: refused while held, free afterwards; releasing twice is fine."""
    mine = Ownership.acquire(tmp_path, tmp_path / "run")
    with pytest.raises(AgentBusy, match=str(os.getpid())):
        Ownership.acquire(tmp_path, tmp_path / "run")
    mine.release()
    mine.release()
    assert find_agent(tmp_path) is None
    Ownership.acquire(tmp_path, tmp_path / "run").release()


def test_a_child_does_not_inherit_the_lock(tmp_path: Path) -> None:
    """A trainer that outlives its agent must not keep the device locked."""
    mine = Ownership.acquire(tmp_path, tmp_path / "run")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False) as child:
        mine.release()
        Ownership.acquire(tmp_path, tmp_path / "run").release()
        child.communicate(b"\n")


def test_a_later_process_with_the_same_number_is_not_the_agent(tmp_path: Path) -> None:
    """The start time tells them apart; torn or foreign files mean: nobody."""
    with Ownership.acquire(tmp_path, tmp_path / "run") as mine:
        path = tmp_path / "agent.json"
        whole = path.read_bytes()
        if mine.info.started_at:
            path.write_bytes(whole.replace(str(mine.info.started_at).encode(), b"17"))
            assert find_agent(tmp_path) is None
        for content in (whole[:20], b"", b"[]"):
            path.write_bytes(content)
            assert find_agent(tmp_path) is None
        path.write_bytes(whole)
        assert find_agent(tmp_path) == mine.info


def test_addresses_are_short_and_private(tmp_path: Path) -> None:
    """However deep a device's folder lies, its address fits, differs from others', and lies in a 0700 folder."""
    deep = tmp_path / ("x" * 200) / ("y" * 200)
    addresses = {socket_path(deep), socket_path(tmp_path), socket_path(tmp_path, tmp_path / ("z" * 100))}
    assert len(addresses) == 2
    for address in addresses:
        assert len(os.fsencode(address)) < 104
        assert stat.S_IMODE(address.parent.stat().st_mode) == 0o700
    with socket.socket(socket.AF_UNIX) as listener:
        short = socket_path(deep)
        short.unlink(missing_ok=True)
        listener.bind(str(short))
        short.unlink()


def test_a_folder_open_to_others_is_refused(tmp_path: Path) -> None:
    """Somebody else could listen there in our name."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:  # an address below ``tmp_path`` may be too long to be used
        run = Path(name)
        (run / "evergrove").mkdir(mode=0o755)
        with pytest.raises(EvergroveError, match=r"mode 755.*chmod 700"):
            socket_path(tmp_path, run)
        (run / "evergrove").rmdir()
        (run / "elsewhere").mkdir(mode=0o700)
        (run / "evergrove").symlink_to(run / "elsewhere")
        with pytest.raises(EvergroveError, match="not a folder of yours alone"):
            socket_path(tmp_path, run)


def test_what_a_killed_owner_left_half_written_goes(tmp_path: Path) -> None:
    """Half a note of who owns the device goes with the next owner; other files are not touched."""
    (tmp_path / ".agent.json.0011aabb.tmp").write_text("{")
    (tmp_path / ".other.0011aabb.tmp").write_text("{")
    with Ownership.acquire(tmp_path, tmp_path / "run"):
        assert sorted(p.name for p in tmp_path.glob(".*.tmp")) == [".other.0011aabb.tmp"]


def test_no_device_no_lock(tmp_path: Path) -> None:
    """A missing folder is a clear error."""
    with pytest.raises(EvergroveError, match=r"agent\.lock: cannot be opened"):
        Ownership.acquire(tmp_path / "none")


def test_the_same_user_at_the_other_end() -> None:
    """A pair of our own is accepted."""
    left, right = socket.socketpair()
    with left, right:
        check_peer(left)
