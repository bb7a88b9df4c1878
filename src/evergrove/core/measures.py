"""What was measured outside a reducer and is judged inside it: scalars only, never a feature or a value per item."""

from typing import Literal

import msgspec

from evergrove.core.conditions import Code

Kind = Literal["incumbent", "release", "teacher", "gain"]


class Facts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One observation against what is kept of its condition.

    ``exact_duplicate``: pixel-identical to a kept one (train or golden). ``hash_bits``: Hamming distance of the
    perceptual hash to the nearest kept one. ``distance``: feature distance to the nearest kept one, which is the
    observation's surprise. The latter two are None where nothing of the condition is kept yet.
    """

    exact_duplicate: bool
    hash_bits: int | None
    distance: float | None


class Comparison(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Paired differences of one condition's golden items, harm positive.

    ``n`` counts items (losses are averaged over their (t, noise) draws first). ``mean`` and ``std`` (ddof 1) are of the
    per-item differences divided by what the condition is worth: 0 is no change, 1 as bad as being told another
    condition. ``skew`` is their third moment over std³: positive where a few items bear the harm. ``condition`` is a
    group's code.
    Kinds: candidate minus incumbent, candidate minus release, distance to the teacher minus the release's distance,
    and *gain* (candidate minus incumbent on what was learnt; negative is good).
    """

    kind: Kind
    condition: Code
    n: int
    mean: float
    std: float
    skew: float = 0.0


class Choice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One way to run a release: ``candidate`` is the release and ``gamma`` times what the device has learnt itself.

    ``candidate`` None: the release alone. ``given`` is what the last update is counted from there, in the same way.
    ``score`` is its mean loss over the device's held-back pictures, each condition alike (0 where there are none).
    ``relearnt``: it is the release, and on it the device has learnt its own pictures again.
    """

    gamma: float
    candidate: str | None
    given: str | None
    score: float
    comparisons: tuple[Comparison, ...]
    relearnt: bool = False
