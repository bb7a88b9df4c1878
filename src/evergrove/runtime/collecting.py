"""Flower's own command line, called while a cloud runs: who may connect, and that one run of our app is alive."""

import json
import logging
import os
import re
import signal
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from evergrove.adapters.flower import checkpoint
from evergrove.core.release import sha256_hex
from evergrove.runtime.flower import CONNECTION, Cloud, app_folder, flower_environment, program
from evergrove.runtime.supervisor import end_group, open_log, spawn

RUN_GRACE_S = 20.0
"""How long a run that was started may take to hold the lock."""
RETRY_S, RETRY_S_MAX = 2.0, 60.0
CALL_S_MAX = 60.0
GONE_S = 30.0
"""How long a fog's key must be gone before its node is: longer than a folder is away while it is synchronised."""
_NODE = re.compile(r"SuperNode (\d+) registered")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Call:
    """One call of ``flwr``, and what it is about: the mark of a key of that hash, or the state of a run."""

    about: Path
    words: tuple[str, ...]
    key_hash: str = ""

    @property
    def kind(self) -> str:
        return self.words[1] if self.words[0] == "supernode" else self.words[0]


class KeepCollecting:
    """Registers fogs as their keys appear, takes those out whose keys are gone, and keeps one run of our app alive, all
    by Flower's own command line.

    A mark beside a key holds its hash and the node that it became. Whether a run lives is told by the lock that its
    ServerApp holds, which dies with it; asking Flower would take a process each time, and it believes in a dead run for
    a minute. What fails is tried again, less and less often, and holds up nothing else.
    """

    def __init__(self, cloud: Cloud, run_config: Mapping[str, str | int | float] | None = None) -> None:
        self._cloud = cloud
        self._config = {"state": str(cloud.state), **(run_config or {})}
        self._running: subprocess.Popen[bytes] | None = None
        self._call = _Call(cloud.state, ("run",))
        self._log_from = 0
        self._call_ends_s = 0.0
        self._next_s: dict[Path, float] = {}
        self._failures: dict[Path, int] = {}
        self._gone_since_s: dict[Path, float] = {}
        self._refused: set[str] = set()
        self.n_runs = 0

    def tick(self, now_s: float) -> None:
        """Follows the call under way, or starts the next one that is due."""
        if self._running is not None:
            self._follow(now_s)
            return
        calls = (*self._farewells(now_s), *self._welcomes(), *self._runs())
        due = [call for call in calls if now_s >= self._next_s.get(call.about, 0.0)]
        if due:
            self._begin(due[0], now_s)

    def end(self) -> None:
        """Ends a call that is under way."""
        if self._running is not None:
            end_group(self._running.pid, signal.SIGKILL)
            self._running.wait()

    def _farewells(self, now_s: float) -> Iterator[_Call]:
        """For marks whose key is gone, or is another one now; a file that is just being copied is given time."""
        gone = {}
        for mark in sorted(self._cloud.fogs.glob("*.registered")):
            known, _, node = mark.read_text().partition(" ")
            if known != _hash(mark.with_suffix(".pub")):
                gone[mark] = (self._gone_since_s.get(mark, now_s), known, node)
        self._gone_since_s = {mark: since_s for mark, (since_s, *_) in gone.items()}
        for mark, (since_s, known, node) in gone.items():
            if now_s - since_s < GONE_S:
                continue
            if node:
                yield _Call(mark, ("supernode", "unregister", node, CONNECTION), known)
            else:
                _log.error("which node '%s' became is not known: unregister it by hand, `flwr supernode`", mark.stem)
                mark.unlink()

    def _welcomes(self) -> Iterator[_Call]:
        """For keys that have no mark yet."""
        removed = self._cloud.removed.read_text().split() if self._cloud.removed.exists() else []
        for key in sorted(self._cloud.fogs.glob("*.pub")):
            found, mark = _hash(key), key.with_suffix(".registered")
            if mark.exists() or found is None:
                continue
            if found not in removed:
                yield _Call(mark, ("supernode", "register", str(key), CONNECTION, "--name", key.stem), found)
            elif found not in self._refused:
                self._refused.add(found)
                _log.error("the key of '%s' was taken away once: delete supernode.* at the fog for a new one", key.stem)

    def _runs(self) -> Iterator[_Call]:
        if not self._collecting():
            words = " ".join(f"{name}={json.dumps(value)}" for name, value in self._config.items())
            yield _Call(self._cloud.state, ("run", str(app_folder()), CONNECTION, "--run-config", words))

    def _begin(self, call: _Call, now_s: float) -> None:
        with open_log(self._cloud.logs / "flwr.log") as log:
            self._log_from = log.tell()
            self._running = spawn((*program("flwr"), *call.words), flower_environment(self._cloud.folder / "home"), log)
        self._call, self._call_ends_s = call, now_s + CALL_S_MAX

    def _follow(self, now_s: float) -> None:
        assert self._running is not None
        code = self._running.poll()
        if code is None:
            if now_s > self._call_ends_s:
                end_group(self._running.pid, signal.SIGKILL)
            return
        self._running = None
        about = self._call.about
        if self._settled(code):
            self._failures.pop(about, None)
            self._next_s[about] = now_s + (RUN_GRACE_S if self._call.kind == "run" else 0.0)
            return
        failures = self._failures[about] = self._failures.get(about, 0) + 1
        wait_s = min(RETRY_S * 2 ** (failures - 1), RETRY_S_MAX)
        self._next_s[about] = now_s + wait_s
        words, log = " ".join(self._call.words[:3]), self._cloud.logs / "flwr.log"
        _log.warning("`flwr %s` ended with %d; once more in %.0f s; see %s", words, code, wait_s, log)

    def _settled(self, code: int) -> bool:
        """Whether the call did what it should, or finds that done by one before a crash; what follows is written."""
        said, call = self._said(), self._call
        if call.kind == "run":
            self.n_runs += code == 0
            return code == 0
        if call.kind == "register" and (code == 0 or "already in use" in said):
            node = _NODE.search(said)
            call.about.write_text(f"{call.key_hash} {node[1] if node else ''}")
            return True
        if call.kind == "unregister" and (code == 0 or "not found" in said):
            with self._cloud.removed.open("a") as removed:
                removed.write(call.key_hash + "\n")
            call.about.unlink()
            _log.warning("fog '%s' is let in no more", call.about.stem)
            return True
        return False

    def _said(self) -> str:
        with (self._cloud.logs / "flwr.log").open("rb") as log:
            log.seek(self._log_from)
            return log.read().decode(errors="replace")

    def _collecting(self) -> bool:
        handle = checkpoint.lock(self._cloud.state)
        if handle is None:
            return True
        os.close(handle)
        return False


def _hash(key: Path) -> str | None:
    return sha256_hex(key.read_bytes()) if key.is_file() else None
