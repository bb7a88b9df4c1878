"""The frame gate and the trainer's pace: who yields to whom, what the dead may not do, and the share of a core."""

import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from evergrove.core.errors import UsageError
from evergrove.core.telemetry import Telemetry
from evergrove.runtime import frame_gate
from evergrove.runtime.frame_gate import FrameGate, Meter, Training, path_of
from evergrove.runtime.pacing import CREDIT_S_MAX, PAUSED_S, Clock, Pace


class FakeTime:
    """A clock that moves by sleeping and working only. ``at`` calls a function once when its time has come."""

    def __init__(self) -> None:
        self.now_s, self.cpu_s = 1000.0, 0.0
        self._due: list[tuple[float, Callable[[], None]]] = []

    def at(self, when_s: float, do: Callable[[], None]) -> None:
        self._due.append((when_s, do))

    def sleep(self, seconds: float) -> None:
        end_s = self.now_s + seconds
        for due in sorted((due for due in self._due if due[0] <= end_s), key=lambda due: due[0]):
            self._due.remove(due)
            self.now_s = max(self.now_s, due[0])
            due[1]()
        self.now_s = max(self.now_s, end_s)

    def work(self, seconds: float) -> None:
        self.cpu_s += seconds
        self.sleep(seconds)

    def clock(self) -> Clock:
        return Clock(lambda: self.now_s, lambda: self.cpu_s, self.sleep)


@pytest.fixture
def fake() -> FakeTime:
    """A clock in the test's hand."""
    return FakeTime()


@pytest.fixture
def gate(tmp_path: Path, fake: FakeTime) -> FrameGate:
    """A gate in the test's own folder, on the fake clock."""
    return FrameGate(tmp_path / "gate", lambda: fake.now_s)


def a_dead_pid() -> int:
    """The number of a process that has ended."""
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


# The file


def test_two_processes_see_the_same_gate(tmp_path: Path) -> None:
    """What another process announces is read here, and what is set here is read there."""
    gate = FrameGate(tmp_path / "gate")
    gate.set_share(0.25)
    code = (
        "import sys; from pathlib import Path; from evergrove.runtime.frame_gate import FrameGate\n"
        "gate = FrameGate(Path(sys.argv[1])); app = gate.app()\n"
        "app.begin(); app.end(0.1, True, 0.15); app.begin(); app.end(0.1, False, 0.05); print(gate.share)"
    )
    said = subprocess.run([sys.executable, "-c", code, tmp_path / "gate"], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "0.25"
    frames = gate.frames()
    assert (frames.served, frames.late, frames.n) == (2, 1, 2)
    assert frames.p99_ratio == pytest.approx(1.5, rel=0.02)


def test_the_gate_is_private_and_a_link_is_not_followed(tmp_path: Path) -> None:
    """Mode 0600; somebody else's file behind a link is never written to."""
    FrameGate(tmp_path / "gate")
    assert stat.S_IMODE((tmp_path / "gate").stat().st_mode) == 0o600
    (tmp_path / "letter").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "letter")
    with pytest.raises(OSError, match="link"):
        FrameGate(tmp_path / "link")
    assert (tmp_path / "letter").read_text() == "mine"


@pytest.mark.parametrize("data", [b"x", b"\0" * 8 * frame_gate.N_WORDS, b"\xff" * 8 * frame_gate.N_WORDS])
def test_a_file_that_is_no_gate_is_replaced_and_never_cut_short(tmp_path: Path, data: bytes) -> None:
    """Short, empty of meaning, or of another version: a new file takes the name, the old one keeps its bytes."""
    path = tmp_path / "gate"
    path.write_bytes(data)
    with path.open("rb") as old:
        gate = FrameGate(path)
        assert gate.share == 1.0
        assert old.read() == data


def test_a_device_has_one_place_for_its_gate(tmp_path: Path) -> None:
    """Two ways to name a folder are one gate; two folders are two."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert path_of(tmp_path / "a") == path_of(tmp_path / "b")
    assert path_of(tmp_path / "a") != path_of(tmp_path / "c")


def test_the_last_agent_takes_the_file_along_unless_an_app_is_there(tmp_path: Path) -> None:
    """``close(remove=True)`` with an app: stays; without: gone; a slot in a gate that is gone is refused."""
    gate = FrameGate(tmp_path / "gate")
    app = gate.app()
    assert app is not None
    FrameGate(tmp_path / "gate").close(remove=True)
    assert (tmp_path / "gate").exists()
    app.close()
    FrameGate(tmp_path / "gate").close(remove=True)
    assert not (tmp_path / "gate").exists()
    with pytest.raises(FileNotFoundError):
        gate.app()
    other = FrameGate(tmp_path / "gate")
    with pytest.raises(FileNotFoundError):
        gate.app()  # there is a gate again, but another one than this process has mapped
    assert other.app() is not None
    gate.close()
    gate.close()


# Shares and statistics


def test_only_the_five_shares_are_taken(gate: FrameGate) -> None:
    """0, ¼, ½, ¾ and 1; any other number is an error, and a damaged word counts as 0."""
    for share in frame_gate.SHARES:
        gate.set_share(share)
        assert gate.share == share
    with pytest.raises(UsageError, match=r"one of 0, 0\.25"):
        gate.set_share(0.3)
    gate._f[frame_gate._SHARE] = float("nan")
    assert gate.share == 0.0


def test_frames_count_over_all_apps_and_outlive_them(gate: FrameGate, fake: FakeTime) -> None:
    """Two apps, one leaves: counters stay and a new app in the same place goes on counting."""
    one, two = gate.app(), gate.app()
    assert one is not None
    assert two is not None
    for app, late in ((one, True), (two, False)):
        app.begin()
        fake.work(0.01)
        app.end(0.1, late, 0.01)
    one.close()
    again = gate.app()
    assert again is not None
    again.begin()
    again.end()  # no schedule: served, and neither late nor in the p99
    assert gate.frames()[:2] == (3, 1)
    assert gate.frames().n == 2


def test_the_p99_is_of_the_last_half_minute_and_zero_without_frames(gate: FrameGate, fake: FakeTime) -> None:
    """199 frames at half the budget and one at double: p99 is between; half a minute later nothing is left to judge."""
    assert gate.frames().p99_ratio == 0.0
    app = gate.app()
    assert app is not None
    for n in range(100):
        app.begin()
        app.end(0.1, n == 0, 0.2 if n < 2 else 0.05)
    fake.sleep(2.0)
    frames = gate.frames()
    assert frames.p99_ratio == pytest.approx(2.0, abs=0.02)
    assert frames.age_s == pytest.approx(2.0)
    fake.sleep(frame_gate.RECENT_S)
    assert gate.frames() == (100, 1, 0.0, 0, 0.0)


def test_the_ring_keeps_the_latest(gate: FrameGate) -> None:
    """After a whole turn nothing of the older frames is left in the p99."""
    app = gate.app()
    assert app is not None
    for _ in range(10):
        app.end(1.0, True, 9.0)
    for _ in range(frame_gate.RING):
        app.end(1.0, False, 0.5)
    assert gate.frames().p99_ratio == 0.5
    assert gate.frames().n == frame_gate.RING


def test_there_are_sixteen_places_and_a_dead_app_gives_its_own_back(gate: FrameGate) -> None:
    """The seventeenth app goes unannounced; the place of a process that is gone is taken."""
    apps = [gate.app() for _ in range(frame_gate.SLOTS)]
    assert None not in apps
    assert gate.app() is None
    gate._i[frame_gate._FIRST + frame_gate._OWNER] = a_dead_pid()
    assert gate.app() is not None


def test_a_reading_is_completed_with_frames_and_the_share_that_was_used(gate: FrameGate, fake: FakeTime) -> None:
    """Half a second of CPU time in two seconds is a share of .25; a trainer that is gone uses none."""
    meter = Meter(gate)
    assert meter.complete(Telemetry()).train_share.value == 0.0  # type: ignore[union-attr]
    gate.report(Training(os.getpid(), fake.now_s, 1.0, 0, 0, 0, 0))
    meter.complete(Telemetry())
    fake.sleep(2.0)
    gate.report(Training(os.getpid(), fake.now_s, 1.5, 0, 0, 0, 0))
    app = gate.app()
    assert app is not None
    app.end(0.1, True, 0.2)
    reading = meter.complete(Telemetry(n_cores=4))
    assert reading.n_cores == 4
    values = (reading.train_share, reading.frame_p99_ratio, reading.frames_served, reading.frames_late)
    assert [value.value for value in values if value is not None] == [0.25, 2.0, 1.0, 1.0]
    gate.report(Training(a_dead_pid(), fake.now_s, 9.0, 0, 0, 0, 0))
    assert gate.training() is None
    assert meter.train_share() == 0.0


# Yielding


def test_the_moment_says_who_makes_frames_and_when_the_next_begins(gate: FrameGate, fake: FakeTime) -> None:
    """Nobody; a frame under way; the slack between two; nobody again after the stream's end."""
    assert gate.moment() == (0, 0, float("inf"))
    app = gate.app(threads=2)
    assert app is not None
    assert gate.moment().threads == 0
    app.begin()
    assert gate.moment() == (2, 1, 0.0)
    fake.sleep(0.02)
    app.schedule(fake.now_s + 0.013, 0.033)
    app.end(0.033, False, 0.02)
    assert gate.moment() == (2, 0, pytest.approx(0.013))
    fake.sleep(0.02)
    assert gate.moment() == (2, 0, 0.0)  # due, and a little behind
    app.close()
    assert gate.moment() == (0, 0, float("inf"))


def test_threads_of_one_app_are_one_frame_until_the_last_has_ended(gate: FrameGate) -> None:
    """Two overlapping calls of ``generate``: calm only after both."""
    app = gate.app()
    assert app is not None
    app.begin()
    app.begin()
    app.end()
    assert gate.moment().making == 1
    app.end()
    assert gate.moment().making == 0


@pytest.mark.parametrize("streams", [True, False])
def test_an_app_killed_within_a_frame_is_waited_for_no_longer_than_its_limits(
    gate: FrameGate, fake: FakeTime, streams: bool
) -> None:
    """A frame without an end counts for a second at most, a schedule for two periods; a dead process for nothing."""
    app = gate.app()
    assert app is not None
    if streams:
        app.schedule(fake.now_s + 0.03, 0.03)
    app.begin()
    assert gate.moment().making == 1
    fake.sleep(frame_gate.FRAME_S_MAX + 0.01)
    assert gate.moment() == (0, 0, float("inf"))
    app.begin()
    gate._i[frame_gate._FIRST + frame_gate._OWNER] = a_dead_pid()
    assert gate.moment() == (0, 0, float("inf"))


def test_words_of_another_boot_or_a_damaged_file_block_nobody(gate: FrameGate, fake: FakeTime) -> None:
    """Times from the future, infinities and NaN in a slot of a living process count as not there."""
    app = gate.app()
    assert app is not None
    words, first = gate._f, frame_gate._FIRST
    for began_s, next_s, period_s in (
        (fake.now_s + 1e6, fake.now_s + 1e6, 0.03),
        (float("nan"), float("nan"), float("nan")),
        (float("inf"), float("inf"), float("inf")),
        (-1e9, -1e9, 0.03),
    ):
        words[first + frame_gate._BEGAN], words[first + frame_gate._ENDED] = began_s, 0.0
        words[first + frame_gate._NEXT], words[first + frame_gate._PERIOD] = next_s, period_s
        assert gate.moment() == (0, 0, float("inf"))


# The trainer's pace


def paced(gate: FrameGate, fake: FakeTime, cores: int = 1, yields: bool = True, piece_s: float = 0.002) -> Pace:
    """A pace that knows that a piece of one row takes ``piece_s`` and one of n rows n times that."""
    pace = Pace(gate, cores, yields, clock=fake.clock())
    assert pace.micro_batch(1) == 1
    fake.work(piece_s)
    pace.within()
    return pace


def test_without_apps_everything_runs_at_once(gate: FrameGate, fake: FakeTime) -> None:
    """A whole batch, and not a moment of waiting."""
    pace = paced(gate, fake)
    before_s = fake.now_s
    assert pace.micro_batch(16) == 16
    assert fake.now_s == before_s


def test_where_a_core_is_left_frames_do_not_hold_training_up(gate: FrameGate, fake: FakeTime) -> None:
    """One app of one thread on two cores: the trainer has the other; an app of two threads leaves none."""
    app = gate.app(threads=1)
    assert app is not None
    pace = paced(gate, fake, cores=2)
    app.begin()
    before_s = fake.now_s
    assert pace.micro_batch(16) == 16
    assert fake.now_s == before_s
    app.end()
    app.close()
    wide = gate.app(threads=2)
    assert wide is not None
    wide.begin()
    fake.at(fake.now_s + 0.02, wide.end)
    pace.micro_batch(16)
    assert fake.now_s >= before_s + 0.02


def test_on_a_shared_core_it_waits_for_the_end_of_the_frame(gate: FrameGate, fake: FakeTime) -> None:
    """It goes on within a look after the frame, and not before."""
    app = gate.app()
    assert app is not None
    pace = paced(gate, fake)
    app.begin()
    end_s = fake.now_s + 0.025
    fake.at(end_s, app.end)
    pace.within()
    assert end_s <= fake.now_s <= end_s + 0.001


class Stage:
    """A stream on the fake clock: 20 ms frames, 33 ms apart, and a record of what the trainer did meanwhile."""

    def __init__(self, gate: FrameGate, fake: FakeTime, period_s: float = 0.033, frame_s: float = 0.02) -> None:
        app = gate.app()
        assert app is not None
        self.app, self.fake, self.period_s, self.frame_s = app, fake, period_s, frame_s
        self.begin(fake.now_s)

    def begin(self, at_s: float) -> None:
        self.app.begin()
        self.fake.at(at_s + self.frame_s, lambda: self.end(at_s))

    def end(self, at_s: float) -> None:
        self.app.schedule(at_s + self.period_s, self.period_s)
        self.app.end(self.period_s, False, self.frame_s)
        self.fake.at(at_s + self.period_s, lambda: self.begin(at_s + self.period_s))


@pytest.mark.parametrize(("piece_s", "rows"), [(0.001, 4), (0.002, 2), (0.004, 1)])
def test_micro_batches_are_sized_so_that_no_piece_outlasts_the_slack(
    gate: FrameGate, fake: FakeTime, piece_s: float, rows: int
) -> None:
    """Slack 13 ms: pieces of 1 ms a row in micro-batches of 4 rows, of 2 ms in 2; none ends within a frame."""
    pace = paced(gate, fake, yields=False, piece_s=piece_s)
    Stage(gate, fake)
    sizes = set()
    for n in range(60):
        taken = pace.micro_batch(16)
        sizes |= {taken} if n > 10 else set()
        for _ in range(4):
            assert gate.moment().making == 0
            assert gate.moment().slack_s >= piece_s * taken
            fake.work(piece_s * taken)
            pace.within()
    assert sizes == {rows}
    training = gate.training()
    assert training is not None
    assert (training.overruns, training.starved) == (0, 0)


def test_a_long_first_piece_does_not_keep_the_short_ones_after_it_out_of_a_slack(
    gate: FrameGate, fake: FakeTime
) -> None:
    """Slack 13 ms, a first piece of 6 and eight of 2: at most 2 ms of a slack, or 6 before a first piece, stay unused.

    Were every piece taken to be as long as the longest, none would start in the last 6 ms of a slack.
    """
    pace = Pace(gate, 1, False, clock=fake.clock())
    Stage(gate, fake)
    started: list[float] = []
    for n in range(80):
        assert pace.micro_batch(1) == 1
        for piece_s in (0.006, *[0.002] * 8):
            assert gate.moment().making == 0
            if n > 20:
                assert gate.moment().slack_s >= piece_s
                started += [gate.moment().slack_s] if piece_s == 0.002 else []
            fake.work(piece_s)
            pace.within()
    assert min(started) < 0.004
    training = gate.training()
    assert training is not None
    assert training.starved == 0


@pytest.mark.parametrize(("piece_s", "rows"), [(0.001, 8), (0.002, 4), (0.004, 2)])
def test_where_the_system_yields_every_gap_is_used_to_its_end(
    gate: FrameGate, fake: FakeTime, piece_s: float, rows: int
) -> None:
    """Slack 13 ms: a piece fits into one gap, starts in what is left of any gap and never within a frame."""
    pace = paced(gate, fake, piece_s=piece_s)
    Stage(gate, fake)
    sizes, started = set(), []
    for n in range(60):
        taken = pace.micro_batch(16)
        sizes |= {taken} if n > 10 else set()
        for _ in range(4):
            moment = gate.moment()
            assert moment.making == 0
            started.append(moment.slack_s)
            fake.work(piece_s * taken)
            pace.within()
    assert sizes == {rows}
    assert min(started) < piece_s * rows
    training = gate.training()
    assert training is not None
    assert training.overruns > 0
    assert training.starved == 0


def test_a_piece_longer_than_any_slack_runs_only_where_the_system_yields(gate: FrameGate, fake: FakeTime) -> None:
    """In the idle class it starts between two frames; without it, it waits for the end of the stream."""
    yielding = paced(gate, fake, piece_s=0.02)
    Stage(gate, fake)
    before_s = fake.now_s
    assert yielding.micro_batch(4) == 1
    assert gate.moment().making == 0
    assert fake.now_s < before_s + 0.04
    strict = Pace(gate, 1, False, alive=lambda: fake.now_s < before_s + 5.0, clock=fake.clock())
    strict._pieces = dict(yielding._pieces)
    assert strict.micro_batch(4) == 0
    assert fake.now_s >= before_s + 5.0
    training = gate.training()
    assert training is not None
    assert training.starved == 1


def test_an_agent_that_is_gone_ends_all_waiting(gate: FrameGate, fake: FakeTime) -> None:
    """At a share of 0, the trainer waits only as long as there is somebody who could raise it."""
    gate.set_share(0.0)
    end_s = fake.now_s + 1.0
    pace = Pace(gate, 2, True, alive=lambda: fake.now_s < end_s, clock=fake.clock())
    assert pace.micro_batch(8) == 0
    assert fake.now_s == pytest.approx(end_s, abs=PAUSED_S)


def test_a_share_of_zero_pauses_in_place_and_goes_on(gate: FrameGate, fake: FakeTime) -> None:
    """Paused in the middle of a micro-batch, it goes on there once the share is back, and is seen to live meanwhile."""
    pace = paced(gate, fake)
    gate.set_share(0.0)
    back_s = fake.now_s + 60.0
    fake.at(back_s, lambda: gate.set_share(1.0))
    pace.within()
    assert back_s <= fake.now_s <= back_s + PAUSED_S
    assert gate.training() is not None


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75, 1.0])
def test_the_share_is_kept_over_time(gate: FrameGate, fake: FakeTime, share: float) -> None:
    """Twenty seconds of pieces of 3 ms: the CPU time used is the share of the time, within the credit."""
    gate.set_share(share)
    pace = Pace(gate, 2, True, clock=fake.clock())
    start_s = fake.now_s
    while fake.now_s < start_s + 20.0:
        pace.within()
        fake.work(0.003)
    assert fake.cpu_s == pytest.approx(share * (fake.now_s - start_s), abs=0.05)


def test_what_was_missed_is_caught_up_only_a_little(gate: FrameGate, fake: FakeTime) -> None:
    """After a minute's wait for somebody else, a quarter of a second may be caught up, not fifteen."""
    gate.set_share(0.25)
    pace = Pace(gate, 2, True, clock=fake.clock())
    fake.sleep(60.0)
    start_s = fake.now_s
    while fake.now_s < start_s + 4.0:
        pace.within()
        fake.work(0.003)
    assert fake.cpu_s == pytest.approx(0.25 * 4.0 + CREDIT_S_MAX, abs=0.05)


TRAINER = """
import sys, time
from pathlib import Path
from evergrove.runtime.frame_gate import FrameGate
from evergrove.runtime.pacing import Pace
pace, end_s = Pace(FrameGate(Path(sys.argv[1])), 2, True), time.monotonic() + float(sys.argv[2])
while time.monotonic() < end_s:
    pace.within()
    until_s = time.process_time() + 0.004
    while time.process_time() < until_s:
        pass
"""


def test_a_real_process_keeps_the_share(tmp_path: Path) -> None:
    """By its own CPU clock: a trainer at d = .25 never uses more than that, and on a free machine about that."""
    gate = FrameGate(tmp_path / "gate")
    gate.set_share(0.25)
    with subprocess.Popen([sys.executable, "-c", TRAINER, tmp_path / "gate", "3"]) as trainer:
        while gate.training() is None:
            time.sleep(0.01)
            assert trainer.poll() is None
        first = gate.training()
        trainer.wait()
        last = Training(gate._i[frame_gate._PID], gate._f[frame_gate._ALIVE], gate._f[frame_gate._CPU], 0, 0, 0, 0)
    assert first is not None
    used = (last.cpu_s - first.cpu_s) / (last.at_s - first.at_s)
    assert used <= 0.30
    assert last.cpu_s > 0.0
