"""What an app holds, with a fake agent and a fake generator: what fails behind ``generate`` is tried again."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evergrove.core import messages as msg
from evergrove.core.conditions import Condition, Factor, Vocabulary
from evergrove.core.config import Config, Generate
from evergrove.core.errors import EvergroveError, Unreachable, UsageError
from evergrove.runtime.app import LocalDevice

WAIT_S = 20.0
HAPPY = Vocabulary((Factor("emotion", ("happy",)),))


class Agent:
    """Answers apps; ``gone`` until told otherwise, it hears no report."""

    def __init__(self) -> None:
        self.gone = False
        self.reports: list[msg.ReportFailure] = []

    def ask(self, request: msg.Request, timeout_s: float | None = None) -> msg.Reply:
        if not isinstance(request, msg.ReportFailure):
            return msg.Welcome("device", "release", HAPPY, 1)
        if self.gone:
            raise Unreachable("no agent answers")
        self.reports.append(request)
        return msg.Done()

    def close(self) -> None:
        """Hangs up."""


class Studio:
    """Makes grey pictures; what it has to say at each look for a new version is told beforehand."""

    def __init__(self, *said: str | EvergroveError | None) -> None:
        self.said = list(said)
        self.looks = 0

    def generate(
        self, condition: Condition, seed: int, steps: int | None, guidance: float | None
    ) -> tuple[Any, dict[str, str], str | None]:
        return np.zeros((2, 2, 3), np.uint8), dict(condition), None

    def refresh(self) -> str | None:
        self.looks += 1
        word = self.said.pop(0) if self.said else None
        if isinstance(word, EvergroveError):
            raise word
        return word


@pytest.fixture
def open_with(tmp_path: Path) -> Iterator[Callable[[Agent, Studio], LocalDevice]]:
    """Opens a device around the two, which looks for versions every 5 ms, and closes it."""
    opened: list[LocalDevice] = []

    def make(agent: Agent, studio: Studio) -> LocalDevice:
        opened.append(LocalDevice(tmp_path, Config(generate=Generate(poll_s=0.005)), lambda: agent, lambda: studio))
        opened[-1].generate({"emotion": "happy"})
        return opened[-1]

    yield make
    for device in opened:
        device.close()


def wait_for(there: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while not there():
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


def test_a_version_that_cannot_go_live_now_is_tried_again(open_with: Callable[[Agent, Studio], LocalDevice]) -> None:
    """A call that holds the former version for long: it must not be the last look that this app takes."""
    studio = Studio(None, EvergroveError("a call has used the former version for over 30 s"))
    open_with(Agent(), studio)
    wait_for(lambda: studio.looks >= 4)


def test_a_report_that_nobody_heard_is_made_again(open_with: Callable[[Agent, Studio], LocalDevice]) -> None:
    """The agent was away when a version failed; it hears of it when it is back, once."""
    agent, studio = Agent(), Studio(None, "c1: not finite")
    agent.gone = True
    open_with(agent, studio)
    wait_for(lambda: studio.looks >= 4)
    agent.gone = False
    wait_for(lambda: bool(agent.reports))
    before = studio.looks
    wait_for(lambda: studio.looks >= before + 3)
    assert agent.reports == [msg.ReportFailure("c1", "not finite")]


@pytest.mark.parametrize("seed", [-1, 2**63, 10**30])
def test_a_seed_that_no_generator_takes_is_refused(
    open_with: Callable[[Agent, Studio], LocalDevice], seed: int
) -> None:
    """One clear error from ``generate`` and ``stream``, not torch's own."""
    device = open_with(Agent(), Studio())
    with pytest.raises(UsageError, match="seed = "):
        device.generate({"emotion": "happy"}, seed=seed)
    with pytest.raises(UsageError, match="seed = "):
        device.stream({"emotion": "happy"}, seed=seed)
