"""A fog at work: carries out what its reducer orders, and feeds back what came of it.

Used by the web service, by tests and by whoever hands sums to a cloud. Everything durable is in the store, so a worker
may die at any instant: the next start, or another worker's next tick, takes up what was under way.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import msgspec
import numpy as np
from numpy.typing import NDArray

from evergrove import __version__
from evergrove.adapters.fog_bodies import Upload
from evergrove.adapters.fog_store import FogStore, Ready, Sealed
from evergrove.core import fog
from evergrove.core.errors import BudgetSpent, CorruptState, InvalidInput, UpdateRefused, UsageError
from evergrove.core.fog import Cohort, FogEvent, Receipt
from evergrove.core.ports import Noise, Noised
from evergrove.core.release import sha256_hex
from evergrove.core.sections import Gathering
from evergrove.core.transport import Update
from evergrove.rules import aggregate, params
from evergrove.tiers.fog import Member, State, settle

log = logging.getLogger("evergrove.fog")
NO_NOISE = (
    "NO NOISE: ε = ∞. This fog adds no noise to its sums: they are not differentially private, and who reads a sum or "
    "a release may learn about single devices. The fog's operator sees single updates in any case."
)
Answer = Receipt | UpdateRefused


class NoNoise:
    """Sums as they are. Says so wherever ε is shown."""

    epsilon: float | None = None
    protection = NO_NOISE

    def add(self, state: bytes | None, cohort: Cohort, total: NDArray[np.float64]) -> Noised:
        """The sum itself, and an entry that says that it has no bound."""
        entry = {"generation": cohort.generation, "cohort": cohort.number, "noise": "none", "epsilon": None}
        return Noised(total, state, msgspec.json.encode(entry).decode(), None)


class FogService:
    """One worker. ``decide``, ``tick`` and ``work`` may be called from several threads; they wait for one another."""

    def __init__(self, name: str, store: FogStore, now_s: Callable[[], float], noise: Noise | None = None) -> None:
        """``name`` is what devices know this fog by; ``noise`` None: ε = ∞."""
        self.name, self.store, self._now_s = name, store, now_s
        self.noise: Noise = noise or NoNoise()
        self._orders: deque[fog.FogOrder] = deque()
        self._working = threading.Lock()
        self._plan: fog.Plan | None = None
        self._layout = lru_cache(maxsize=4)(store.layout)

    def start(self) -> None:
        """Sweeps what kills left, and asks again for what was under way."""
        if self.noise.epsilon is None:
            log.warning(NO_NOISE)
        self.store.tidy()
        self.feed(fog.FogStarted(__version__))
        self._plan = self.store.state().plan

    # ---- devices and plans -------------------------------------------------------------------------------------------

    def feed(self, event: FogEvent) -> list[FogEvent]:
        """One event; the facts that were kept. What is to be done waits for ``work``."""
        facts, orders = self.store.feed([event], self._now_s())
        self._orders.extend(orders)
        return facts[0]

    def open(self, plan: fog.Plan, layout: params.Layout) -> None:
        """Gathers by this plan from now on. Raises ``UsageError`` where it is refused, or the layout is not its own."""
        if layout.digest != plan.layout:
            raise UsageError("the layout is not the one that the plan names; make both from one release")
        facts, orders = self.store.open_generation(plan, layout, self._now_s())
        self._orders.extend(orders)
        for fact in facts:
            if isinstance(fact, fog.PlanRefused):
                raise UsageError(f"the plan of generation {fact.generation} was refused: {fact.reason}")
        self._plan = plan

    def terms(self) -> fog.Terms | None:
        """What a device is told before it takes part; None while nothing is gathered."""
        state = self.store.state()
        if state.plan is None:
            return None
        return fog.Terms(self.name, state.plan, state.number, self.noise.epsilon, self.noise.protection)

    # ---- updates -----------------------------------------------------------------------------------------------------

    def offer(self, device: str, head: Update) -> bool:
        """Whether the head's body is worth reading; where not, ``decide`` on the same offer gives the answer.

        Told by the plan that this worker saw last, without a look at the database; only a no is looked up.
        """
        offered = [fog.UpdateOffered(device, head)]
        _, _, orders = settle(State(plan=self._plan, devices={device: Member()}), offered, self._now_s())
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
            data = self.store.bodies.read(name, layout.n_bytes("float32"))
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
        self._plan = state.plan
        if state.closed:
            self._orders.append(fog.SumCohort(state.closed[0]))

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
                        self._sum(cohort)
                    case fog.DeleteBodies(cohort):
                        self.store.delete_bodies(cohort)
                    case _:  # a hand-over waits in the store until the cloud asks; bodies come with their devices
                        pass

    def ready(self) -> list[Ready]:
        """The sums that wait for the cloud, in order."""
        return self.store.ready()

    def handed_over(self, cohort: Cohort) -> None:
        """The cloud has this sum, durably."""
        self.feed(fog.CohortHandedOver(cohort))

    def _sum(self, cohort: Cohort) -> None:
        if self.store.state().closed[:1] != (cohort,):
            return  # another worker was faster
        try:
            layout, clip = self._layout(cohort.generation)
            total = aggregate.total(self._parts(cohort, layout), layout.n_numbers, clip).values

            def make(state: bytes | None) -> Sealed:
                noised = self.noise.add(state, cohort, total)
                return Sealed(
                    params.encode(noised.numbers, layout, "float32"), noised.epsilon, noised.state, noised.entry
                )

            _, orders = self.store.seal(cohort, make, self._now_s())
            self._orders.extend(orders)
        except BudgetSpent as fault:
            log.error("cohort %d.%d: %s", cohort.generation, cohort.number, fault)
            self.feed(fog.CohortWithheld(cohort, str(fault)))
        except (FileNotFoundError, InvalidInput) as fault:
            if self.store.state().closed[:1] != (cohort,):
                return  # another worker summed it, and has deleted the updates meanwhile
            log.error("cohort %d.%d cannot be summed: %s", cohort.generation, cohort.number, fault)
            self.feed(fog.CohortWithheld(cohort, f"an update cannot be read any more: {fault}"))

    def _parts(self, cohort: Cohort, layout: params.Layout) -> Iterator[NDArray[np.float32]]:
        """The updates one by one, so that memory stays that of one; each is still what was counted."""
        for part in self.store.parts(cohort):
            data = self.store.bodies.read(part.file, layout.n_bytes("float32"))
            if sha256_hex(data) != part.digest:
                raise CorruptState(f"{part.file[:12]}… was altered on the disk")
            yield params.decode(data, layout)


def plan_of(layout: params.Layout, releases: Sequence[str], gathering: Gathering) -> fog.Plan:
    """The plan to gather one layout by. ``releases``: the manifests (SHA-256) whose devices may take part."""
    sizes = (layout.n_bytes("float16"), layout.n_bytes("float32"))
    return fog.Plan(
        layout.generation, layout.base, layout.basis, layout.digest, tuple(releases), sizes,
        **msgspec.structs.asdict(gathering),
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
