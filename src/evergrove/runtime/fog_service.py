"""A fog at work: carries out what its reducer orders, and feeds back what came of it.

Used by the web service, by tests and by whoever hands sums to a cloud. Everything durable is in the store, so a worker
may die at any instant: the next start, or another worker's next tick, takes up what was under way.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial

import msgspec
import numpy as np
from numpy.typing import NDArray

from evergrove import __version__
from evergrove.adapters.fog_bodies import Upload
from evergrove.adapters.fog_books import Kept
from evergrove.adapters.fog_store import FogStore, Sealed
from evergrove.adapters.fog_sums import Ready
from evergrove.core import fog, sums
from evergrove.core.errors import (
    BudgetSpent,
    CorruptState,
    EvergroveError,
    InvalidInput,
    UpdateRefused,
    UsageError,
)
from evergrove.core.fog import Cohort, FogEvent, Receipt
from evergrove.core.release import sha256_hex
from evergrove.core.sections import Gathering
from evergrove.core.sums import NoisedSum
from evergrove.core.transport import Update
from evergrove.rules import aggregate, params
from evergrove.runtime.fog_noise import NO_NOISE, FogNoise, empty
from evergrove.tiers.fog import Member, State, settle

log = logging.getLogger("evergrove.fog")
Answer = Receipt | UpdateRefused
BUDGET_SPENT = " The budget of this generation is spent: no update is taken in it any more."
DOOR_BYTES_MAX = 32 << 20
"""Sums given to the cloud at once, in bytes; one, however large, is always given."""


class FogService:
    """One worker. ``decide``, ``tick`` and ``work`` may be called from several threads; they wait for one another."""

    def __init__(self, name: str, store: FogStore, now_s: Callable[[], float], noise: FogNoise | None = None) -> None:
        """``name`` is what devices know this fog by; ``noise`` None: ε = ∞."""
        self.name, self.store, self._now_s = name, store, now_s
        self.noise = noise or FogNoise(name)
        self._fault = ""
        self._orders: deque[fog.FogOrder] = deque()
        self._working = threading.Lock()
        self._plan: fog.Plan | None = None
        self._spent = False
        self._layout = lru_cache(maxsize=4)(store.layout)

    def start(self) -> None:
        """Sweeps what kills left, and asks again for what was under way.

        Raises ``UsageError`` where a generation is open that began with other noise, ``CorruptState`` where its noise
        cannot be read.
        """
        if self.noise.epsilon is None:
            log.warning(NO_NOISE)
        state = self.store.state()
        self._plan, self._spent = state.plan, state.spent
        if self._plan is not None:
            self.noise.check(self.store.kept(self._plan.generation), self._plan.generation)
        self.store.tidy()
        self.feed(fog.FogStarted(__version__))

    # ---- devices and plans -------------------------------------------------------------------------------------------

    def feed(self, event: FogEvent) -> list[FogEvent]:
        """One event; the facts that were kept. What is to be done waits for ``work``."""
        facts, orders = self.store.feed([event], self._now_s())
        self._orders.extend(orders)
        return facts[0]

    def open(self, plan: fog.Plan, layout: params.Layout) -> None:
        """Gathers by this plan from now on.

        Raises ``UsageError`` where it is refused, or the layout is not its own, ``BudgetSpent`` where the ε budget
        allows no more cohort of it.
        """
        if layout.digest != plan.layout:
            raise UsageError("the layout is not the one that the plan names; make both from one release")

        def opening(kept: Kept, n_closed: int) -> bytes:
            return self.noise.open(kept, plan, layout.n_numbers, n_closed)

        facts, orders = self.store.open_generation(plan, layout, opening, self._now_s())
        self._orders.extend(orders)
        for fact in facts:
            if isinstance(fact, fog.PlanRefused):
                raise UsageError(f"the plan of generation {fact.generation} was refused: {fact.reason}")
        self._plan, self._spent = plan, self.store.state().spent

    @property
    def plan(self) -> fog.Plan | None:
        """What is gathered by, as this worker saw it last; None: nothing is."""
        return self._plan

    @property
    def spent(self) -> bool:
        """Whether the ε budget of this generation is, as this worker saw it last."""
        return self._spent

    def layout(self, generation: int) -> params.Layout:
        """The layout of a generation that was opened."""
        return self._layout(generation)[0]

    def terms(self) -> fog.Terms | None:
        """What a device is told before it takes part; None while nothing is gathered."""
        state = self.store.state()
        if state.plan is None:
            return None
        words = self.noise.protection + (BUDGET_SPENT if state.spent else "")
        return fog.Terms(self.name, state.plan, state.number, self.noise.epsilon, words, state.spent)

    # ---- updates -----------------------------------------------------------------------------------------------------

    def offer(self, device: str, head: Update) -> bool:
        """Whether the head's body is worth reading; where not, ``decide`` on the same offer gives the answer.

        Told by the plan that this worker saw last, without a look at the database; only a no is looked up.
        """
        offered = [fog.UpdateOffered(device, head)]
        seen = State(plan=self._plan, devices={device: Member()}, spent=self._spent)
        _, _, orders = settle(seen, offered, self._now_s())
        if not orders:
            _, orders = self.store.glance(offered, self._now_s())
        return bool(orders)

    def measure(self, device: str, head: Update, upload: Upload) -> tuple[fog.UpdateMeasured, str]:
        """Makes a received body durable and checks it: what was found, and its file's name ("" for none).

        May run in any thread, beside others. Whatever the body is, it is deleted unless it is counted.
        """
        try:
            layout, _ = self._layout(head.generation)
            name = upload.finish()
            data = self.store.bodies.read(name, layout.sizes[-1])
            return fog.UpdateMeasured(device, head, params.norm(params.decode(data, layout))), name
        except UpdateRefused as fault:
            upload.drop()
            return faulty(device, head, fault), ""
        except BaseException:
            upload.drop()
            raise

    def decide(self, batch: Sequence[tuple[fog.UpdateOffered | fog.UpdateMeasured, str]]) -> list[Answer]:
        """The answers to some offers (no file) and measured updates, in one transaction."""
        events = [event for event, _ in batch]
        files = {(event.head.token, event.head.digest): name for event, name in batch if name}
        facts, orders = self.store.feed(events, self._now_s(), files)
        self._orders.extend(orders)
        answers = [_answer(kept) for kept in facts]
        flat = [fact for kept in facts for fact in kept]
        taken = {files[fact.token, fact.digest] for fact in flat if isinstance(fact, fog.UpdateCounted)}
        self.store.bodies.delete([name for _, name in batch if name and name not in taken])
        return answers

    # ---- cohorts -----------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Time has passed: closes a cohort whose time is over, and takes up what a dead worker left."""
        self.feed(fog.TimePassed())
        state = self.store.state()
        self._plan, self._spent = state.plan, state.spent
        if state.closed:
            self._orders.append(fog.SumCohort(state.closed[0]))

    def _try(self, cohort: Cohort) -> None:
        """Sums; a fault of disk, database or noise key is said once, and ``tick`` tries again for ever."""
        try:
            self._sum(cohort)
            self._fault = ""
        except EvergroveError as fault:
            if str(fault) != self._fault:
                log.error("cohort %d.%d cannot be summed now: %s", cohort.generation, cohort.number, fault)
            self._fault = str(fault)

    @property
    def busy(self) -> bool:
        """Whether orders wait."""
        return bool(self._orders)

    def work(self) -> None:
        """Carries out all orders that wait."""
        with self._working:
            while self._orders:
                match self._orders.popleft():
                    case fog.SumCohort(cohort):
                        self._try(cohort)
                    case fog.DeleteBodies(cohort):
                        self.store.delete_bodies(cohort)
                    case _:  # a hand-over waits in the store until the cloud asks; bodies come with their devices
                        pass

    def ready(self) -> list[Ready]:
        """The sums that wait for the cloud, in order."""
        return self.store.ready()

    def sums(self, after: str = "") -> list[NoisedSum]:
        """What goes up: the sums that wait, in order, after the one of this name if it waits; as many as fit."""
        waiting = self.store.ready()
        names = [one.head.id for one in waiting]
        given, n_bytes = list[NoisedSum](), 0
        for one in waiting[names.index(after) + 1 :] if after in names else waiting:
            n_bytes += one.n_bytes
            if given and n_bytes > DOOR_BYTES_MAX:
                break
            layout, _ = self._layout(one.cohort.generation)
            given.append(sums.filled(one.head, params.decode(self.store.read_sum(one.cohort), layout)))
        return given

    def acknowledge(self, name: str) -> bool:
        """The cloud has the sum of this name, durably; whether there ever was one."""
        cohort = self.store.find_sum(name)
        if cohort is not None:
            self.handed_over(cohort)
        return cohort is not None

    def handed_over(self, cohort: Cohort) -> None:
        """The cloud has this sum, durably."""
        if cohort in self.store.state().ready:
            self.feed(fog.CohortHandedOver(cohort))

    def _sum(self, cohort: Cohort) -> None:
        if self.store.state().closed[:1] != (cohort,):
            return  # another worker was faster
        try:
            layout, clip = self._layout(cohort.generation)
            try:
                total, fault = aggregate.total(self._parts(cohort, layout), layout.n_numbers, clip), ""
            except (FileNotFoundError, InvalidInput) as unreadable:
                total, fault = empty(layout.n_numbers, clip), f"an update cannot be read any more: {unreadable}"
            facts, orders = self.store.seal(cohort, partial(self._sealed, cohort, layout, total, fault), self._now_s())
            self._orders.extend(orders)
            if fault and facts:  # else another worker summed it, and has deleted the updates meanwhile
                log.error("cohort %d.%d is withheld: %s", cohort.generation, cohort.number, fault)
        except (BudgetSpent, UsageError) as refused:
            log.error("cohort %d.%d is withheld: %s", cohort.generation, cohort.number, refused)
            self.feed(fog.CohortWithheld(cohort, str(refused)))
            if isinstance(refused, BudgetSpent):
                self.feed(fog.BudgetEnded(cohort.generation, str(refused)))

    def _sealed(
        self, cohort: Cohort, layout: params.Layout, total: aggregate.CohortSum, fault: str, kept: Kept
    ) -> Sealed:
        """The round's outcome, made under the store's lock; with a ``fault`` it is closed empty and nothing leaves."""
        noised = self.noise.close(kept, cohort, total, withheld=bool(fault))
        then = (fog.BudgetEnded(cohort.generation, noised.over),) if noised.over else ()
        if fault:
            return Sealed(None, None, noised.epsilon, noised.kept, noised.entry, fault, then)
        data = params.encode(noised.values, layout, "float32")
        head = sums.noised_sum(
            params.decode(data, layout), generation=cohort.generation, base=layout.base, basis=layout.basis,
            n_updates=total.n_updates, denominator=noised.denominator, noise=noised.words, number=cohort.number,
            counts=noised.counts,
        )  # fmt: skip
        return Sealed(data, head, noised.epsilon, noised.kept, noised.entry, "", then)

    def _parts(self, cohort: Cohort, layout: params.Layout) -> Iterator[NDArray[np.float32]]:
        """The updates one by one, so that memory stays that of one; each is still what was counted."""
        for part in self.store.parts(cohort):
            data = self.store.bodies.read(part.file, layout.sizes[-1])
            if sha256_hex(data) != part.digest:
                raise CorruptState(f"{part.file[:12]}… was altered on the disk")
            yield params.decode(data, layout)


def plan_of(
    layout: params.Layout, releases: Sequence[str], gathering: Gathering, clip: float | None = None
) -> fog.Plan:
    """The plan to gather one layout by. ``releases``: the manifests (SHA-256) whose devices may take part.

    ``clip`` is what their generation is signed with (None: nothing, that of ``gathering``); ``norm_max`` keeps its
    distance to it.
    """
    values = msgspec.structs.asdict(gathering)
    if clip is not None:
        values |= {"clip": clip, "norm_max": clip * max(gathering.norm_max / gathering.clip, 1.0)}
    return fog.Plan(
        layout.generation, layout.base, layout.basis, layout.digest, tuple(releases), layout.sizes, **values,
    )  # fmt: skip


def faulty(device: str, head: Update, fault: UpdateRefused) -> fog.UpdateMeasured:
    """What was found of a body that never became whole, or is not sound."""
    return fog.UpdateMeasured(device, head, 0.0, msgspec.convert(fault.reason, fog.Reason), str(fault))


def _answer(facts: Sequence[FogEvent]) -> Answer:
    """What the device is told."""
    if not facts:
        return UpdateRefused("busy", "the fog changed its mind while the update was on its way; send it again")
    match facts[0]:
        case fog.UpdateCounted(_, token, _, cohort):
            return Receipt(token, cohort, repeated=False)
        case fog.UpdateRepeated(_, token, cohort):
            return Receipt(token, cohort, repeated=True)
        case fog.UpdateRefused(_, reason, detail):
            return UpdateRefused(reason, detail)
        case fact:
            raise AssertionError(f"{type(fact).__name__} is no answer")
