"""The public constants of one noise stream: one fog's rounds in one generation. Whoever has them can check every claim.

A plan is fixed when a generation begins and named by its digest. b and k count *its* rounds, C and the denominator are
constant in it, every update weighs the same. Adjacency: one device's updates, all of them, replaced by zeros.
"""

import hashlib
import math

import msgspec

from evergrove.core.errors import UsageError
from evergrove.rules.privacy import blt as matrices
from evergrove.rules.privacy.blt import Blt
from evergrove.rules.privacy.clipping import CLIP_MAX, CLIP_MIN
from evergrove.rules.privacy.participation import Limits
from evergrove.rules.privacy.quantile import N_COUNTS

VALUES_MAX = 100_000_000
COHORT_MAX = 1_000_000


class NoisePlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One noise stream.

    ``rounds`` (n) cohorts at most are released; a device is in at most ``participations`` (k) of them, ``separation``
    (b) or more apart. ``cohort`` (K) is the public denominator of the mean, whoever came. ``size`` is how many numbers
    an update has, ``clip`` (C) the bound on its norm. ``multiplier`` (z) is the noise's standard deviation over the
    stream's sensitivity; None adds no noise, and ε is infinite. ``quantile_multiplier`` is the same for the counts of
    norms that set the next generation's clip, which go through the stream beside the sum; None: there are none, or,
    without noise, exact ones. Raises ``UsageError``.
    """

    generation: int
    fog: str
    rounds: int
    separation: int
    participations: int
    cohort: int
    size: int
    clip: float
    multiplier: float | None
    blt: Blt
    quantile_multiplier: float | None = None
    version: int = 1

    def __post_init__(self) -> None:
        for name in ("clip", "multiplier", "quantile_multiplier"):
            value = getattr(self, name)
            if value is not None:  # floats whoever wrote them: 1 and 1.0 must not give two digests of one plan
                msgspec.structs.force_setattr(self, name, float(value))
        matrices.participations_most(self.rounds, self.separation, self.participations)
        if self.generation < 0 or not self.fog or len(self.fog) > 200:
            raise UsageError("a noise stream has a generation from 0 on and the name of its fog")
        if not (1 <= self.cohort <= COHORT_MAX and 1 <= self.size <= VALUES_MAX):
            raise UsageError(f"a cohort of {self.cohort} updates of {self.size} numbers; say 1 or more of each")
        if not CLIP_MIN <= self.clip <= CLIP_MAX:
            raise UsageError(f"a clip of {self.clip:g}; say one between {CLIP_MIN:g} and {CLIP_MAX:g}")
        for name, z in (("multiplier", self.multiplier), ("quantile_multiplier", self.quantile_multiplier)):
            if z is not None and not 1e-3 <= z <= 1e6:
                raise UsageError(f"{name} = {z}; say one between .001 and 1e6, or None for no noise")
        if self.multiplier is None and self.quantile_multiplier is not None:
            raise UsageError("a plan that adds noise to its counts of norms and none to its sums makes no sense")
        if self.version != 1:
            raise UsageError(f"a noise plan of version {self.version}, this program reads 1: update Evergrove")

    @property
    def digest(self) -> str:
        """SHA-256 of the plan's canonical JSON, in hex."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()

    @property
    def limits(self) -> Limits:
        """What a device is held to, and holds itself to."""
        return Limits(self.generation, self.fog, self.rounds, self.separation, self.participations)

    @property
    def most(self) -> int:
        """How often a device can really take part."""
        return matrices.participations_most(self.rounds, self.separation, self.participations)

    def sensitivity(self, rounds: int | None = None) -> float:
        """What one device can move in the first ``rounds`` rounds of C·x (None: in all), per unit of the clip."""
        n = self.rounds if rounds is None else rounds
        return matrices.sensitivity(self.blt, n, self.separation, self.participations) if n else 0.0

    @property
    def noise_std(self) -> float:
        """σ: what a standard normal vector is multiplied by before C⁻¹, in the units of an update; 0 without noise."""
        return 0.0 if self.multiplier is None else self.multiplier * self.sensitivity() * self.clip

    @property
    def n_counts(self) -> int:
        """How many counts of norms have noise of this stream, beside the sum's numbers."""
        return 0 if self.quantile_multiplier is None else N_COUNTS

    @property
    def width(self) -> int:
        """How many numbers of each round have noise: those of the sum, then the counts."""
        return self.size + self.n_counts

    @property
    def quantile_std(self) -> float:
        """As ``noise_std``, for the counts: an update adds 1 to one of them at most; 0 where they have no noise."""
        return 0.0 if self.quantile_multiplier is None else self.quantile_multiplier * self.sensitivity()

    def mu_squared(self, rounds: int) -> float:
        """μ² of the first ``rounds`` rounds: (sensitivity/σ)², of the sums and of the counts beside them.

        In units of its noise, an update and its 1 in a count are one vector of squared norm 1/z² + 1/z_q² at most, so
        they share the stream's sensitivity. Gaussian queries compose by adding μ², adaptively too. Infinite where
        something was released without noise.
        """
        if not rounds:
            return 0.0
        if self.multiplier is None:
            return math.inf
        counts = 0.0 if self.quantile_multiplier is None else self.quantile_multiplier**-2
        return (self.sensitivity(rounds) / self.sensitivity()) ** 2 * (self.multiplier**-2 + counts)
