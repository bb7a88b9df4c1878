"""A fog in memory for tests: the reducer, bodies in a dict, sums in a dict; and the updates that devices send it."""

import numpy as np
from numpy.typing import NDArray

from evergrove.core import fog
from evergrove.core.conditions import Factor, Vocabulary
from evergrove.core.errors import UpdateRefused
from evergrove.core.fog import Cohort, FogEvent, Plan
from evergrove.core.release import sha256_hex
from evergrove.core.transport import Update
from evergrove.rules import aggregate, params, tokens
from evergrove.tiers.fog import State, settle

RELEASE, BASE, BASIS = "11" * 32, "22" * 32, "33" * 32
LAYOUT = params.Layout(
    BASE,
    BASIS,
    1,
    Vocabulary((Factor("emotion", ("happy", "sad")),)),
    (params.Slot("a.B", (3, 2)), params.Slot("b.B", (2, 2))),
)


def plan(**changes: object) -> Plan:
    """K = 3, at least 2 after 60 s; twice a generation, 2 cohorts apart; C = 10."""
    values: dict[str, object] = {
        "generation": LAYOUT.generation, "base": LAYOUT.base, "basis": LAYOUT.basis, "layout": LAYOUT.digest,
        "releases": (RELEASE,), "n_bytes": (LAYOUT.n_bytes("float16"), LAYOUT.n_bytes("float32")), "cohort": 3,
        "cohort_min": 2, "wait_s": 60.0, "rounds": 1000, "separation": 2, "participations": 2,
        "clip": 10.0, "norm_max": 100.0,
    }  # fmt: skip
    return Plan(**{**values, **changes})  # type: ignore[arg-type]


def vector(seed: int, norm: float = 1.0) -> NDArray[np.float32]:
    """Ten numbers of this norm."""
    numbers = np.random.default_rng(seed).normal(size=LAYOUT.n_numbers)
    return (numbers * norm / np.linalg.norm(numbers)).astype(np.float32)


def body(seed: int, norm: float = 1.0) -> bytes:
    """The bytes of an update."""
    return params.encode(vector(seed, norm), LAYOUT, "float32")


def head(device: str, data: bytes, nonce: int = 0, **changes: object) -> Update:
    """The head that belongs to a body."""
    token = tokens.token_of(device, LAYOUT.generation, nonce.to_bytes(16, "big"))
    values: dict[str, object] = {
        "release": RELEASE, "base": BASE, "basis": BASIS, "generation": LAYOUT.generation, "token": token,
        "digest": sha256_hex(data), "n_bytes": len(data),
    }  # fmt: skip
    return Update(**{**values, **changes})  # type: ignore[arg-type]


def measure(device: str, update: Update, data: bytes) -> fog.UpdateMeasured:
    """What the fog's driver finds out about a body."""
    try:
        if sha256_hex(data) != update.digest:
            raise UpdateRefused("wrong digest", "the body is not what its head says")
        return fog.UpdateMeasured(device, update, params.norm(params.decode(data, LAYOUT)))
    except UpdateRefused as fault:
        return fog.UpdateMeasured(device, update, 0.0, fault.reason, str(fault))  # type: ignore[arg-type]


class MemoryFog:
    """Everything committed is in ``state``, ``bodies`` and ``sums``; ``restart`` is all that a crash leaves to do."""

    def __init__(self) -> None:
        self.state = State()
        self.bodies: dict[str, tuple[Cohort, bytes]] = {}
        self.sums: dict[Cohort, bytes] = {}
        self.n_summed: dict[Cohort, int] = {}
        self.log: list[FogEvent] = []
        self.orders: list[fog.FogOrder] = []

    def feed(self, event: FogEvent, now_s: float = 0.0) -> list[FogEvent]:
        """One event; the facts that followed. The orders wait for ``work``."""
        self.state, facts, orders = settle(self.state, [event], now_s)
        self.log += facts[0]
        self.orders += orders
        return facts[0]

    def submit(self, device: str, update: Update, data: bytes, now_s: float = 0.0) -> FogEvent:
        """Head, then body; the last word about it."""
        _, facts, orders = settle(self.state, [fog.UpdateOffered(device, update)], now_s)
        if not any(isinstance(order, fog.ReceiveBody) for order in orders):
            self.log += facts[0]
            return facts[0][-1]
        facts_now = self.feed(measure(device, update, data), now_s)
        for fact in facts_now:
            if isinstance(fact, fog.UpdateCounted):
                self.bodies[fact.token] = (fact.cohort, data)
        return facts_now[0]

    def work(self) -> None:
        """Carries out what waits."""
        while self.orders:
            match self.orders.pop(0):
                case fog.SumCohort(cohort):
                    self.sum(cohort)
                case fog.DeleteBodies(cohort):
                    self.bodies = {t: held for t, held in self.bodies.items() if held[0] != cohort}

    def sum(self, cohort: Cohort) -> None:
        """As a store does it: by token, once."""
        members = sorted((t, data) for t, (c, data) in self.bodies.items() if c == cohort)
        assert self.state.plan is not None
        decoded = (params.decode(data, LAYOUT) for _, data in members)
        total = aggregate.total(decoded, LAYOUT.n_numbers, self.state.plan.clip).values
        if cohort in self.state.closed:
            self.sums[cohort] = total.tobytes()
            self.n_summed[cohort] = len(members)
            self.feed(fog.CohortSummed(cohort, sha256_hex(total.tobytes()), total.nbytes, None))

    def restart(self) -> None:
        """What was in memory is gone: orders are asked for again."""
        self.orders = []
        self.feed(fog.FogStarted("test"))


def opened(*devices: str, **changes: object) -> MemoryFog:
    """A fog with a plan and these devices."""
    made = MemoryFog()
    for device in devices:
        made.feed(fog.DeviceEnrolled(device))
    made.feed(fog.GenerationPlanned(plan(**changes)))
    return made
