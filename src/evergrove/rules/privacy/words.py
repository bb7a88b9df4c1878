"""A noise plan as the flat words that go up with a noised sum, so that a cloud can check every claim by itself.

A fog's word is not believed: a cloud rebuilds the plan, checks the digest, keeps ledgers of its own by it (``books``),
by which a plan stays the same for a generation, and computes the noise's size (``rounds.row_std``).
"""

import msgspec

from evergrove.core.cloud_events import Noise
from evergrove.core.errors import EvergroveError, InvalidInput
from evergrove.core.sums import NoisedSum
from evergrove.rules.privacy.blt import Blt
from evergrove.rules.privacy.ledger import Budget
from evergrove.rules.privacy.plan import NoisePlan

KIND, BUFFERS_MOST = "blt", 6
"""More buffers would not fit into the words that a sum may carry; two are made."""
_PLAIN = ("fog", "rounds", "separation", "participations", "cohort", "size", "clip", "version")


def words_of(plan: NoisePlan, budget: Budget) -> Noise | None:
    """The words; None for a plan without noise. ``epsilon_lifetime`` is left out where nothing bounds it."""
    if plan.multiplier is None or budget.generation is None:
        return None
    words: Noise = {
        "kind": KIND, "plan": plan.digest, "multiplier": plan.multiplier, "epsilon": budget.generation,
        "delta": budget.delta, **{name: getattr(plan, name) for name in _PLAIN},
    }  # fmt: skip
    if budget.lifetime is not None:
        words["epsilon_lifetime"] = budget.lifetime
    if plan.quantile_multiplier is not None:
        words["quantile_multiplier"] = plan.quantile_multiplier
    for j, (theta, omega) in enumerate(zip(plan.blt.theta, plan.blt.omega, strict=True)):
        words |= {f"theta{j}": theta, f"omega{j}": omega}
    return words


def plan_of(one: NoisedSum) -> tuple[NoisePlan, Budget] | None:
    """The plan and the budget behind a sum's words; None where it has no noise. Raises ``InvalidInput``."""
    if one.noise is None:
        return None
    plan, budget = read(one.noise, one.generation, f"sum {one.id[:12]}")
    if plan.digest != one.noise["plan"] or plan.cohort != one.denominator or 4 * plan.size != len(one.vector):
        raise InvalidInput(f"sum {one.id[:12]}: it is not of the noise plan that it names")
    return plan, budget


def read(noise: Noise, generation: int, what: str) -> tuple[NoisePlan, Budget]:
    """The plan and the budget behind some words, which are those of ``what``. Raises ``InvalidInput``."""
    words = dict(noise)
    try:
        if words.pop("kind") != KIND:
            raise InvalidInput(f"{what}: a noise of another kind; update the cloud")
        words.pop("plan")  # its digest
        multiplier = words.pop("multiplier")
        counts = words.pop("quantile_multiplier", None)
        bounds = (words.pop("delta"), words.pop("epsilon"), words.pop("epsilon_lifetime", None))
        plain = {name: words.pop(name) for name in _PLAIN}
        n = len(words) // 2
        blt = {"theta": [words.pop(f"theta{j}") for j in range(n)], "omega": [words.pop(f"omega{j}") for j in range(n)]}
        if words or n > BUFFERS_MOST:
            raise InvalidInput(f"{what}: words about its noise that nobody knows: {', '.join(words)[:80]}")
        budget = msgspec.convert(dict(zip(("delta", "generation", "lifetime"), bounds, strict=True)), Budget)
        made = {**plain, "generation": generation, "multiplier": multiplier, "quantile_multiplier": counts}
        return msgspec.convert({**made, "blt": msgspec.convert(blt, Blt)}, NoisePlan), budget
    except KeyError as fault:
        raise InvalidInput(f"{what}: its noise has no {fault}; update the fog") from fault
    except InvalidInput:
        raise
    except (msgspec.ValidationError, EvergroveError) as fault:
        raise InvalidInput(f"{what}: its noise makes no sense: {fault}") from fault
