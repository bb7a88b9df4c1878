"""The agent: the one process that owns a device. It answers apps, drives the reducer, starts workers; no torch here.

An app's request becomes an event, the event goes through ``tiers.device.step``, and this room carries the orders out:
records into the vault, workers into their processes, the pointer to the next version. Every answer to an app is given
only after what it says is durable.
"""

import asyncio
import concurrent.futures
import math
import os
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import assert_never

from evergrove import __version__
from evergrove.adapters import images
from evergrove.adapters.files import Files
from evergrove.adapters.relabel import vocabulary_of
from evergrove.adapters.release import Release
from evergrove.adapters.vault import Vault
from evergrove.adapters.versions import Pointer, Versions
from evergrove.core import effects as do
from evergrove.core import events as ev
from evergrove.core import jobs
from evergrove.core import messages as msg
from evergrove.core.conditions import Vocabulary
from evergrove.core.config import Config
from evergrove.core.errors import EvergroveError, InvalidArtefact, InvalidInput, InvalidMedia, UsageError
from evergrove.core.rng import seed_of
from evergrove.rules import features
from evergrove.rules.carry import renumbering, vocabulary_on
from evergrove.runtime import workers
from evergrove.runtime.body import Body
from evergrove.runtime.crew import Crew
from evergrove.runtime.driver import Driver
from evergrove.runtime.eraser import Eraser, forgotten_names, meant
from evergrove.runtime.errands import Errands
from evergrove.runtime.fleet import Connect, Fleet
from evergrove.runtime.housekeeping import remove, tidy
from evergrove.runtime.keeper import Keeper
from evergrove.runtime.offload import Fogs, Offload
from evergrove.runtime.teller import Teller
from evergrove.tiers.device import State, next_due, under_way

TURNING = ("promote", "restore", "erase")
"""Stages in which the pointer may be ahead of the log."""
LEDGER_S_MAX = 30.0
"""For the ledger to be durable; then nothing is sent."""
ERRAND_S = 0.02
"""Between two looks at whether an errand has come back."""
RETRY_S = 10.0
"""Between two tries at an order that failed, where a full disk, say, was the reason."""
SECOND_LOOK_S = 1.0
"""From the first reading to the second: load is a difference, and a start need not wait a whole period for one."""


class Agent:
    """A device at work. ``driver`` holds its state, ``vault`` its media and names, ``versions`` its adapters."""

    def __init__(
        self,
        root: Path,
        config: Config,
        release: Release,
        driver: Driver,
        vault: Vault,
        versions: Versions,
        files: Files,
        now_s: Callable[[], float],
        body: Body,
        fogs: Fogs,
        past: Sequence[ev.Event] = (),
        connect: Connect | None = None,
        find: Callable[[str], Release] | None = None,
        first: str = "",
    ) -> None:
        """Takes the parts as they are; ``start`` brings them to one state. ``past`` are the newest logged events.

        ``release`` is what runs, ``first`` the manifest's SHA-256 of the one that the device was made with, ``find``
        opens others. ``connect`` makes a line to the home fog; None for a device that is in no fleet.
        """
        self._root = root
        self._config = config
        self._release = release
        self._driver = driver
        self._vault = vault
        self._versions = versions
        self._files = files
        self._now_s = now_s
        self._body = body
        self._looked_s, self._n_looks = -math.inf, 0
        vault.settle_names(driver.state.sequence)
        self._find, self._first = find, first or release.manifest_hash
        self._fogs = fogs
        self._vocabulary: Vocabulary = vault.names() or release.manifest.vocabulary
        self._keeper = self._new_keeper()
        self._crew = Crew(self._failed)
        self._retry_at_s = 0.0
        self._teller = Teller(config, release, self._vocabulary, past)
        self._offload = self._offload_of(release)
        self._eraser = Eraser(root, driver.state.device, vault, versions, files, driver.purge)
        self._fleet: Fleet | None = None
        if connect is not None:
            eight_bits = config.fleet.eight_bits
            self._fleet = Fleet(root, release, versions, connect, now_s, self._note_sent, files, eight_bits)
        self._errands = Errands(self._fleet, lambda: driver.state, self.feed, self._teller.warn)

    # Life

    def start(self) -> None:
        """Brings log, vault and versions to one state, and takes up what was under way. In a running loop only."""
        self._loop = asyncio.get_running_loop()
        for sentence in self._versions.recover():
            self._teller.warn(sentence)
        for record in self._vault.quarantined:
            self._teller.warn(f"record {record.id[:8]} put aside: {record.reason}")
        tidy(self._root, self._files, self._driver.state, self._versions.read_pointer())
        sizes = self._driver.state.sizes
        grown = [
            ev.ConditionAdded(factor, value)
            for factor, size in enumerate(self._vocabulary.sizes)
            for value in range(sizes[factor] + 1, size + 1)
        ]
        facts: list[ev.Event] = [ev.AgentStarted(__version__), *grown]
        pointer = self._versions.read_pointer()
        put_right = pointer_differs(pointer, self._driver.state, self._name(self._driver.state.release))
        if put_right is not None:
            facts.append(put_right)
        elif not self._driver.state.probation:
            try:
                self._confirm(self._driver.state.active)  # where a kill came between the decision and the pointer
            except EvergroveError as fault:
                self._teller.warn(str(fault))
        self._errands.start(self._loop)
        self.feed(*facts)
        self.look()
        if self._config.fleet.releases:
            self._errands.watch(self._config.fleet.poll_s)

    def tick(self) -> None:
        """Lets the clock speak, if it has anything to say, and tries again what a full disk, say, has stopped."""
        try:
            self._errands.hear()
            state, settings = self._driver.state, self._config.telemetry
            at_work = state.work is not None or state.waiting is not None
            period_s = settings.period_s if at_work else settings.idle_period_s
            if self._now_s() - self._looked_s >= (period_s if self._n_looks > 1 else min(period_s, SECOND_LOOK_S)):
                self.look()
            order = under_way(self._driver.state)
            if order is not None and not self._crew.busy and self._now_s() >= self._retry_at_s:
                self._retry_at_s = self._now_s() + RETRY_S
                self.feed(*self._perform(order))
            elif next_due(self._config, self._driver.state, self._now_s()):
                self.feed(ev.TimePassed())
        except EvergroveError as fault:
            self._teller.warn(str(fault))

    def look(self) -> None:
        """Reads telemetry; whatever waits or runs is placed by it."""
        self._looked_s, self._n_looks = self._now_s(), self._n_looks + 1
        self.feed(ev.TelemetryRead(self._body.read()))

    @property
    def vocabulary(self) -> Vocabulary:
        """What the device understands today, by the names that its user gave."""
        return self._vocabulary

    @property
    def busy(self) -> bool:
        """Whether a worker runs, a job waits for its place, or an errand to the fleet is under way."""
        state = self._driver.state
        abroad = state.sharing.sending or state.following.asking or state.following.reporting
        return self._crew.busy or state.waiting is not None or (abroad and self._fleet is not None)

    async def stop(self) -> None:
        """Ends the workers (their jobs resume at the next start) and saves a snapshot."""
        if self._fleet is not None:
            self._fleet.close()
        await self._crew.stop()
        self._driver.snapshot()

    def feed(self, *events: ev.Event) -> list[ev.Event]:
        """Events in; their orders are carried out and what comes of these is fed back, until nothing is left.

        Gives everything that was logged on the way.
        """
        logged: list[ev.Event] = []
        waiting = deque(events)
        while waiting:
            batch = tuple(waiting)
            waiting.clear()
            facts, orders = self._driver.feed(*batch)
            for fact in facts:
                if isinstance(fact, ev.ReleaseActivated):
                    self._wear(fact)
                self._teller.note(fact)
            logged.extend(facts)
            for order in orders:
                waiting.extend(self._perform(order))
        return logged

    # Requests

    async def answer(self, request: msg.Request) -> msg.Reply:
        """One request, one reply; raises ``EvergroveError`` for what is refused."""
        match request:
            case msg.Hello():
                if request.protocol != msg.PROTOCOL:
                    raise UsageError(
                        f"the app speaks protocol {request.protocol}, the agent {msg.PROTOCOL}: restart the older one"
                    )
                return self._welcome()
            case msg.Observe():
                return self.observe(request.media, request.condition)
            case msg.LearnNow():
                self.look()
                return self._ask(ev.LearningRequested("app", request.steps))
            case msg.Offer():
                return self._ask(ev.AdapterOffered(request.path))
            case msg.Recheck():
                return self._ask(ev.RecheckRequested("app"))
            case msg.RollBack():
                return self._ask(ev.RollbackRequested("app"))
            case msg.Forget():
                return self._ask(meant(request, self._vocabulary, self._vault, self._driver.past))
            case msg.ReportFailure():
                self.feed(ev.GenerationFailed(request.adapter, request.reason[:500]))
                return msg.Done()
            case msg.GetStatus():
                return self._teller.status(self._driver.state)
            case msg.Stop():
                return msg.Done()
            case _:
                assert_never(request)

    def observe(self, media: bytes, condition: dict[str, str]) -> msg.Observed:
        """Decodes, measures, decides, stores: the reply is given when what it says is durable."""
        try:
            pixels = images.decode_to(media, self._release.manifest.image_px, self._config.media)
            reason = features.sanity(pixels)
            if reason is not None:
                raise InvalidMedia(reason, f"the observation is {reason}; nothing can be learnt from it")
        except InvalidMedia as fault:
            self.feed(ev.ObservationRefused(len(media), fault.reason))
            raise
        vocabulary = self._vocabulary.extend(_checked(condition))
        added = vocabulary.added(self._vocabulary)
        n_max = self._config.novelty.new_values_max
        if added and len(vocabulary.added(self._release.manifest.vocabulary)) > n_max:
            self.feed(ev.ObservationRefused(len(media), "too many conditions"))
            raise InvalidMedia(
                "too many conditions",
                f"the device has met {n_max} new values and takes no more (novelty.new_values_max): each becomes a row "
                "of its network for good. A value names a kind of picture; is this one a name, a number or a time?",
            )
        if added:
            self._vault.save_names(vocabulary)
            self._vocabulary = self._teller.vocabulary = vocabulary
            self.feed(*(ev.ConditionAdded(factor, value) for factor, value in added))
        code = vocabulary.encode(condition)
        png = images.encode_png(pixels)
        record, facts = self._keeper.receive(png, pixels, dict(condition), code, self._now_s())
        try:
            logged = self.feed(ev.ObservationMeasured(record, code, len(png), facts))
        except EvergroveError:
            self._keeper.drop(record)  # a full disk, say: nobody will ask for it again, and apps go on showing more
            raise
        names = tuple(f"{self._vocabulary.names[f]}={self._vocabulary.factors[f].values[n - 1]}" for f, n in added)
        for fact in logged:
            match fact:
                case ev.ObservationKept(observation=kept) if kept == record:
                    return msg.Observed(record, True, fact.split, fact.reason, names)
                case ev.ObservationDropped(observation=kept) if kept == record:
                    return msg.Observed(record, False, "", fact.reason, names)
                case ev.ObservationLost(observation=kept) if kept == record:
                    raise InvalidInput(f"the observation could not be stored: {fact.reason}")
        raise AssertionError("an observation is kept, dropped or lost")

    def _ask(self, event: ev.Event) -> msg.Done:
        """Feeds a wish; says which job it started, or why it did not start one."""
        before = self._driver.state.n_jobs
        logged = self.feed(event)
        for fact in logged:
            if isinstance(fact, ev.LearningDeferred):
                return msg.Done(note=fact.reason)
        work = self._driver.state.work or self._driver.state.waiting
        started = self._driver.state.n_jobs > before or isinstance(event, ev.LearningRequested)
        return msg.Done(job=work.job if work and started else "")

    # Orders

    def _perform(self, order: do.Effect) -> list[ev.Event]:
        """Carries out one order; what happened comes back as events. Every order may come twice."""
        match order:
            case do.StoreObservation():
                return [self._keeper.store(order.observation, order.split, order.reason)]
            case do.DropObservation():
                self._keeper.drop(order.observation)
                return []
            case do.EvictRecords():
                self._keeper.evict(order.records)
                return []
            case do.ReconcileRecords():
                return self._keeper.reconcile(set(order.known), self._driver.state.pending)
            case do.StartTraining() | do.StartMeasuring() | do.StartChoosing():
                self._end_worker(order.job, keep=True)
                self._crew.begin(order.job, self._work(order))
                return []
            case do.FetchAssist() | do.SendTrusted():
                self._end_worker(order.job, keep=True)
                self._crew.begin(order.job, self._ask_fog(order))
                return []
            case do.ShareLearnt() | do.FetchRelease() | do.SendReport():
                return self._errands.perform(order)
            case do.Erase():
                self._crew.begin(order.job, self._erase(order))
                return []
            case do.StopWorker():
                self._end_worker(order.job)
                return []
            case do.ParkWorker():
                self._end_worker(order.job, keep=True)
                return []
            case do.SetShare():
                self._body.set_share(order.share)
                return []
            case do.ActivateVersion():
                return [self._activate(order)]
            case do.ConfirmVersion():
                self._confirm(order.adapter)
                return []
            case _:
                raise AssertionError(f"no way to perform {type(order).__name__}")

    def _activate(self, order: do.ActivateVersion) -> ev.Event:
        """Turns the pointer; where it turns to another release, what the device understands goes along.

        Names are numbered as the adapter has them, or the release; those of the device's own come behind.
        """
        state, here = self._driver.state, self._name(self._driver.state.release)
        if order.release in ("", state.release):
            pointer = self._versions.activate(
                order.current, order.previous, order.sequence,
                probation=order.probation, release=here, previous_release=here,
            )  # fmt: skip
            return ev.VersionActivated(order.current, pointer.seq)
        release = self._open(order.release)
        words = release.manifest.vocabulary
        if order.current is not None:
            words = vocabulary_of(self._versions.load(order.current))
        vocabulary = vocabulary_on(words, self._vocabulary)
        self._vault.prepare_names(vocabulary, order.sequence)
        there = self._name(order.release)
        self._versions.activate(
            order.current, order.previous, order.sequence,
            probation=order.probation, release=there, previous_release=here if order.probation else there,
        )  # fmt: skip
        manifest, golden = release.manifest, release.manifest.golden != self._release.manifest.golden
        return ev.ReleaseActivated(
            order.release, order.current, order.sequence, vocabulary.sizes, manifest.known,
            renumbering(self._vocabulary, vocabulary), manifest.teacher is not None, golden,
        )  # fmt: skip

    def _wear(self, fact: ev.ReleaseActivated) -> None:
        """Another release runs from now on: it is in the log, and everything here follows."""
        self._vault.settle_names(fact.sequence)
        self._release = self._open(fact.release)
        self._vocabulary = self._vault.names() or self._release.manifest.vocabulary
        self._keeper = self._new_keeper()
        self._teller.wear(self._release, self._vocabulary)
        self._offload = self._offload_of(self._release)
        if self._fleet is not None:
            self._fleet.wear(self._release)

    def _new_keeper(self) -> Keeper:
        return Keeper(self._vault, self._release.manifest.known, words=lambda: self._vocabulary)

    def _open(self, release: str) -> Release:
        """A release by its manifest's SHA-256. Raises ``InvalidArtefact``."""
        if release == self._release.manifest_hash:
            return self._release
        if self._find is None:
            raise InvalidArtefact(f"release {release[:12]} is not the one that this device was made with")
        return self._find(release)

    def _name(self, release: str) -> str:
        """A release as the pointer names it."""
        return "" if release == self._first else release

    def _offload_of(self, release: Release) -> Offload:
        parts = self._root, self._config, release, self._vault, self._versions, self._fogs, self._now_s
        return Offload(*parts, self._note_sent)

    def _confirm(self, adapter: str | None) -> None:
        """The pointer says so, too, that a version counts as good."""
        pointer = self._versions.read_pointer()
        if pointer.current == adapter and pointer.probation:
            self._versions.activate(pointer.current, pointer.previous, pointer.seq, probation=False)

    # Workers

    async def _ask_fog(self, order: do.FetchAssist | do.SendTrusted) -> None:
        """A fog's help, asked for beside the loop; whatever becomes of it is an event."""
        fact: ev.Event
        if isinstance(order, do.FetchAssist):
            fact = await asyncio.to_thread(self._offload.fetch, order)
        else:
            asked = self._loop.run_in_executor(None, self._offload.hand_over, order, self._seed(order.job))
            asked.add_done_callback(lambda _: self._collect_late())
            fact = await asyncio.shield(asked)
        self._crew.leave(order.job)
        self.feed(fact)

    def _collect_late(self) -> None:
        """A thread cannot be ended. What a fog answers to a job that is no more may be of what was forgotten."""
        if not self._crew.busy:
            self._versions.collect(keep=self._teller.book.candidates)

    def _note_sent(self, fact: ev.BytesSent) -> None:
        """Into the ledger before anything is sent; called from the thread that will send it."""
        done = concurrent.futures.Future[None]()

        def note() -> None:
            try:
                work = self._driver.state.work
                if work is not None and work.stage == "erase":
                    raise UsageError("something is being forgotten: nothing leaves the device until that is done")
                self.feed(fact)
                done.set_result(None)
            except EvergroveError as fault:
                done.set_exception(fault)

        self._loop.call_soon_threadsafe(note)
        done.result(LEDGER_S_MAX)

    async def _erase(self, order: do.Erase) -> None:
        """Forgets, once every worker and errand is gone: one that is just ending could still write."""
        await self._crew.gone()
        while self._errands.sending:  # it can send nothing more: see ``_note_sent``
            await asyncio.sleep(ERRAND_S)
        names = forgotten_names(self._vocabulary, self._release.manifest.vocabulary, order.what, order.code)
        here, before = self._driver.state.release, self._driver.state.following.before
        releases = self._name(here), self._name(before.release if before is not None else here)
        fact = self._eraser.erase(order, releases, self._keeper, names, self._now_s())
        # What was told before may name it; an agent that starts anew hears of nothing older than this either.
        self._vocabulary = names
        self._teller.forget(names)
        self._crew.leave(order.job)
        self.feed(fact)
        self._driver.snapshot()

    async def _work(self, order: workers.Start) -> None:
        """One worker from start to outcome; whatever becomes of it is an event."""
        stage = "train" if isinstance(order, do.StartTraining) else "measure"
        if isinstance(order, do.StartTraining):
            self.feed(ev.TrainingStarted(order.job, order.attempt))
        outcome = await workers.run(
            self._root / "jobs" / order.job,
            self._job(order),
            stage,
            order.attempt,
            self._files,
            self._teller.report,
        )
        self._teller.progress = None
        self._crew.leave(order.job)
        self.feed(workers.fact_of(order, outcome))

    def _failed(self, fault: Exception) -> None:
        """A worker's task could not log its outcome: it is tried again at a later tick."""
        self._retry_at_s = self._now_s() + RETRY_S
        self._teller.warn(str(fault))

    def _job(self, order: workers.Start) -> jobs.Job:
        arriving = None
        if isinstance(order, do.StartChoosing):
            arriving = self._open(order.release).folder
        return workers.job_of(order, self._root, self._release.folder, self._config, self._seed(order.job), arriving)

    def _seed(self, job: str) -> int:
        return seed_of(self._driver.state.seed, "train", job)

    def _end_worker(self, job: str, keep: bool = False) -> None:
        """Ends the worker of a job, if one runs; its folder goes too, unless the job goes on."""
        self._crew.end(job)
        if not keep:
            remove(self._root, self._files, self._root / "jobs" / job)
            sharing = self._driver.state.sharing
            shared = (name for name in (sharing.given, sharing.ripe, sharing.asked) if name)
            self._versions.collect(keep=(*self._teller.book.candidates, *shared))

    # Helpers

    def _welcome(self) -> msg.Welcome:
        return msg.Welcome(self._driver.state.device, str(self._release.folder), self._vocabulary, os.getpid())


def pointer_differs(pointer: Pointer, state: State, here: str) -> ev.Event | None:
    """What to log at a start where pointer and log differ; None where they do not, or work under way accounts for it.

    ``here`` is how the pointer names the release that the log has running.
    """
    if state.work is not None and state.work.stage in TURNING:
        return None
    if pointer.seq and here != pointer.release:
        # The way back leads to another release: it is gone by the device's own steps.
        return ev.RollbackRequested("its checks, which a file did not pass")
    if pointer.current != state.active:
        return ev.VersionRolledBack(state.active, pointer.current, "its file did not pass its checks")
    return None


def _checked(condition: dict[str, str]) -> dict[str, str]:
    """A condition from an app: a bounded number of short, printable words."""
    if not condition:
        raise UsageError("an observation needs a condition, such as emotion=happy")
    for factor, value in condition.items():
        if not value or len(value) > 64 or not value.isprintable():
            raise InvalidInput(f"the value of '{factor}' must be 1 to 64 printable characters, got {value[:70]!r}")
    return condition
