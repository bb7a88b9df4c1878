"""A candidate that the fleet's gate has let pass, made up as a whole release that waits for the offline keys."""

from pathlib import Path

import msgspec

from evergrove.adapters.release import open_release
from evergrove.adapters.release_write import write_release
from evergrove.adapters.tuf_metadata import CARD
from evergrove.core import cloud_effects as do
from evergrove.core.cloud_jobs import FleetMeasure
from evergrove.core.errors import CorruptState
from evergrove.runtime.cloud_folder import CloudFolder
from evergrove.runtime.rollouts import Rollouts
from evergrove.views.model_card import About, model_card

MEASURED, MEASURED_BYTES_MAX = "measured.json", 16 << 20


def note(cloud: CloudFolder, job: str, measure: FleetMeasure) -> None:
    """Keeps what was measured last, for the model card; before it is logged, so that it is there afterwards."""
    cloud.files.write(cloud.work(job) / MEASURED, msgspec.json.encode(measure))


def make_up(rollouts: Rollouts, asked: do.SignRelease, source: Path) -> None:
    """The folder ``candidates/<job>``: a release with its model card, as it will be signed. Made once.

    ``source`` is the folder of the release that it was made from. Raises ``CorruptState``, ``InvalidArtefact``.
    """
    cloud = rollouts.files
    folder = cloud.candidate(asked.job)
    if (folder / CARD).exists():
        return
    try:
        data = (cloud.work(asked.job) / MEASURED).read_bytes()
        measure = msgspec.json.decode(data, type=FleetMeasure)
    except (OSError, msgspec.MsgspecError) as fault:
        raise CorruptState(
            f"{cloud.work(asked.job) / MEASURED}: gone or damaged ({fault}); give the candidate up by `evergrove "
            "rollout refuse`"
        ) from fault
    if not folder.exists():
        opened = open_release(source)
        cloud.files.make_folder(folder.parent)
        write_release(opened, cloud.get(measure.scaled), folder, opened.manifest.version + 1, files=cloud.files)
    manifest = open_release(folder).manifest
    about = About(
        f"What devices of the fleet have learnt from their own observations, which never left them: the sums of "
        f"{asked.cohorts} cohorts of clipped updates, on top of the release before.",
        comparisons=measure.comparisons,
        policy=rollouts.policy.gate,
        epsilon=float("inf") if asked.epsilon is None else asked.epsilon,
        delta=rollouts.settings.gather.delta if asked.epsilon else 0.0,
        cohorts=asked.cohorts,
        parent=asked.parent,
    )
    cloud.files.write(folder / CARD, model_card(manifest, about).encode(), mode=0o644)
