"""kill -9 at random instants of observe, learn and promote, in real processes.

Each life of the agent ends by SIGKILL at an instant drawn at random; the trainer gets some of the kills. What was
accepted must be there in the end, and what is served must have passed the gate.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

from evergrove.adapters.versions import Versions
from evergrove.bootstrap import Device, read_log
from evergrove.core import events as ev
from evergrove.core.errors import InvalidInput, Unreachable
from evergrove.core.rng import stream

from .conftest import new_condition, strange_pictures

LIVES = 26
"""Kills of each of the two devices: 52 in all."""
CONFIG = """
[learn]
steps = 6
batch = 4
checkpoint_every = 2
min_new = 4
attempts_max = 50
[novelty]
golden_every = 3
capacity_per_condition = 400
golden_capacity = 100
[gate]
items_min = 2
looks_max = 400
[placement]
enabled = false
[agent]
linger_s = 3.0
snapshot_every = 15
"""


@contextmanager
def killer(device: Device, after_s: float, worker: bool) -> Iterator[None]:
    """Kills the agent (or its trainer, where one runs) after a while, whatever goes on."""
    pid, status = device.agent_pid, device.status()
    if worker and status.job is not None and status.job.pid:
        pid = status.job.pid

    def strike() -> None:
        time.sleep(after_s)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=strike)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def live_and_die(make_device: Callable[..., Device], number: int) -> tuple[Device, set[str], int]:
    """Many short lives of one device; gives it with the observations that it had accepted, and the kills."""
    device = make_device(CONFIG, f"device-{number}")
    rng = stream(number, "tests", "kills")
    accepted: set[str] = set()
    pictures = iter(strange_pictures(2000, seed=number))
    served: set[str | None] = set()
    for life in range(LIVES):
        with killer(device, float(rng.uniform(0.0, 1.6)), worker=life % 5 == 4):
            end = time.monotonic() + 1.7
            while time.monotonic() < end:
                with suppress(Unreachable, InvalidInput):
                    answer = device.observe(next(pictures), new_condition())
                    accepted |= {answer.observation} if answer.kept else set()
                served.add(Versions(device.root / "versions").active().sha256)
                time.sleep(float(rng.uniform(0.0, 0.15)))
    log = [line.event for line in read_log(device.root)]
    passed = {e.adapter for e in log if isinstance(e, ev.VersionActivated)} | {None}
    assert served <= passed, "a version was served that the log does not know"
    return device, accepted, LIVES


def test_kills_lose_nothing_that_was_accepted_and_serve_nothing_unverified(make_device: Callable[..., Device]) -> None:
    """52 kills: 0 accepted observations lost, 0 unverified versions served."""
    with ThreadPoolExecutor(2) as pool:
        ends = list(pool.map(lambda n: live_and_die(make_device, n), range(2)))
    assert sum(kills for _, _, kills in ends) >= 50
    for device, accepted, _ in ends:
        assert len(accepted) > LIVES
        status = device.wait_idle(300)
        log = [line.event for line in read_log(device.root)]
        # 1. What was accepted is in the buffer: nothing was evicted (the capacity was never reached).
        lost = {e.observation for e in log if isinstance(e, ev.ObservationLost)}
        kept = {e.observation for e in log if isinstance(e, ev.ObservationKept)}
        assert accepted <= kept
        assert not accepted & lost
        held = sum(status.records.values()) + sum(status.golden.values())
        assert held == len(kept) >= len(accepted)
        # 2. What was activated had been accepted by the gate for that very candidate.
        judged: dict[str, str] = {}
        candidates: dict[str, str] = {}
        for event in log:
            match event:
                case ev.CandidateMeasured():
                    candidates[event.job] = event.candidate
                case ev.GateJudged(verdict="accept"):
                    judged[candidates[event.job]] = event.job
                case ev.VersionActivated(adapter=str() as adapter):
                    assert adapter in judged
                case _:
                    pass
        # 3. And it is whole on disk: the pointer, the log and the file agree.
        assert Versions(device.root / "versions").active()[::2] == (status.active, None)
        assert device.generate({}, seed=1).version == status.active
