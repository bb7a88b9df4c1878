"""Flower's own command line, called while a cloud runs: fogs are registered, and one run of our app is kept alive."""

import json
import logging
import os
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
IN_USE = "Public key already in use"
"""What Flower says of a key that it has: registered before a crash, and not marked."""
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
    """Registers fogs as their keys appear, and keeps one run of our app alive, by Flower's own command line.

    A mark beside a key holds its hash. Whether a run lives is told by the lock that its ServerApp holds, which dies
    with it; asking Flower would take a process each time, and it believes in a dead run for a minute. What fails is
    tried again, less and less often, and waits longest, so that it holds up nothing else.

    A fog whose key is taken away stays registered here: the door before the SuperLink lets it in no more
    (``web/fleet_door``).
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
        self.n_runs = 0

    def tick(self, now_s: float) -> None:
        """Follows the call under way, or starts the next one that is due."""
        if self._running is not None:
            self._follow(now_s)
            return
        next_s = {call: self._next_s.get(call.about, 0.0) for call in (*self._welcomes(), *self._runs())}
        due = [call for call, at_s in next_s.items() if now_s >= at_s]
        if due:
            self._begin(min(due, key=next_s.__getitem__), now_s)

    def end(self) -> None:
        """Ends a call that is under way."""
        if self._running is not None:
            end_group(self._running.pid, signal.SIGKILL)
            self._running.wait()

    def _welcomes(self) -> Iterator[_Call]:
        """For keys that have no mark, or that of another key."""
        for key in sorted(self._cloud.fogs.glob("*.pub")):
            try:
                mark, found = key.with_suffix(".registered"), sha256_hex(key.read_bytes())
                known = mark.read_bytes() if mark.exists() else b""
            except OSError:  # taken away this moment, or not ours to read
                continue
            if known != found.encode():
                yield _Call(mark, ("supernode", "register", str(key), CONNECTION, "--name", key.stem), found)

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
        if code == 0 or IN_USE in said:
            call.about.write_text(call.key_hash)
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
