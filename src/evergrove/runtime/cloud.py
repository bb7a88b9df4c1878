"""The cloud at work: folds its log, takes the fogs' sums and the devices' words, and sees its orders carried out.

One ``tick`` under the folder's lock: what others have logged → sums from the inbox, each counted once → what devices
say of a release → what a worker left → what time asks for → what is ordered now. Orders are read off the state, never
remembered: so a kill at any instant, and a person's command in between, are made up for by the next tick.
``python -m evergrove.runtime.cloud FOLDER`` is the process.
"""

import logging
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self, assert_never

from evergrove import __version__
from evergrove.adapters.files import Files
from evergrove.adapters.flower.inbox import Inbox
from evergrove.adapters.release import open_release
from evergrove.core import cloud_effects as do
from evergrove.core import cloud_events as ev
from evergrove.core.cloud_jobs import (
    CloudFailed,
    CloudJob,
    CloudOutcome,
    ConsolidateJob,
    FleetMeasure,
    Made,
    MeasureJob,
    MergeJob,
)
from evergrove.core.errors import AgentBusy, EvergroveError
from evergrove.rules import fleet_sums, params
from evergrove.rules.privacy import books
from evergrove.runtime import cloud_candidate, cloud_golden, cloud_reports
from evergrove.runtime.cloud_workers import Processes, Running, Workers, outcome_in, prepare
from evergrove.runtime.rollouts import Rollouts, held
from evergrove.tiers import cloud as tier

DRIVER_LOCK, LOCK_WAIT_S = ".driver.lock", 30.0
SUMS_AT_ONCE = 64
_log = logging.getLogger("evergrove.cloud")
Order = do.Consolidate | do.MeasureFleet | do.MergeGeneration


class CloudDriver:
    """The driver of one cloud's folder; a second one is refused. Use it in a ``with``."""

    def __init__(
        self, folder: Path, now_s: Callable[[], float], files: Files | None = None, workers: Workers | None = None
    ) -> None:
        """Raises ``UsageError`` where there is no repository, ``AgentBusy`` where another one drives it."""
        self.folder, self._now_s, self._files = folder, now_s, files or Files()
        self._workers = workers or Processes()
        self._running: tuple[Order, Running] | None = None
        self._lock = held(folder, lock=DRIVER_LOCK)
        self._swept: tier.State | None = None
        self._layout: tuple[str, params.Layout] | None = None
        self._said = ""

    def __enter__(self) -> Self:
        self._lock.__enter__()
        try:
            with held(self.folder, LOCK_WAIT_S):
                self._rollouts = Rollouts(self.folder, self._files)
                self._store = self._rollouts.files
                self._files.make_folder(self._store.inbox.parent)
                self._inbox = Inbox(self._store.inbox, self._files)
                self._rollouts.feed(ev.CloudStarted(__version__), self._now_s())
                self._mind_golden()
        except BaseException:
            self._lock.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, at: TracebackType | None) -> None:
        if self._running is not None:
            self._running[1].stop()
        self._inbox.close()
        self._rollouts.close()
        self._lock.__exit__(None, None, None)

    @property
    def state(self) -> tier.State:
        """The cloud as it stands, as far as this process has read."""
        return self._rollouts.cloud

    @property
    def tick_s(self) -> float:
        """Seconds between two ticks."""
        return self._rollouts.settings.work.tick_s

    def tick(self) -> None:
        """Everything that can be done now. Where somebody else has the folder, it waits for the next time."""
        try:
            with held(self.folder, LOCK_WAIT_S):
                self._rollouts.catch_up()
                self._take_sums()
                cloud_reports.take(self._rollouts, self._inbox, self._now_s())
                self._heed_worker()
                self._rollouts.tick(self._now_s())
                self._carry_out()
                self._sweep()
            self._said = ""
        except AgentBusy:
            return
        except EvergroveError as fault:  # a full disk, a missing key: said once, and tried again
            if str(fault) != self._said:
                self._said = str(fault)
                _log.error("%s", fault)

    # ---- sums ------------------------------------------------------------------------------------------------------

    def _take_sums(self) -> None:
        """Durable here first, then counted in the log, then dropped from the inbox: after a kill, nothing twice."""
        while self.state.release:
            arrivals = self._inbox.waiting(limit=SUMS_AT_ONCE)
            for arrival in arrivals:
                cohort = fleet_sums.cohort_of(arrival.fog, arrival.sum)
                why = ""
                if cohort.generation == self.state.generation:
                    why = fleet_sums.refusal(arrival.sum, self._layout_of(self.state.release), self._rollouts.gather())
                    why = why or books.refusal(self.state.books, arrival.fog, arrival.sum)
                if why:
                    effects = self._rollouts.feed(ev.CohortRefused(cohort, why), self._now_s())
                else:
                    self._store.keep_sum(arrival.sum)
                    effects = self._rollouts.feed(ev.CohortReceived(cohort, arrival.sum.noise), self._now_s())
                (answer,) = (effect for effect in effects if isinstance(effect, do.AnswerFog))
                if answer.outcome == "later":
                    return
                if answer.outcome == "never":
                    _log.warning("sum %s of fog %s is not counted: %s", cohort.id, cohort.fog, answer.reason)
                self._inbox.counted(arrival.position)
            if len(arrivals) < SUMS_AT_ONCE:
                return

    def _layout_of(self, release: str) -> params.Layout:
        if self._layout is None or self._layout[0] != release:
            opened = open_release(self._unpacked(release))
            manifest = opened.manifest
            layout = params.layout_of(manifest, opened.read(manifest.base), opened.read(manifest.basis))
            self._layout = (release, layout)
        return self._layout[1]

    def _mind_golden(self) -> None:
        """The fleet's golden set may have come, gone or changed since the last start: what the gate asks follows it."""
        if not self.state.release:
            return
        asked = cloud_golden.asked(open_release(self._unpacked(self.state.release)), self._store.golden)
        if (asked.conditions, asked.learning, asked.teacher) != (
            self.state.conditions,
            self.state.learning,
            self.state.teacher,
        ):
            self._rollouts.feed(asked, self._now_s())
        if self._rollouts.settings.gate.needs_gain and not asked.learning:
            _log.warning(
                "no %s: nothing can show a gain, so no candidate will pass; put held-back pictures of what the fleet "
                "learns there, or set gate.needs_gain = false", self.folder / "fleet-golden.npz",
            )  # fmt: skip

    # ---- orders ----------------------------------------------------------------------------------------------------

    def _heed_worker(self) -> None:
        """What the worker left becomes a fact."""
        if self._running is None:
            return
        order, running = self._running
        ended = running.ended()
        if ended is None:
            return
        self._running = None
        outcome = outcome_in(self._store.work(order.job))
        self._hear(order, ended if outcome is None else outcome)

    def _hear(self, order: Order, outcome: CloudOutcome | str) -> None:
        if isinstance(outcome, FleetMeasure):
            cloud_candidate.note(self._store, order.job, outcome)
        self._rollouts.feed(fact_of(order, outcome), self._now_s())

    def _carry_out(self) -> None:
        """Brings about what the state asks for; asked again, nothing is done twice."""
        while True:
            asked = tier.under_way(self.state)
            if self._running is not None and self._running[0] != asked:
                self._running[1].stop()
                self._running = None
            match asked:
                case do.Consolidate() | do.MeasureFleet() | do.MergeGeneration():
                    if self._running is not None:
                        return
                    folder = self._store.work(asked.job)
                    prepare(folder, self._job_of(asked), self._files)
                    done = outcome_in(folder)  # of a worker that ended when the driver before this one was killed
                    if done is None:
                        threads = self._rollouts.settings.work.threads
                        self._running = (asked, self._workers.start(folder, threads))
                        return
                    self._hear(asked, done)
                case do.SignRelease():
                    cloud_candidate.make_up(self._rollouts, asked, self._unpacked(asked.parent))
                    return
                case do.StartRollout():
                    fact = self._rollouts.planned(asked.release, asked.version, self._rollouts.known_devices())
                    self._rollouts.order(fact, self._now_s())
                case _:
                    return

    def _job_of(self, order: Order) -> CloudJob:
        cloud, settings = str(self.folder), self._rollouts.settings
        release = str(self._unpacked(order.release))
        match order:
            case do.Consolidate():
                return ConsolidateJob(cloud, release, order.cohorts, order.server, settings)
            case do.MeasureFleet():
                golden = self._store.golden
                first = str(self._unpacked(first_of(self.state)))
                return MeasureJob(
                    cloud, release, first, order.candidate, order.gamma, None if golden is None else str(golden),
                    self._merging, settings,
                )  # fmt: skip
            case do.MergeGeneration():
                return MergeJob(cloud, release, settings)
            case _:
                assert_never(order)

    @property
    def _merging(self) -> bool:
        return self.state.work is not None and self.state.work.purpose == "merge"

    def _unpacked(self, release: str) -> Path:
        return self._store.unpacked(release, self._rollouts.repository.folder / "targets")

    def _sweep(self) -> None:
        """What belongs to nothing any more goes, whenever something has changed."""
        state = self.state
        if state is self._swept:
            return
        work = state.work
        cohorts = (*state.waiting, *(work.cohorts if work else ()))
        servers = {line.server for line in state.lines.values() if line.server}
        releases = {state.release, first_of(state)}
        self._store.sweep(work.job if work else None, {c.digest for c in cohorts}, servers, releases)
        self._swept = state


def first_of(state: tier.State) -> str:
    """The first release of the generation that went everywhere: what all candidates together may not harm."""
    line = (done.release for done in state.rollout.lineage)
    same = (name for name in line if name in state.lines and state.lines[name].generation == state.generation)
    return next(same, state.release)


def fact_of(order: Order, outcome: CloudOutcome | str) -> ev.CloudEvent:
    """What an outcome, or how a worker ended without one, means for the log."""
    match outcome:
        case str():
            return ev.WorkInterrupted(order.job, outcome)
        case CloudFailed():
            return ev.WorkFailed(order.job, outcome.reason)
        case Made():
            for note in outcome.notes:
                _log.warning("%s: %s", order.job, note)
            return ev.CandidateMade(order.job, outcome.candidate, outcome.server, outcome.seconds)
        case FleetMeasure():
            assert isinstance(order, do.MeasureFleet), "only a measuring job measures"
            return ev.FleetMeasured(
                order.job, order.candidate, order.gamma, outcome.comparisons, outcome.probes, outcome.seconds
            )
        case _:
            assert_never(outcome)


def main(arguments: list[str]) -> int:
    """The process: ticks until it is told to stop."""
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        with CloudDriver(Path(arguments[0]).absolute(), time.time) as driver:
            while not stop.is_set():
                driver.tick()
                stop.wait(driver.tick_s)
    except EvergroveError as fault:
        _log.error("%s", fault)
        return fault.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
