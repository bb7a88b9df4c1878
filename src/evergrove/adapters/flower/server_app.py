"""The cloud's ServerApp: collects cohorts' noised sums from all fogs into the inbox, for as long as its run lives.

Run configuration: ``state``, a folder (made if it is not there) for checkpoint, lock and inbox; ``wait-s``, ``ttl-s``,
``patience-s``, ``poll-s``; ``sums-max``, after how many sums the run ends (0: never). Killed at any instant, the next
run goes on where this one was. It never waits for the slowest fog.
"""

import logging
import logging.handlers
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from evergrove.adapters.flower import inbox
from evergrove.adapters.flower.checkpoint import CheckpointFile
from evergrove.adapters.flower.collector import Collector, Settings
from evergrove.adapters.flower.link import FlowerFogs
from evergrove.core.errors import AgentBusy, ConfigError, Unreachable

LOG, LOG_BYTES_MAX = "collector.log", 4 << 20
LOCK_WAIT_S = 30.0
FAILURES_MAX = 5
"""Steps in a row that may fail; then the run ends with the error, and whoever started it starts it anew."""
_log = logging.getLogger(__name__)

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Collects until the run is stopped, or until ``sums-max`` sums are there."""
    words = context.run_config
    folder = Path(str(words.get("state", ""))).expanduser()
    if not words.get("state") or not folder.is_absolute():
        raise ConfigError("where to keep the sums? Add --run-config 'state=\"/an/absolute/folder\"'")
    settings, poll_s = settings_of(words), max(_number(words, "poll-s", 1.0), 0.05)
    checkpoint = CheckpointFile(folder)
    _acquire(checkpoint)
    _log_to(folder / LOG)
    sums = inbox.Inbox(folder / inbox.NAME)
    try:
        collect(Collector(FlowerFogs(grid), sums, checkpoint, settings), int(_number(words, "sums-max", 0)), poll_s)
    finally:
        sums.close()
        checkpoint.release()


def collect(collector: Collector, sums_max: int, poll_s: float) -> None:
    """Steps until ``sums_max`` (0: for ever). Raises ``Unreachable`` after ``FAILURES_MAX`` failed steps in a row."""
    failures = n = 0
    while not sums_max or n < sums_max:
        try:
            n += collector.step()
            failures = 0
        except Unreachable as fault:
            failures += 1
            _log.warning("%s (%d of %d)", fault, failures, FAILURES_MAX)
            if failures == FAILURES_MAX:
                raise
        time.sleep(poll_s)


def settings_of(words: Mapping[str, object]) -> Settings:
    """How to ask, from a run's configuration. Raises ``ConfigError`` and ``UsageError``."""
    usual = Settings()
    settings = Settings(
        wait_s=_number(words, "wait-s", usual.wait_s),
        ttl_s=_number(words, "ttl-s", usual.ttl_s),
        patience_s=_number(words, "patience-s", usual.patience_s),
    )
    settings.check()
    return settings


def _number(words: Mapping[str, object], key: str, usual: float) -> float:
    value = words.get(key, usual)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{key} = {value!r} in the run's configuration; say a number")
    return float(value)


def _log_to(path: Path) -> None:
    """A SuperExec throws a ServerApp's output away, so what we say goes to a file too."""
    handlers: list[logging.Handler] = [
        logging.StreamHandler(sys.stderr),
        logging.handlers.RotatingFileHandler(path, maxBytes=LOG_BYTES_MAX, backupCount=1, encoding="utf-8"),
    ]
    logging.basicConfig(handlers=handlers, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)


def _acquire(checkpoint: CheckpointFile) -> None:
    """Takes the folder, waiting a little for a run before this one that is just ending."""
    until_s = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            checkpoint.acquire()
            return
        except AgentBusy:
            if time.monotonic() > until_s:
                raise
        time.sleep(0.5)
