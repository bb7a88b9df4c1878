"""What a cloud's worker is told to do, and what it may answer: files in the job's folder, by name and by content.

``cloud`` is the cloud's folder, ``release`` that of the release gone on from; sums, candidates and the optimiser's
states are named by their SHA-256 in the cloud's store (``runtime/cloud_folder``).
"""

import msgspec

from evergrove.core.cloud_events import CohortSum
from evergrove.core.cloud_settings import CloudSettings
from evergrove.core.measures import Comparison


class ConsolidateJob(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="consolidate"):
    """Make the next B from the released one and these sums; ``server`` is the optimiser's state (None: fresh)."""

    cloud: str
    release: str
    cohorts: tuple[CohortSum, ...]
    server: str | None
    settings: CloudSettings


class MeasureJob(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="measure"):
    """Measure a candidate: the release and ``gamma`` of what it has more, on the golden sets; probe for triggers.

    ``first`` is the folder of the generation's first release, ``golden`` the fleet's own golden set (None: none).
    ``merged``: the candidate is a next generation's base and A, which no scale makes smaller.
    """

    cloud: str
    release: str
    first: str
    candidate: str
    gamma: float
    golden: str | None
    merged: bool
    settings: CloudSettings


class MergeJob(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="merge"):
    """Merge B·A of the release into its base, and learn the next generation's A on public pseudo-tasks."""

    cloud: str
    release: str
    settings: CloudSettings


CloudJob = ConsolidateJob | MeasureJob | MergeJob


class Made(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="made"):
    """The candidate and the optimiser's state are in the store. ``notes``: what was left out of it, and why."""

    candidate: str
    server: str | None
    seconds: float
    notes: tuple[str, ...] = ()


class FleetMeasure(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="measured"):
    """What the golden sets say; ``scaled`` is what was measured, as it would be released, in the store.

    ``rehearsal`` is the pack to go with it, which also shows what the fleet has learnt (None: that of the release).
    """

    scaled: str
    rehearsal: str | None
    comparisons: tuple[Comparison, ...]
    probes: tuple[str, ...]
    seconds: float


class CloudFailed(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="failed"):
    """The job cannot be done; trying again would repeat the error."""

    reason: str


CloudOutcome = Made | FleetMeasure | CloudFailed
