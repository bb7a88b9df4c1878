"""The six devices: made, enrolled over HTTPS, shown their users, taught; each with its own agent and trainers.

This process is their apps: all that it does to them goes through ``evergrove.Device``, as any app's would.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evergrove import bootstrap
from evergrove.bootstrap import Device
from evergrove.core import events as ev
from evergrove.core.conditions import Vocabulary
from evergrove.core.errors import EvergroveError
from evergrove.core.messages import JobResult, JobState
from evergrove.demo.fleet.cast import FACTOR, Role
from evergrove.demo.fleet.grove import Grove
from evergrove.demo.fleet.script import Script

CONFIG = """# One of six on this machine; they take turns by themselves, so none of them waits for a quiet moment.
seed = {seed}

[learn]
auto = false
steps = {steps}
rate = {learn_rate!r}

[novelty]
capacity_per_condition = 60
golden_every = 4
golden_capacity = 20

[placement]
enabled = false

[fleet]
retry_s = 1.0
retry_s_max = 8.0
poll_s = 20.0

[agent]
linger_s = 30.0
"""


@dataclass
class Member:
    """One device and what was seen of it so far; ``result`` is how its own learning ended."""

    role: Role
    device: Device
    vocabulary: Vocabulary
    state: JobState | None = None
    result: JobResult | None = None
    fault: EvergroveError | None = None

    @property
    def name(self) -> str:
        """What the fleet knows it by."""
        return self.role.name

    def look(self, number: int) -> dict[str, str]:
        """Somebody that the device has met: a whole condition but for the emotion."""
        codes = self.role.shown.codes
        condition = dict(self.vocabulary.decode(tuple(int(n) for n in codes[number % len(codes)])))
        del condition[FACTOR]
        return condition

    def draw(self, emotion: str, n: int) -> list[NDArray[np.uint8]]:
        """``n`` pictures of people it has met in an emotion, by the device as it is now; always the same seeds."""
        return [self.device.generate({**self.look(i), FACTOR: emotion}, seed=i).array for i in range(n)]

    def log(self) -> list[ev.Stamped]:
        """What its log holds by now."""
        return bootstrap.read_log(self.device.root)


@contextmanager
def enrolled(grove: Grove, roles: Sequence[Role], seed: int, tell: Callable[[str], None]) -> Iterator[list[Member]]:
    """Six devices, each a member at its home fog; their agents end with the block."""
    with ExitStack() as stack:
        members = []
        for number, role in enumerate(roles):
            script, own_seed = grove.script, seed * len(roles) + number
            config = CONFIG.format(seed=own_seed, steps=script.steps, learn_rate=script.learn_rate)
            root = (grove.folder / "devices" / role.name).absolute()
            bootstrap.make_device(root, grove.release.folder, config)
            token = grove.authority(role.home).issue_token(time.time(), role.name)
            bootstrap.enrol(root, grove.url(role.home), grove.ca(role.home), token, grove.root)
            device = Device.open(root)
            stack.callback(device.close, stop_agent=True)
            members.append(Member(role, device, grove.release.manifest.vocabulary))
        tell(f"{len(members)} devices have certificates, by one-time tokens, over HTTPS")
        yield members


def observe(member: Member) -> tuple[int, int]:
    """Shows a device all that it ever sees; how much that was, and how much of it the device kept."""
    shown, kept = member.role.shown, 0
    for image, code in zip(shown.images, shown.codes, strict=True):
        kept += member.device.observe(image, member.vocabulary.decode(tuple(int(n) for n in code))).kept
    return len(shown), kept


def learn(members: Sequence[Member], script: Script, watch: Callable[[float, str], None]) -> None:
    """Every device learns what it was shown, ``at_once`` at a time. Raises the first device's error once all ended."""
    turn = threading.Semaphore(script.at_once)

    def run(member: Member) -> None:
        with turn:
            try:
                member.result = member.device.learn(progress=lambda state: setattr(member, "state", state))
            except EvergroveError as fault:
                member.fault = fault

    threads = [threading.Thread(target=run, args=(one,), name=f"learns-{one.name}", daemon=True) for one in members]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        watch(_share(members), _words(members))
        time.sleep(0.2)
    for member in members:
        if member.fault is not None:
            raise member.fault


def counted(members: Sequence[Member]) -> int:
    """How many updates their fogs have counted."""
    states = [member.device.status().fleet for member in members]
    return sum(state.n_counted for state in states if state is not None)


def running(members: Sequence[Member], release: str) -> list[Member]:
    """Those that serve this release (the manifest's SHA-256), for good."""
    found = []
    for member in members:
        active = [one.event.release for one in member.log() if isinstance(one.event, ev.ReleaseActivated)]
        if active[-1:] == [release]:
            status = member.device.status()
            if not status.on_probation and status.job is None:
                found.append(member)
    return found


def versions(root: Path) -> Path:
    """Where a device keeps the adapters that it made."""
    return root / "versions"


def _share(members: Sequence[Member]) -> float:
    done = 0.0
    for member in members:
        if member.result is not None:
            done += 1.0
        elif member.state is not None:
            state = member.state
            done += 0.75 * state.step / max(state.steps, 1) if state.stage == "train" else 0.85
    return done / len(members)


def _words(members: Sequence[Member]) -> str:
    parts = []
    for member in members:
        if member.result is None and member.state is not None:
            state = member.state
            at = f"{state.step}/{state.steps}" if state.stage == "train" else "at its golden gate"
            parts.append(f"{member.name} {at}")
    done = sum(member.result is not None for member in members)
    return ", ".join((f"{done} of {len(members)} have learnt", *parts))


def chosen(log: Sequence[ev.Stamped]) -> tuple[str, float, str] | None:
    """What a device's gate said to the fleet's release: accept or reject, with how much of its own, and in words; None:
    nothing yet."""
    found, measured = None, ""
    for line in log:
        match line.event:
            case ev.ReleaseMeasured(job=job):
                measured = job
            case ev.GateJudged(job=job, verdict=verdict, gamma=gamma, sentence=words) if job == measured:
                found = verdict, gamma, words
            case _:
                pass
    return found
