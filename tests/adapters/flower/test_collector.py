"""The cloud's loop: each sum once and none lost, whatever the link loses, repeats or delays, wherever it is killed."""

import contextlib
from collections.abc import Collection, Sequence
from pathlib import Path
from random import Random

import numpy as np
import pytest
from fog_door import MemoryFog
from hypothesis import given, settings
from hypothesis import strategies as st

from evergrove.adapters.files import Files
from evergrove.adapters.flower.checkpoint import Checkpoint, CheckpointFile
from evergrove.adapters.flower.collector import Collector, Settings
from evergrove.adapters.flower.inbox import NAME, Inbox
from evergrove.adapters.flower.port import Answer, Failed, Question, Reply
from evergrove.core.errors import AgentBusy, CorruptState, Unreachable, UsageError
from evergrove.core.sums import NoisedSum, noised_sum

QUICK = Settings(wait_s=1.0, ttl_s=40.0, patience_s=8.0, rest_s=1.0, rest_s_max=4.0)


def made(fog: int, number: int) -> NoisedSum:
    values = np.array([10**fog, number], np.float32)
    return noised_sum(values, generation=1, base="b", basis="a", n_updates=2, denominator=2, noise=None, number=number)


class Killed(BaseException):
    """As `kill -9`: nobody catches it."""


class RoughLink:
    """``Fogs`` in memory over real fogs' memories: loses, repeats, delays and fails by chance; virtual time."""

    def __init__(self, fogs: dict[str, MemoryFog], chance: Random, harm: float) -> None:
        self.fogs, self.chance, self.harm = fogs, chance, harm
        self.now_s = 0.0
        self.under_way: list[tuple[float, Reply]] = []
        self.n_asked = 0
        self.away: set[str] = set()

    def online(self) -> Sequence[str]:
        self._maybe_fail()
        return [fog for fog in self.fogs if fog not in self.away]

    def ask(self, fog: str, question: Question, ttl_s: float) -> str:
        self._maybe_fail()
        self.n_asked += 1
        name = f"q{self.n_asked}"
        if self.chance.random() < self.harm:
            return name  # lost on its way, or with the SuperNode
        for id in question.acknowledge:
            self.fogs[fog].acknowledge(id)
        outcome: Answer | Failed = Answer(
            fog, question.acknowledge, tuple(self.fogs[fog].after(question.after))[: question.limit],
            tuple(self.fogs[fog].said_after(question.reports_after)),
        )  # fmt: skip
        if self.chance.random() < self.harm:
            outcome = Failed("the SuperNode went away")
        delay_s = self.chance.choice([0.0, 1.0, 30.0]) if self.harm else 0.0
        self.under_way.append((self.now_s + delay_s, Reply(name, "0", outcome)))
        return name

    def replies(self, asked: Collection[str]) -> Sequence[Reply]:
        self._maybe_fail()
        ready = [reply for at_s, reply in self.under_way if at_s <= self.now_s and reply.asked in asked]
        self.under_way = [one for one in self.under_way if one[1] not in ready]
        return [reply for reply in ready if self.chance.random() >= self.harm]  # pulled, and cut off before it arrived

    def _maybe_fail(self) -> None:
        if self.chance.random() < self.harm / 4:
            raise Unreachable("the SuperLink is away")


def run(link: RoughLink, folder: Path, files: Files, steps: int) -> None:
    """One life of the ServerApp; a ``Killed`` ends it as a kill would, with the lock let go."""
    checkpoint, inbox = CheckpointFile(folder, files), Inbox(folder / NAME)
    try:
        checkpoint.acquire()
        collector = Collector(link, inbox, checkpoint, QUICK, lambda: link.now_s)
        for _ in range(steps):
            with contextlib.suppress(Unreachable):
                collector.step()
            link.now_s += 1.0
    finally:
        inbox.close()
        checkpoint.release()


def arrived(folder: Path) -> list[tuple[str, str]]:
    inbox = Inbox(folder / NAME)
    found = [(one.fog, one.sum.id) for one in inbox.waiting(limit=10_000)]
    inbox.close()
    return found


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32), harm=st.sampled_from([0.0, 0.1, 0.4]))
def test_every_sum_once_over_a_rough_link_and_any_kill(
    tmp_path_factory: pytest.TempPathFactory, seed: int, harm: float
) -> None:
    """Conservation: what closed at the fogs is what arrived, each once, and every fog hears so."""
    folder, chance = tmp_path_factory.mktemp("cloud"), Random(seed)
    fogs = {"7": MemoryFog(), "8": MemoryFog()}
    try:
        link = RoughLink(fogs, chance, harm)
        for life in range(3):
            for index, fog in enumerate(fogs.values()):
                for number in range(2):
                    fog.close_cohort(made(index, 10 * life + number))
                    fog.say(f"{index}-{life}-{number}")
            left = chance.randrange(1, 80)

            def at(step: str, path: Path) -> None:
                nonlocal left
                left -= 1
                if left == 0:
                    raise Killed

            with contextlib.suppress(Killed):
                run(link, folder, Files(at), 15)
        link.harm = 0.0
        run(link, folder, Files(), 45)
    finally:
        for fog in fogs.values():
            fog._server.server_close()
    closed = [(name, one.id) for name, fog in fogs.items() for one in fog.closed]
    assert sorted(arrived(folder)) == sorted(closed)
    inbox = Inbox(folder / NAME)
    said = sorted(one.device for fog in fogs.values() for one in fog.reports)
    assert sorted(one.device for _, one in inbox.reports(10_000)) == said
    inbox.close()
    for fog in fogs.values():
        assert sorted(fog.acknowledged) == sorted(one.id for one in fog.closed)


@pytest.fixture
def one_fog() -> "MemoryFog":
    fog = MemoryFog()
    fog._server.server_close()  # in memory only here
    return fog


def test_a_silent_fog_does_not_hold_up_the_others(tmp_path: Path, one_fog: MemoryFog) -> None:
    """Asynchronous over fogs: the slow one is asked again after its patience, and its late answer still counts."""

    class OneSilent(RoughLink):
        def replies(self, asked: Collection[str]) -> Sequence[Reply]:
            return [one for one in super().replies(asked) if self.now_s > 12 or not one.asked.startswith("silent")]

        def ask(self, fog: str, question: Question, ttl_s: float) -> str:
            if fog != "9":
                return super().ask(fog, question, ttl_s)
            self.n_asked += 1
            if self.n_asked < 3:  # its first answer comes late
                sums = tuple(self.fogs[fog].after(question.after))
                self.under_way.append((13.0, Reply("silent1", "0", Answer(fog, (), sums))))
                return "silent1"
            return f"silent{self.n_asked}"

    slow = MemoryFog()
    slow._server.server_close()
    link = OneSilent({"9": slow, "7": one_fog}, Random(0), 0.0)
    slow.close_cohort(made(2, 0))
    for number in range(3):
        one_fog.close_cohort(made(1, number))
    run(link, tmp_path, Files(), 4)
    assert len(arrived(tmp_path)) == 3
    link.n_asked = 0
    link.under_way, link.now_s = [], 0.0
    run(link, tmp_path, Files(), 20)
    assert len(arrived(tmp_path)) == 4


def test_who_fails_rests_longer_each_time(tmp_path: Path, one_fog: MemoryFog) -> None:
    """Bounded: a fog whose SuperNode answers with errors is not asked each second."""

    class AlwaysFails(RoughLink):
        def ask(self, fog: str, question: Question, ttl_s: float) -> str:
            self.n_asked += 1
            self.under_way.append((self.now_s, Reply(f"q{self.n_asked}", "0", Failed("no such fog door"))))
            return f"q{self.n_asked}"

    link = AlwaysFails({"7": one_fog}, Random(0), 0.0)
    run(link, tmp_path, Files(), 40)
    # heard one step later; rests of 1, 2, then 4 s: 40 s hold 10 questions, not 20
    assert 8 <= link.n_asked <= 12


def test_one_run_at_a_time(tmp_path: Path) -> None:
    """A second one is refused; the lock dies with its holder."""
    first, second = CheckpointFile(tmp_path), CheckpointFile(tmp_path)
    first.acquire()
    with pytest.raises(AgentBusy, match="another run"):
        second.acquire()
    first.release()
    second.acquire()
    second.release()


def test_a_damaged_checkpoint_says_the_way_out(tmp_path: Path) -> None:
    """And following it costs nothing: the inbox knows what was taken."""
    (tmp_path / "collector.json").write_text('{"step": 1, "fogs": 3}')
    with pytest.raises(CorruptState, match="delete it"):
        CheckpointFile(tmp_path).load()
    (tmp_path / "collector.json").unlink()
    assert CheckpointFile(tmp_path).load() == Checkpoint()


def test_a_lost_checkpoint_counts_nothing_twice(tmp_path: Path, one_fog: MemoryFog) -> None:
    """The truth about what was taken is the consolidator's."""
    link = RoughLink({"7": one_fog}, Random(0), 0.0)
    one_fog.close_cohort(made(0, 1))
    run(link, tmp_path, Files(), 1)
    run(link, tmp_path, Files(), 2)
    (tmp_path / "collector.json").unlink()
    one_fog.acknowledged.clear()  # the fog lost its own memory of it too
    run(link, tmp_path, Files(), 4)
    assert len(arrived(tmp_path)) == 1
    assert one_fog.acknowledged == [made(0, 1).id]


def test_settings_that_make_no_sense_are_refused() -> None:
    """A fog may not wait longer than the cloud's patience."""
    with pytest.raises(UsageError, match="wait < patience"):
        Settings(wait_s=60.0, patience_s=30.0).check()
    with pytest.raises(UsageError, match="limit"):
        Settings(limit=1000).check()
