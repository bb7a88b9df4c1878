"""The attack on a fog's noise: honest noise is not refuted, noise that is off or ten times too small is caught."""

import numpy as np
import pytest

from evergrove.core.errors import UsageError
from evergrove.rules.privacy.ledger import Budget
from evergrove.runtime import canaries
from evergrove.runtime.canaries import Attack, attack, plan_for

DELTA = 1e-6
QUICK = (60, 2000)
"""Directions for the estimate, where that is not what is tested."""


def seeded(seed: int) -> canaries.Chance:
    return np.random.default_rng(seed).bytes


def weak(share: float, seed: int = 0) -> canaries.Chance:
    """A broken source: every normal number that is made of it is ``share`` as long as it should be (Box-Muller)."""
    rng = np.random.default_rng(seed)

    def chance(n_bytes: int) -> bytes:
        words = np.frombuffer(rng.bytes(n_bytes), "<u8").astype(np.float64)
        half = len(words) // 2
        lengths = ((words[:half] + 1) / 2.0**64) ** (share**2)
        short = np.minimum(lengths * 2.0**64, 2.0**64 - 2048).astype("<u8")
        return short.tobytes() + words[half:].astype("<u8").tobytes()

    return chance


def test_the_broken_source_is_as_weak_as_it_says() -> None:
    """A tenth of a standard deviation; the honest one has a whole."""
    from evergrove.rules.privacy.noise import normals

    assert np.std(normals(weak(0.1)(160_000))) == pytest.approx(0.1, rel=0.02)
    assert np.std(normals(weak(1.0)(160_000))) == pytest.approx(1.0, rel=0.02)


@pytest.mark.parametrize("epsilon", [1.0, 4.0])
def test_honest_noise_is_not_refuted_but_seen(epsilon: float) -> None:
    """Of ten audits at 95 % each at most one shows more than the claim; together they show that the attack sees."""
    plan, budget = plan_for(epsilon, DELTA, 20, 4, 5), Budget(DELTA, epsilon, None)
    found = [attack(plan, budget, 2000, seeded(seed), QUICK, seeded(100 + seed)) for seed in range(10)]
    assert sum(one.refuted for one in found) <= 1
    right, guesses = sum(one.correct for one in found), sum(one.guesses for one in found)
    assert right > guesses / 2 + 3 * (guesses / 4) ** 0.5
    assert all(one.could and one.ceiling > 6.0 for one in found)
    assert all((one.rounds, one.participations, one.canaries) == (20, 5, 2000) for one in found)


@pytest.mark.parametrize("share", [0.1, 1e-6], ids=["ten times too small", "switched off"])
@pytest.mark.parametrize("epsilon", [1.0, 4.0])
def test_broken_noise_is_caught(share: float, epsilon: float) -> None:
    """Every time: the ledger cannot see it, the attack does."""
    plan, budget = plan_for(epsilon, DELTA, 20, 4, 5), Budget(DELTA, epsilon, None)
    for seed in range(3):
        found = attack(plan, budget, 2000, weak(share, seed), QUICK, seeded(seed))
        assert found.refuted, found
        assert found.estimate > epsilon


def test_a_clip_that_does_not_clip_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Canaries send three clips. Let through as they are, they stand out of noise that was made for one."""
    from evergrove.rules import aggregate

    monkeypatch.setattr(aggregate, "clip_factor", lambda norm, clip: 1.0)
    plan = plan_for(2.0, DELTA, 20, 4, 5)
    assert attack(plan, Budget(DELTA, 2.0, None), 4000, seeded(0), QUICK, seeded(1)).bound > 2.0


def test_few_canaries_cannot_refute_a_large_claim_and_say_so() -> None:
    """A hundred of them, all guessed right, show ε ≈ 3.5: never 8."""
    found = attack(plan_for(8.0, DELTA, 10, 5, 2), Budget(DELTA, 8.0, None), 100, weak(1e-6), QUICK, seeded(1))
    assert found.ceiling < 8.0
    assert not found.could
    assert not found.refuted


def test_the_estimate_is_near_the_claim() -> None:
    """At ε = 8, where 300 directions tell it well: within four of its standard errors."""
    found = attack(plan_for(8.0, DELTA, 20, 4, 5), Budget(DELTA, 8.0, None), 200, seeded(5), draw=seeded(6))
    assert abs(found.estimate - 8.0) < 4 * found.estimate_error < 8.0


def test_a_claim_of_nothing_is_not_refuted() -> None:
    """ε = ∞."""
    found = Attack(None, DELTA, 50.0, 60.0, 100, 100, 100, 1, 1, 1.0, 0.1)
    assert not found.refuted
    assert not found.could


def test_what_makes_no_sense_is_refused() -> None:
    """Too few canaries, a stream without end."""
    plan, budget = plan_for(1.0, DELTA, 10, 1, 1), Budget(DELTA, 1.0, None)
    with pytest.raises(UsageError, match="say 100"):
        attack(plan, budget, 10)
    with pytest.raises(UsageError, match="at most 5000"):
        attack(plan_for(1.0, DELTA, 6000, 1000, 2), budget)
