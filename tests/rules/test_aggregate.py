"""Sums that are the same bytes in any order and grouping; and rules across fogs that outlast a hostile one."""

from fractions import Fraction
from itertools import pairwise

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from evergrove.core.errors import InvalidInput, UsageError
from evergrove.rules.aggregate import CohortSum, FogSum, Rule, combine, join, norm_most, on_grid, quantum, total
from evergrove.rules.privacy.clipping import clip_update

SIZE = 7
UPDATE = hnp.arrays(np.float32, SIZE, elements=st.floats(-(2.0**90), 2.0**90, width=32))
UPDATES = st.lists(st.one_of(UPDATE, UPDATE.map(lambda u: u.astype(np.float64) * 1e-30)), max_size=12)
CLIP = st.floats(1e-4, 1e4)


@settings(max_examples=60, deadline=None)
@given(UPDATES, CLIP, st.randoms(use_true_random=False), st.lists(st.integers(0, 12), max_size=3))
def test_the_sum_is_the_same_bytes_in_any_order_and_grouping(
    updates: list[np.ndarray], clip: float, rng: object, cuts: list[int]
) -> None:
    """Shuffled, and cut into parts that several workers sum and others join: bit for bit the same."""
    whole = total(updates, SIZE, clip)
    mixed = list(updates)
    rng.shuffle(mixed)  # type: ignore[attr-defined]
    bounds = [0, *sorted(min(c, len(mixed)) for c in cuts), len(mixed)]
    parts = [total(mixed[a:b], SIZE, clip) for a, b in pairwise(bounds)]
    rng.shuffle(parts)  # type: ignore[attr-defined]
    joined = parts[0]
    for part in parts[1:]:
        joined = join(joined, msgspec.msgpack.decode(msgspec.msgpack.encode(part), type=CohortSum))
    assert joined == whole
    assert whole.n_updates == len(updates)


@settings(max_examples=100, deadline=None)
@given(UPDATE, CLIP)
def test_putting_on_the_grid_never_lengthens(update: np.ndarray, clip: float) -> None:
    """In exact arithmetic: what one update adds to a sum is no longer than the clip."""
    numbers = on_grid(update, clip)
    norm2 = sum(int(n) ** 2 for n in numbers)
    assert norm2 <= (Fraction(clip) / Fraction(quantum(clip))) ** 2 * (1 + Fraction(1, 10**14))
    assert np.abs(numbers * quantum(clip) - clip_update(update.astype(np.float64), clip)).max() <= 2 * quantum(clip)


@settings(max_examples=30, deadline=None)
@given(UPDATES, CLIP)
def test_the_sum_is_the_sum_of_the_clipped(updates: list[np.ndarray], clip: float) -> None:
    """To one step of the grid an update: 2⁻³² of the clip."""
    plain = sum((clip_update(u.astype(np.float64), clip) for u in updates), start=np.zeros(SIZE))
    assert np.abs(total(updates, SIZE, clip).values - plain).max() <= 2 * quantum(clip) * max(len(updates), 1)


def test_by_hand() -> None:
    """Clip 1: [3, 4] counts as [.6, .8], [.1, 0] as itself; nothing sums to zero; the grid of 1 is 2⁻³²."""
    assert quantum(1.0) == quantum(1.99) == 2.0**-32
    assert quantum(0.99) == 2.0**-33
    two = total([np.array([3.0, 4.0]), np.array([0.1, 0.0])], 2, 1.0)
    assert two.values == pytest.approx([0.7, 0.8])
    assert total([], 2, 1.0).values.tolist() == [0.0, 0.0]


def test_one_bad_update_leaves_no_sum() -> None:
    """Not finite, or of another size: an error before anything comes out."""
    good = np.ones(SIZE)
    with pytest.raises(InvalidInput, match="not finite"):
        total([good, np.full(SIZE, np.nan)], SIZE, 1.0)
    for other in (np.ones(1), np.ones((SIZE, 1)), np.ones(SIZE + 1)):
        with pytest.raises(InvalidInput, match="refuse it"):
            total([good, other], SIZE, 1.0)
    with pytest.raises(UsageError, match="clip is constant"):
        join(total([good], SIZE, 1.0), total([good], SIZE, 0.5))
    with pytest.raises(UsageError, match="clip is constant"):
        join(total([good], SIZE, 1.0), total([good[1:]], SIZE - 1, 1.0))


def test_a_full_sum_and_its_noise_fit_into_64_bits() -> None:
    """2²⁰ updates of the largest number: the bound is there so that nothing wraps."""
    one = on_grid(np.array([1.999]), 1.999)[0]
    assert int(one) * 2**20 <= 2**53
    full = CohortSum(1.0, 2**20, np.zeros(1, "<i8").tobytes())
    with pytest.raises(UsageError, match="at most"):
        join(full, total([np.ones(1)], 1, 1.0))


# ---- across fogs -----------------------------------------------------------------------------------------------------


def fogs(n: int, seed: int = 0, std: float = 0.01) -> list[FogSum]:
    """Honest fogs of ten devices each, whose mean update is .1 in every coordinate but for noise."""
    rng = np.random.default_rng(seed)
    return [FogSum(f"fog{i}", 1.0 + std * rng.standard_normal(50), 10, 1.0, std) for i in range(n)]


def test_the_mean_weighs_by_public_denominators() -> None:
    """Sums over denominators, whoever came: (3 + 1)/(2 + 8)."""
    sums = [FogSum("b", np.array([3.0]), 8, 1.0, 0.0), FogSum("a", np.array([1.0]), 2, 1.0, 0.0)]
    found = combine(sums)
    assert found.values.tolist() == [0.4]
    assert found.used == ("a", "b")
    assert found.cancels


RULES: list[Rule] = ["mean", "trimmed mean", "median"]


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=20, deadline=None)
@given(order=st.permutations(range(7)))
def test_any_order_of_fogs_gives_the_same_bytes(rule: Rule, order: list[int]) -> None:
    """No rule depends on who was first."""
    sums = fogs(7)
    assert combine([sums[i] for i in order], rule).values.tobytes() == combine(sums, rule).values.tobytes()


@pytest.mark.parametrize("rule", RULES)
def test_rules_agree_on_equal_fogs_and_keep_within_them(rule: Rule) -> None:
    """No rule leaves the range that the fogs span in any coordinate."""
    sums = fogs(6)
    found, means = combine(sums, rule).values, np.stack([s.values / s.cohort for s in sums])
    assert np.all(means.min(axis=0) <= found + 1e-15)
    assert np.all(found <= means.max(axis=0) + 1e-15)
    same = [FogSum(f"f{i}", np.full(3, 2.0), 10, 1.0, 0.0) for i in range(5)]
    assert combine(same, rule).values == pytest.approx(np.full(3, 0.2))


def test_an_honest_noise_passes_and_what_it_cannot_be_does_not() -> None:
    """1000 honest sums of noise pass; a sum scaled by 1000, or one that is not finite, is left out, and said so."""
    rng = np.random.default_rng(1)
    assert all(combine([FogSum("f", 3.0 * rng.standard_normal(100), 10, 1.0, 3.0)]).refused == () for _ in range(1000))
    sums = fogs(4)
    scaled = FogSum("x", sums[0].values * 1000, 10, 1.0, 0.01)
    broken = FogSum("y", np.full(50, np.nan), 10, 1.0, 0.01)
    found = combine([*sums, scaled, broken])
    assert found.values.tobytes() == combine(sums).values.tobytes()
    assert [fog for fog, _ in found.refused] == ["x", "y"]
    assert "10 clips and the noise" in found.refused[0][1]
    assert not found.cancels  # its earlier noise has nothing to cancel against
    with pytest.raises(InvalidInput, match=r"no fog's sum is sound: x: .*; y: not finite"):
        combine([broken, scaled])


def test_the_bound_on_a_norm() -> None:
    """Without noise: K clips. With noise, √n σ and a little."""
    assert norm_most(FogSum("f", np.zeros(100), 10, 0.5, 0.0)) == pytest.approx(5.0)
    assert norm_most(FogSum("f", np.zeros(10_000), 0, 1.0, 2.0)) == pytest.approx(2 * 100, rel=0.1)


@pytest.mark.parametrize("rule", ["trimmed mean", "median"])
def test_one_hostile_fog_of_five_within_its_norm(rule: Rule) -> None:
    """All K clips against the others: the mean moves by a third of them, a robust rule by next to nothing."""
    sums = fogs(5)
    hostile = FogSum("fog4", -sums[4].values / np.linalg.norm(sums[4].values) * 9.9, 10, 1.0, 0.01)
    truth = np.full(50, 0.1)
    robust = combine([*sums[:4], hostile], rule)
    mean = combine([*sums[:4], hostile])
    assert np.abs(robust.values - truth).max() < 0.01
    assert np.abs(mean.values - truth).max() > 0.02
    assert not robust.cancels
    assert hostile.fog in robust.used  # its norm is an honest one


def test_robust_rules_take_five_fogs() -> None:
    """Fewer cannot outvote one of them; a fog twice, or sums of two sizes, are a mistake."""
    with pytest.raises(UsageError, match="it takes 5"):
        combine(fogs(4), "median")
    with pytest.raises(UsageError, match="a trim of"):
        combine(fogs(5), "trimmed mean", trim=0.5)
    with pytest.raises(UsageError, match="a fog twice"):
        combine([*fogs(2), fogs(1)[0]])
    with pytest.raises(InvalidInput, match="no fog's sum"):
        combine([])
    for n in (5, 6, 9):  # a trim just under a half leaves the middle
        assert combine(fogs(n), "trimmed mean", trim=0.49).values == pytest.approx(combine(fogs(n), "median").values)
