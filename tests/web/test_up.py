"""The command ``evergrove up device`` where it does not come up: one line, and an exit code."""

import signal
from pathlib import Path

import pytest

from evergrove.cli.main import run
from evergrove.cli.up import url as written
from evergrove.web import server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What looks like a device's folder: enough for what is refused before a device is opened."""
    (tmp_path / "device.toml").write_text("")
    return tmp_path


def test_what_others_could_reach_is_a_usage_error(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, and nothing was made."""
    assert run(["up", "device", "--device", str(folder), "--host", "0.0.0.0"]) == 2
    assert "reverse proxy" in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == ["device.toml"]


def test_a_port_in_use_is_named_with_the_way_out(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 1; so is a path of a Unix socket that is something else, which stays as it is."""
    with server.listen_tcp("127.0.0.1", 0) as bound:
        port = str(bound.getsockname()[1])
        assert run(["up", "device", "--device", str(folder), "--port", port]) == 1
    assert f"127.0.0.1:{port} is in use" in capsys.readouterr().err
    (folder / "file").write_text("mine")
    assert run(["up", "device", "--device", str(folder), "--unix", str(folder / "file")]) == 1
    assert (folder / "file").read_text() == "mine"


def test_a_folder_without_a_device_is_said_to_be(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2 where device.toml has nobody behind it; neither socket nor token stays behind."""
    assert run(["up", "device", "--device", str(folder), "--unix", str(folder / "s")]) == 2
    assert "evergrove init" in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == ["device.toml"]


def test_signals_are_heard_again_as_before(folder: Path) -> None:
    """Also where the command has failed: who runs it in a process of their own can still be interrupted."""
    before = [signal.getsignal(number) for number in server.ENDINGS]
    assert run(["up", "device", "--device", str(folder), "--unix", str(folder / "s")]) == 2
    assert [signal.getsignal(number) for number in server.ENDINGS] == before


def test_being_told_to_end_is_noted_once() -> None:
    """The second time it is an interruption as ever; a shell's background job would begin with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with server.hearing_endings() as heard:
        signal.raise_signal(signal.SIGINT)
        assert heard == [signal.SIGINT]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.signal(signal.SIGINT, before) is signal.default_int_handler


@pytest.mark.parametrize(("host", "url"), [("127.0.0.1", "http://127.0.0.1:80"), ("::1", "http://[::1]:80")])
def test_an_address_is_written_as_a_url(host: str, url: str) -> None:
    """With brackets around IPv6."""

    assert written(host, 80) == url
