"""A candidate that the fleet's gate has let pass, made up as a whole release that waits for the offline keys."""

from pathlib import Path

import msgspec

from evergrove.adapters.release import MANIFEST, open_release
from evergrove.adapters.release_write import write_release
from evergrove.adapters.tuf_metadata import CARD
from evergrove.core import cloud_effects as do
from evergrove.core.cloud_jobs import FleetMeasure
from evergrove.core.errors import CorruptState
from evergrove.runtime import cloud_merged
from evergrove.runtime.cloud_folder import CloudFolder
from evergrove.runtime.rollouts import Rollouts
from evergrove.views.model_card import About, model_card

MEASURED = "measured.json"
GATHERED = (
    "What devices of the fleet have learnt from their own observations, which never left them: the sums of {} cohorts "
    "of clipped updates, on top of the release before."
)
RECONCILED = (
    " It was then reconciled with what the base knew, in {} steps on the release's own files: an old teacher, the "
    "rehearsal pack, and its own word on what is new."
)
MERGED = (
    "What the releases of the generation before had learnt, merged into one base; the new A is learnt on changed "
    "pictures of the rehearsal pack."
)


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
    opened, work = open_release(source), rollouts.cloud.work
    merged = work is not None and work.purpose == "merge"
    if merged and not (folder / MANIFEST).exists():
        assert work is not None, "asked above"
        cloud_merged.write(cloud, asked.candidate, opened, folder, work.clip)
    elif not folder.exists():
        cloud.files.make_folder(folder.parent)
        data, version = cloud.get(measure.scaled), opened.manifest.version + 1
        rehearsal = None if measure.rehearsal is None else cloud.get(measure.rehearsal)
        write_release(opened, data, folder, version, rehearsal=rehearsal, files=cloud.files)
    manifest, n_steps = open_release(folder).manifest, rollouts.settings.consolidate.reconcile_steps
    gathered = GATHERED.format(asked.cohorts) + (RECONCILED.format(n_steps) if n_steps else "")
    about = About(
        MERGED if merged else gathered,
        comparisons=measure.comparisons,
        policy=rollouts.policy.gate,
        epsilon=float("inf") if asked.epsilon is None else asked.epsilon,
        delta=rollouts.settings.gather.delta if asked.epsilon else 0.0,
        cohorts=asked.cohorts,
        parent=asked.parent,
    )
    cloud.files.write(folder / CARD, model_card(manifest, about).encode(), mode=0o644)
