"""The best attack on a whole noise stream sees exactly what the ledger charges, and more where a limit is broken.

Each of 3000 canary devices updates one number of its own, at the full clip, and takes part or not by a coin. Every
round goes through ``close``. The attacker knows all but the coins: it whitens what was handed up (C·y has
independent noise) and matches it with what a device moves, the most powerful test there is (Neyman & Pearson).
"""

from collections.abc import Sequence

import numpy as np
import pytest
from noise_plans import VECTOR, plan
from numpy.typing import NDArray
from scipy.linalg import toeplitz

from evergrove.core.rng import stream
from evergrove.rules.aggregate import CohortSum, quantum
from evergrove.rules.audit import one_run_bound
from evergrove.rules.privacy import ledger, noise
from evergrove.rules.privacy.accounting import calibrate
from evergrove.rules.privacy.blt import Blt
from evergrove.rules.privacy.ledger import Budget, Ledger
from evergrove.rules.privacy.quantile import N_COUNTS
from evergrove.rules.privacy.rounds import close

SIZE, CLIP = 3000, 0.5
EPSILON = 4.0


def scores(blt: Blt, taking_part: Sequence[int], seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.bool_], float]:
    """The attacker's statistic of each canary (spread 1), who was in, and the multiplier of the noise."""
    z = calibrate(EPSILON, 1e-6)
    one = plan(
        blt=blt,
        rounds=30,
        separation=10,
        participations=3,
        size=SIZE,
        clip=CLIP,
        multiplier=z,
        quantile_multiplier=None,
    )
    rng, present = stream(seed, "noise"), stream(seed, "coins").random(SIZE) < 0.5
    state, book = noise.start(one), ledger.open_stream(Ledger(Budget(generation=EPSILON)), one)
    handed = []
    for t in range(30):
        # On the grid the canaries' sum is written down at once: 3000 updates of one number each do not overlap.
        came = present if t in taking_part else np.zeros(SIZE)
        cohort = CohortSum(CLIP, 0, (came * CLIP / quantum(CLIP)).astype("<i8").tobytes())
        closed = close(one, cohort, state, book, rng.standard_normal(SIZE))
        state, book = closed.state, closed.ledger
        handed.append(closed.values)
    C = toeplitz(blt.coefficients(30), np.zeros(30))
    moved = C[:, list(taking_part)].sum(axis=1)
    whitened = C @ np.array(handed) / one.noise_std
    return moved @ whitened / np.linalg.norm(moved), present, z


@pytest.mark.parametrize("blt", [Blt(), VECTOR, Blt((1.0, 0.98, 0.6), (0.01, 0.2, 0.3))], ids=["1", "2", "3"])
def test_it_sees_what_is_charged(blt: Blt) -> None:
    """A shift of μ = 1/z at a spread of 1, for independent and for correlated noise: the charge is right, and tight."""
    score, present, z = scores(blt, (0, 10, 20))
    assert score[~present].std() == pytest.approx(1.0, abs=0.05)
    assert score[present].std() == pytest.approx(1.0, abs=0.05)
    shift = score[present].mean() - score[~present].mean()
    assert shift == pytest.approx(1 / z, abs=4 * np.sqrt(4 / SIZE))


def test_it_sees_of_the_counts_of_norms_what_is_charged() -> None:
    """150 streams, in each a hundred devices that move as one for each of the ten counts, in or not by a coin, three
    times: whitened and matched as above, the counts are shifted by 100/z_q at a spread of 1. A hundred, so that the
    rounding to whole numbers, which only hides more, does not show.
    """
    z, crowd = 70.0, 100
    one = plan(blt=VECTOR, rounds=30, separation=10, participations=3, size=1, quantile_multiplier=z)
    rng, dense = stream(0, "noise"), toeplitz(VECTOR.coefficients(30), np.zeros(30))
    moved = dense[:, [0, 10, 20]].sum(axis=1)
    coins, scores = [], []
    for _ in range(150):
        present = rng.random(N_COUNTS) < 0.5
        state, book = noise.start(one), ledger.open_stream(Ledger(Budget(generation=None, lifetime=None)), one)
        handed = []
        for t in range(30):
            came = tuple(crowd * int(x) for x in present) if t % 10 == 0 else (0,) * N_COUNTS
            cohort = CohortSum(one.clip, 0, bytes(8), came)
            closed = close(one, cohort, state, book, rng.standard_normal(one.width))
            state, book = closed.state, closed.ledger
            handed.append(closed.counts)
        coins.append(present)
        scores.append(moved @ dense @ np.array(handed) / one.quantile_std / np.linalg.norm(moved))
    present, score = np.concatenate(coins), np.concatenate(scores)
    assert score[~present].std() == pytest.approx(1.0, abs=0.1)
    shift = score[present].mean() - score[~present].mean()
    assert shift == pytest.approx(crowd / z, abs=4 * np.sqrt(4 / len(score)))


def test_the_one_run_bound_does_not_refute_the_claim() -> None:
    """The 300 clearest of 3000 guessed: something is seen, and less than ε = 4."""
    score, present, z = scores(VECTOR, (0, 10, 20))
    order = np.argsort(score - 0.5 / z)
    guessed = np.concatenate([order[:150], order[-150:]])
    correct = int(((score[guessed] > 0.5 / z) == present[guessed]).sum())
    found = one_run_bound(SIZE, 300, correct, 1e-6)
    assert 0.3 < found.bound < EPSILON < found.ceiling


def test_a_device_that_comes_too_soon_is_seen_more_than_is_charged() -> None:
    """b = 10, and it comes in three rounds running: why fog and device both hold to b."""
    score, present, z = scores(VECTOR, (0, 1, 2))
    shift = score[present].mean() - score[~present].mean()
    assert shift > 1.1 / z
