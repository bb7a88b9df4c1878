"""A fog's noise attacked for real: canary devices go through the production path, and an attacker reads what comes out.

What a canary sends is encoded, decoded, clipped and summed as any update is, and noised by ``FogNoise`` with the
operating system's chance. The attacker knows the plan, takes the correlation of the noise off (C·y is the sum of all
rounds with white noise on it) and looks along the canary's own direction and its own rounds: nobody sees more.

*Bound*: Dirac canaries, each in or out by a fair coin, all in one run (Steinke et al. 2023). *Estimate*: canaries in
random directions, all in (Andrew et al. 2023). Needs scipy.
"""

import math
import os
from collections.abc import Callable, Iterator

import msgspec
import numpy as np

from evergrove.adapters.fog_books import Kept
from evergrove.core import fog
from evergrove.core.conditions import Factor, Vocabulary
from evergrove.core.errors import UsageError
from evergrove.core.fog import Cohort
from evergrove.rules import aggregate, audit, params
from evergrove.rules.privacy import ledger as ledgers
from evergrove.rules.privacy.accounting import calibrate
from evergrove.rules.privacy.blt import Vector
from evergrove.rules.privacy.ledger import Budget, Ledger, Spent
from evergrove.rules.privacy.plan import NoisePlan
from evergrove.runtime.fog_noise import FogNoise

DIRECTIONS, DIRECTION_SIZE = 300, 10_000
COUNTS, MARGIN = (4096, 8192, 16_384, 32_768), 1.1
"""Canaries where nobody says how many: the fewest that could show more than the claim by this factor."""
ROUNDS_MAX = 5000
LOUD = 3.0
"""In clips: how long a canary is before it is clipped. One that is not clipped gives itself away."""
PARTS = (0.02, 0.05, 0.1, 0.2, 0.4, 1.0)
"""Of the canaries, how many the attacker may speak about; which, is said before anything is seen."""
Chance = Callable[[int], bytes]


class Attack(msgspec.Struct, frozen=True):
    """``bound`` ≤ ε with 95 % confidence; ``ceiling`` is the most that so many canaries could show of anything.

    ``claim`` is what the fog says of a generation (None: nothing). ``correct`` of ``guesses`` were right about
    ``canaries``, in ``rounds`` rounds of the stream, each canary in ``participations`` of them. ``estimate`` ±
    ``estimate_error`` is no bound.
    """

    claim: float | None
    delta: float
    bound: float
    ceiling: float
    canaries: int
    guesses: int
    correct: int
    rounds: int
    participations: int
    estimate: float
    estimate_error: float

    @property
    def refuted(self) -> bool:
        """Whether the run shows more than the claim: then the noise, or its proof, is wrong."""
        return self.claim is not None and self.bound > self.claim

    @property
    def could(self) -> bool:
        """Whether so many canaries could refute the claim at all."""
        return self.claim is not None and self.ceiling > self.claim


def attack(
    plan: NoisePlan,
    budget: Budget,
    n: int | None = None,
    chance: Chance = os.urandom,
    directions: tuple[int, int] = (DIRECTIONS, DIRECTION_SIZE),
    draw: Chance = os.urandom,
) -> Attack:
    """Audits a noise stream of this strength, matrix, b, k and clip.

    ``n`` canaries (None: as many as the claim asks for), ``directions`` how many × numbers. ``chance`` makes the fog's
    noise, ``draw`` what the fog must not know: who is in, and where.

    ``plan.size`` and ``plan.cohort`` are replaced. Raises ``UsageError`` for too few canaries or too long a stream.
    """
    n = _enough(budget) if n is None else n
    if not 100 <= n <= 100_000:
        raise UsageError(f"{n} canaries; say 100 to 100000")
    if plan.rounds > ROUNDS_MAX:
        raise UsageError(f"a stream of {plan.rounds} rounds; at most {ROUNDS_MAX} are audited")
    delta = budget.delta
    # 1. One run with n Dirac canaries: each sends three clips of its own number, or nothing.
    coins = np.unpackbits(np.frombuffer(draw(-(-n // 8)), np.uint8))[:n].astype(bool)
    seen = _seen(plan, budget, chance, (_dirac(int(i), n, LOUD * plan.clip) for i in np.flatnonzero(coins)), n)
    # 2. Whom the attacker speaks about was fixed by the plan; what it says is what it sees.
    guesses = _worth_saying(plan, budget, n)
    score = seen / plan.clip - 0.5
    loudest = np.argsort(-np.abs(score), kind="stable")[:guesses]
    correct = int(((score[loudest] > 0) == coins[loudest]).sum())
    found = audit.one_run_bound(n, guesses, correct, delta)
    # 3. The estimate, from another run.
    m, size = directions
    rng = np.random.default_rng(np.frombuffer(draw(32), np.uint64))
    ways = rng.standard_normal((m, size)).astype(np.float32)
    ways /= np.linalg.norm(ways, axis=1, keepdims=True)
    guess = audit.canary_estimate(
        audit.cosines(_seen(plan, budget, chance, iter(LOUD * plan.clip * ways), size), ways.astype(np.float64)),
        size,
        delta,
    )
    return Attack(
        budget.generation, delta, found.bound, found.ceiling, n, guesses, correct, plan.rounds, plan.most,
        guess.epsilon, guess.error,
    )  # fmt: skip


def plan_for(epsilon: float, delta: float, rounds: int, separation: int, participations: int) -> NoisePlan:
    """The plan that a fog would make for these settings, by the fog's own code; its size is for the audit to say."""
    noise = FogNoise("audit", Budget(delta, epsilon, None), os.urandom(32))
    words = _words(rounds, separation, participations, 1.0, 1)
    spent = ledgers.decode(noise.open(Kept(None, b""), words, 1, 0)).find(words.generation, "audit")
    assert spent is not None, "just opened"
    return spent.plan


def _seen(plan: NoisePlan, budget: Budget, chance: Chance, sent: Iterator[params.Vector], size: int) -> Vector:
    """What the attacker sees of every number (size,): its part of all rounds, in the units of an update.

    That is the clipped sum plus white noise of z·clip, where a canary takes part as often as it may.
    """
    # 1. What canaries send goes over the line as any update does; then it is clipped and summed.
    layout = _layout(size)
    arrived = (params.decode(params.encode(one, layout, "float32"), layout) for one in sent)
    full, empty = aggregate.total(arrived, size, plan.clip), aggregate.total((), size, plan.clip)
    # 2. The stream as the plan says, for so many numbers and devices, in the fog's own hands.
    plan = msgspec.structs.replace(plan, size=size, cohort=max(full.n_updates, 1))
    noise = FogNoise(plan.fog, budget, os.urandom(32), chance)
    words = _words(plan.rounds, plan.separation, plan.participations, plan.clip, plan.cohort, plan.generation)
    known = ledgers.encode(Ledger(budget, (Spent(plan),)))
    kept = Kept(None, noise.open(Kept(None, known), words, size, 0))
    # 3. C·y has white noise; the canary's pattern in it is u = Σ_j shift(c, j·b). The attacker adds up uᵀC·y.
    n = plan.rounds
    c, u = plan.blt.coefficients(n), np.zeros(n)
    for j in range(plan.most):
        u[j * plan.separation :] += c[: n - j * plan.separation]
    # 4. Round after round; canaries are in every b-th, as often as they may.
    seen = np.zeros(size)
    for t in range(n):
        here = t % plan.separation == 0 and t // plan.separation < plan.most
        noised = noise.close(kept, Cohort(plan.generation, t), full if here else empty)
        seen += float(u[t:] @ c[: n - t]) * noised.values
        kept = noised.kept
    result: Vector = seen / float(u @ u)
    return result


def _enough(budget: Budget) -> int:
    """The fewest canaries that could refute the claim with room to spare; the most there are, where none could."""
    claim = MARGIN * (budget.generation or 0.0)
    return next((n for n in COUNTS if audit.one_run_bound(n, n, n, budget.delta).ceiling > claim), COUNTS[-1])


def _worth_saying(plan: NoisePlan, budget: Budget, n: int) -> int:
    """About how many canaries to guess, so that the bound is largest if the noise is as strong as it is claimed."""
    z = calibrate(budget.generation, budget.delta) if budget.generation is not None else plan.multiplier or 1.0
    rng = np.random.default_rng(0)  # a rehearsal with made-up noise: nothing of the real run is looked at
    coins = rng.random(n) < 0.5
    score = coins - 0.5 + z * rng.standard_normal(n)
    order = np.argsort(-np.abs(score))
    right = np.cumsum((score[order] > 0) == coins[order])
    # Of so many, all right, the bound must be above the claim: else not even a fog without noise could be caught.
    claim = MARGIN * (budget.generation or 0.0)
    counts = [max(1, int(part * n)) for part in PARTS]
    counts = [r for r in counts if audit.one_run_bound(n, r, r, budget.delta).bound > claim] or [n]
    return max(counts, key=lambda r: audit.one_run_bound(n, r, int(right[r - 1]), budget.delta).bound)


def _dirac(i: int, size: int, length: float) -> params.Vector:
    one = np.zeros(size, np.float32)
    one[i] = length
    return one


def _layout(size: int) -> params.Layout:
    """An update of ``size`` numbers."""
    vocabulary = Vocabulary((Factor("canary", ()),))
    return params.Layout("0" * 64, "0" * 64, 0, vocabulary, (params.Slot("canary.B", (size, 1)),))


def _words(
    rounds: int, separation: int, participations: int, clip: float, cohort: int, generation: int = 0
) -> fog.Plan:
    return fog.Plan(
        generation, "0" * 64, "0" * 64, "0" * 64, ("0" * 64,), (1,), cohort, 1, 1.0, rounds, separation,
        participations, clip, math.inf if math.isinf(clip) else max(100.0, LOUD * clip),
    )  # fmt: skip
