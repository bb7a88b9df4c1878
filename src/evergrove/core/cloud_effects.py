"""What the cloud's reducer asks of its driver. Every effect may be carried out twice with the same result.

The numbers are made elsewhere (``rules/consolidate``, ``learn``): here they are only ordered, by name.
"""

from typing import Literal

import msgspec

from evergrove.core.cloud_events import CloudEvent, CohortSum
from evergrove.core.rollout import Directive


class CloudEffect(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind"):
    """Base of the effects."""


class Emit(CloudEffect, frozen=True, tag="emit"):
    """This fact follows, in the same transaction."""

    event: CloudEvent


class AnswerFog(CloudEffect, frozen=True, tag="answer_fog"):
    """Tell the fog what became of its sum: ``counted`` (now or before), ``later``, or ``never`` with the reason."""

    cohort: CohortSum
    outcome: Literal["counted", "later", "never"]
    reason: str = ""


class Consolidate(CloudEffect, frozen=True, tag="consolidate"):
    """Make a candidate of the release and these sums, from the server optimiser's state ``server`` (None: fresh).

    For one job the sums are always the same, in the same order.
    """

    job: str
    release: str
    cohorts: tuple[CohortSum, ...]
    server: str | None
    attempt: int


class MergeGeneration(CloudEffect, frozen=True, tag="merge_generation"):
    """Merge B·A of the release into its base, and learn the next generation's A."""

    job: str
    release: str
    attempt: int


class MeasureFleet(CloudEffect, frozen=True, tag="measure_fleet"):
    """Measure a candidate, scaled by ``gamma``, against the release on the fleet's golden set, with trigger probes."""

    job: str
    candidate: str
    release: str
    gamma: float
    attempt: int


class SignRelease(CloudEffect, frozen=True, tag="sign_release"):
    """Ask whoever holds the offline keys to sign the candidate at ``gamma``. A person does it, in their own time.

    ``epsilon`` is what a user has spent with it; None: no noise, no bound. ``cohorts`` of updates went in since
    ``parent``.
    """

    job: str
    candidate: str
    gamma: float
    parent: str
    epsilon: float | None
    cohorts: int


class StartRollout(CloudEffect, frozen=True, tag="start_rollout"):
    """Plan the stages for the devices that are known, and answer by ``RolloutStarted``."""

    job: str
    release: str
    version: int


class PublishDirective(CloudEffect, frozen=True, tag="publish_directive"):
    """Sign and publish what devices are told of the rollout."""

    directive: Directive


class StopWork(CloudEffect, frozen=True, tag="stop_work"):
    """End the worker of this job, if there is one, and remove what it left."""

    job: str


Effect = (
    Emit
    | AnswerFog
    | Consolidate
    | MergeGeneration
    | MeasureFleet
    | SignRelease
    | StartRollout
    | PublishDirective
    | StopWork
)
