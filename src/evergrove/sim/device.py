"""A virtual device: the production reducer and driver, and around them plants, disks and channels of virtual time.

The shell does what ``runtime.agent`` does for a real one: an order is carried out, and what comes of it is fed back as
an event. A crash takes all that is not on its disk; the next start folds the log, as on a device.
"""

from collections import deque
from collections.abc import Iterator

from evergrove import __version__
from evergrove.core import effects as do
from evergrove.core import events as ev
from evergrove.core.jobs import Outcome
from evergrove.runtime.driver import Driver
from evergrove.runtime.workers import fact_of
from evergrove.sim.diary import Diary, Point
from evergrove.sim.disk import Disk, Picture
from evergrove.sim.engine import Action, Carried, Engine, PowerCut
from evergrove.sim.errands import Errands
from evergrove.sim.parts import Parts
from evergrove.sim.plants import THROTTLED_SHARE
from evergrove.sim.worker import Order, Worker
from evergrove.tiers.device import State, next_due, under_way

SNAPSHOT_EVERY = 100
"""Events between two snapshots at most: what is logged since the last one is held in memory, for every device."""
RETRY_S = 60.0
"""Between two tries at an order that came to nothing."""
EARLY_S = 1e-3
"""By so much a reading may come before it is due: virtual ticks are sums of floats."""


class VirtualDevice:
    """A device at work in virtual time. ``state`` is the reducer's; ``diary`` says what became of it."""

    def __init__(self, engine: Engine, parts: Parts) -> None:
        """Takes the parts as they are; ``boot`` starts it."""
        self.name = parts.name
        self.body = parts.body
        self.shelf = parts.mind.records
        self._trainer = parts.mind.trainer
        self.diary = Diary(engine.now_s)
        self.up = False
        self.n_crashes = self.n_checked = self.n_unequal = self.n_unseen = 0
        self._engine = engine
        self._parts = parts
        self._disk = Disk()
        self._life = 0
        self._driver: Driver | None = None
        self._lost: State | None = None
        self._worker: Worker | None = None
        self._share = 1.0
        self._errands = Errands(engine, parts, self._here, self.feed)
        self._work_s = 0.0
        self._point_due_s = engine.now_s
        self._mark_s = engine.now_s
        self._retry_s = self._idle_look_s = engine.now_s

    @property
    def state(self) -> State:
        """What the reducer remembers; of a device that is off, what it will remember."""
        return self._fold().state if self._driver is None else self._driver.state

    @property
    def n_missing(self) -> int:
        """Records that the reducer counts on and the disk does not hold; 0, whatever has happened."""
        return len(set(self.state.keeping.buffer.records()) - self.shelf.records.keys() - self.state.pending.keys())

    @property
    def carried(self) -> Carried:
        """What its channel to the fog has carried, lost and doubled."""
        return self._parts.to_fog.carried

    # Life

    def boot(self) -> None:
        """Switches on: folds the log, brings state and disk together, takes up what was under way."""
        self._life += 1
        self.up = True
        self._driver = self._fold()
        if self._lost is not None:
            self.n_checked += 1
            self.n_unequal += self._driver.state != self._lost
            self._lost = None
        self._safely(self._come_up)

    def _fold(self) -> Driver:
        parts = self._parts
        every = min(parts.config.agent.snapshot_every, SNAPSHOT_EVERY)
        return Driver(parts.step, parts.log, parts.clock.now_s, every, 0)

    def _come_up(self) -> None:
        state = self.state
        facts: list[ev.Event] = [ev.AgentStarted(__version__)]
        if not state.device:
            mind, seed = self._parts.mind, self._parts.config.seed
            facts.insert(0, ev.DeviceInitialised(self.name, mind.release, mind.known, mind.teacher, seed))
        elif self._disk.current != state.active and (
            state.work is None or state.work.stage not in ("promote", "restore")
        ):
            facts.append(ev.VersionRolledBack(state.active, self._disk.current, "its file did not pass its checks"))
        self.feed(*facts)

    def crash(self, *, clean: bool = True) -> None:
        """The power fails. ``clean``: between two events, so that the state before is known for comparison."""
        if not self.up or self._driver is None:
            return
        self._account()
        self.n_crashes += 1
        self._lost = self._driver.state if clean else None
        self._driver = None
        self.up = False
        self._life += 1
        self._end_worker(keep=True)
        self._errands.forget()
        self.shelf.lose_power()
        self._engine.after(self._parts.down_s, self.boot)

    def kill_worker(self) -> None:
        """Only the worker dies; the agent notices."""
        if self._worker is None or self._worker.pace == 0:
            return
        job = self._worker.order.job
        self._account()
        self._end_worker(keep=True)
        self._safely(lambda: self.feed(ev.JobInterrupted(job, "killed")))

    # What happens to it

    def observe(self, picture: Picture) -> None:
        """An app shows it something."""
        if not self.up:
            self.n_unseen += 1
            return
        self._safely(lambda: self._observe(picture))

    def _observe(self, picture: Picture) -> None:
        sizes = self.state.sizes
        for factor, (value, size) in enumerate(zip(picture.code, sizes, strict=True)):
            self.feed(*(ev.ConditionAdded(factor, n) for n in range(size + 1, value + 1)))
        record, facts = self.shelf.receive(picture)
        self.feed(ev.ObservationMeasured(record, picture.code, picture.n_bytes, facts))

    def tick(self) -> None:
        """Reads its sensors when that is due, and lets the clock speak if it has anything to say."""
        self._account()
        if self.up:
            self._safely(self._look)
            self.diary.n_hot += self.body.throttled and self._worker is not None and self._worker.pace > 0
        if self._engine.now_s >= self._point_due_s:
            self._point_due_s += self._parts.point_every_s
            self._mark()

    def _look(self) -> None:
        assert self._driver is not None
        state, now_s = self._driver.state, self._engine.now_s
        if now_s >= self._idle_look_s or state.work is not None or state.waiting is not None:
            self._idle_look_s = now_s + self._parts.config.telemetry.idle_period_s - EARLY_S
            self.feed(ev.TelemetryRead(self.body.read(now_s)))
            state = self._driver.state
        order = under_way(state)
        if (
            order is not None
            and self._worker is None
            and not self._errands.asked
            and self._engine.now_s >= self._retry_s
        ):
            self._retry_s = self._engine.now_s + RETRY_S
            self._later(self._perform(order))
        elif next_due(self._parts.config, state, self._parts.clock.now_s()):
            self.feed(ev.TimePassed())

    def feed(self, *events: ev.Event) -> None:
        """Events in; their orders are carried out and what comes of these is fed back, until nothing is left."""
        assert self._driver is not None
        waiting = deque(events)
        while waiting:
            batch = tuple(waiting)
            waiting.clear()
            facts, orders = self._driver.feed(*batch)
            for fact in facts:
                self._heed(fact)
            for order in orders:
                waiting.extend(self._perform(order))

    def _heed(self, fact: ev.Event) -> None:
        """A fact is in the log."""
        if not isinstance(fact, ev.TelemetryRead):
            self.diary.fact(fact, self._engine.now_s)

    def _later(self, facts: list[ev.Event]) -> None:
        if facts:
            self.feed(*facts)

    # Orders

    def _perform(self, order: do.Effect) -> list[ev.Event]:
        """Carries out one order; what happened comes back as events. Every order may come twice."""
        self.diary.order(order)
        match order:
            case do.StoreObservation():
                return [self.shelf.store(order.observation, order.split, order.reason)]
            case do.DropObservation():
                self.shelf.drop(order.observation)
                return []
            case do.EvictRecords():
                self.shelf.evict(order.records)
                return []
            case do.ReconcileRecords():
                return self.shelf.reconcile(set(order.known), self.state.pending)
            case do.StartTraining() | do.StartMeasuring() | do.StartChoosing():
                return self._start_worker(order)
            case do.StopWorker():
                if self._worker is not None and self._worker.order.job == order.job:
                    self._account()
                    self._end_worker(keep=False)
                self._disk.checkpoints.pop(order.job, None)
                self._errands.asked.pop(order.job, None)
                return []
            case do.ParkWorker():
                if self._worker is not None and self._worker.order.job == order.job:
                    self._account()
                    self._end_worker(keep=True)
                return []
            case do.SetShare():
                self._account()
                self._share = order.share
                self._set_pace()
                return []
            case do.ActivateVersion():
                disk = self._disk
                disk.current, disk.previous, disk.sequence = order.current, order.previous, order.sequence
                disk.probation = order.probation
                return [ev.VersionActivated(order.current, order.sequence)]
            case do.ConfirmVersion():
                self._disk.probation = False
                return []
            case do.Erase():
                return [self._erase(order)]
            case do.FetchAssist():
                return self._errands.fetch(order, self._linked())
            case do.SendTrusted():
                return self._errands.hand_over(order, self._linked())
            case do.ShareLearnt():
                return self._errands.share(order, self._disk, self._linked())
            case _:
                raise AssertionError(f"no way to perform {type(order).__name__}")

    def _erase(self, order: do.Erase) -> ev.Forgotten:
        """What ``runtime.eraser`` does, on this disk."""
        assert self._driver is not None
        disk = self._disk
        if (disk.current, disk.previous) != (order.current, order.previous):
            disk.sequence += 1
        disk.current, disk.previous, disk.probation = order.current, order.previous, order.probation
        disk.checkpoints.clear()
        if order.withdraw:
            self._errands.withdraw(disk)
        self.shelf.destroy(None if order.what == "all" else order.records)
        self._driver.purge()
        kept = order.current, order.previous, disk.sequence
        return ev.Forgotten(order.job, order.what, len(order.records), order.gone, *kept, "")

    # Workers

    def _start_worker(self, order: Order) -> list[ev.Event]:
        self._account()
        self._end_worker(keep=True)
        cost_s, done_s = self._trainer.cost_s(order), 0.0
        facts: list[ev.Event] = []
        if isinstance(order, do.StartTraining):
            done_s = min(1.0, self._disk.checkpoints.get(order.job, 0) / max(order.steps, 1)) * cost_s
            facts.append(ev.TrainingStarted(order.job, order.attempt))
        worker = Worker(self._engine, order, cost_s, done_s, self._here(lambda: self._worker_done(worker)))
        self._worker = worker
        self._set_pace()
        return facts

    def _worker_done(self, worker: Worker) -> None:
        """Its outcome is on its way to the agent, once or more often."""
        if worker is not self._worker:
            return
        self._account()
        order = worker.order
        if isinstance(order, do.StartTraining):
            self._disk.checkpoints[order.job] = order.steps
        fact = fact_of(order, self._outcome(order))
        self._worker = None
        self._errands.asked[order.job] = "outcome"
        self._parts.from_worker.send(self._here(lambda: self._errands.hear(order.job, fact)))

    def _outcome(self, order: Order) -> Outcome:
        """What a worker that came to its end leaves."""
        match order:
            case do.StartTraining():
                return self._trainer.train(order)
            case do.StartMeasuring():
                return self._trainer.measure(order)
            case do.StartChoosing():
                return self._trainer.choose(order)

    def _end_worker(self, *, keep: bool) -> None:
        """Ends the worker, if one runs; with ``keep`` the steps up to its last checkpoint stay on the disk."""
        worker, self._worker = self._worker, None
        if worker is None:
            return
        worker.stop()
        order, every = worker.order, self._parts.config.learn.checkpoint_every
        if keep and isinstance(order, do.StartTraining):
            steps = int(order.steps * worker.done_s / worker.cost_s) // every * every
            self._disk.checkpoints[order.job] = max(steps, self._disk.checkpoints.get(order.job, 0))

    def _set_pace(self) -> None:
        if self._worker is not None:
            self._worker.set_pace(self._share * (THROTTLED_SHARE if self.body.throttled else 1.0))

    # Keeping count

    def _linked(self) -> bool:
        return self.body.network(self._engine.now_s) > 0

    def _here(self, action: Action) -> Action:
        """The action, unless the device has lost its memory meanwhile."""
        life = self._life

        def run() -> None:
            if self.up and self._life == life:
                self._safely(action)

        return run

    def _safely(self, action: Action) -> None:
        try:
            action()
        except PowerCut:
            self.crash(clean=False)

    def _account(self) -> None:
        """Brings heat, battery and progress up to now."""
        now_s, worker = self._engine.now_s, self._worker
        share = 0.0
        if worker is not None:
            self._work_s += worker.settle()
            share = self._share if worker.pace > 0 else 0.0
        throttled = self.body.throttled
        self.body.settle(now_s, share, share * self._trainer.power_w())
        if self.body.throttled != throttled:
            self._set_pace()

    def _mark(self) -> None:
        """One point of every curve."""
        now_s, phase = self._engine.now_s, self._phase()
        diary = self.diary
        diary.phase_s[phase] = diary.phase_s.get(phase, 0.0) + now_s - self._mark_s
        self._mark_s = now_s
        share = self._share if self._worker is not None and self._worker.pace > 0 else 0.0
        point = Point(
            round((now_s - diary.start_s) / 3600, 4),
            round(self.body.temp_c, 2),
            share,
            round(self.body.charge.share, 3),
            round(self._work_s / 3600, 5),
            phase,
        )
        diary.points.append(point)

    def _phase(self) -> str:
        if not self.up or self._driver is None:
            return "off"
        if self._worker is not None:
            if self._worker.pace == 0:
                return "paused"
            return "training" if isinstance(self._worker.order, do.StartTraining) else "measuring"
        if any(choice != "outcome" for choice in self._errands.asked.values()):
            return "fog"
        return "deferred" if self._driver.state.waiting is not None else "idle"

    @property
    def work_h(self) -> float:
        """Core-hours that its workers have done."""
        return self._work_s / 3600


def show_all(engine: Engine, device: VirtualDevice, shown: Iterator[tuple[float, Picture]]) -> None:
    """Plans the next picture that a device is shown, and with each the one after it."""
    for when_s, picture in shown:

        def show(picture: Picture = picture) -> None:
            device.observe(picture)
            show_all(engine, device, shown)

        engine.at(when_s, show)
        return
