"""What a cloud's worker makes of cohorts' sums: the candidate's B, and the server optimiser's state. numpy alone.

Everything comes from the cloud's folder by its name, and what is made is put into its store before the outcome says so.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from evergrove.adapters.release import Release, open_release
from evergrove.adapters.release_write import blank
from evergrove.core.cloud_jobs import ConsolidateJob, Made
from evergrove.core.cloud_settings import Consolidation
from evergrove.rules import fleet, fleet_sums, learnt, params
from evergrove.rules.consolidate import ServerState
from evergrove.rules.learnt import Learnt
from evergrove.runtime.cloud_folder import CloudFolder

Vector = NDArray[np.float64]


class Learning(NamedTuple):
    """What needs torch, each asked only where the settings want it (``runtime/fleet_tasks``).

    ``fisher_of``: the diagonal of the released model's Fisher over B. ``reconciled``: a candidate's file, reconciled
    with what the base knew (None: that diverged).
    """

    fisher_of: Callable[[Release, Learnt, params.Layout, Consolidation], Vector]
    reconciled: Callable[[Release, bytes, Consolidation], bytes | None]


def consolidate(job: ConsolidateJob, learning: Learning) -> Made:
    """The next B: the released one and the server's step by the exact mean of the cohorts' sums, reconciled with what
    the base knew."""
    started_s, cloud = time.monotonic(), CloudFolder(Path(job.cloud))
    # 1. The released B as one vector, in the layout of the generation.
    release = open_release(Path(job.release))
    held, layout = released(release)
    vector = params.flat(held.tensors, held.vocabulary, layout).astype(np.float64)
    # 2. The sums, as what the cloud's own plan makes of them.
    how, gather = job.settings.consolidate, job.settings.gather.signed(release.manifest.clip)
    sums = [
        fleet.Cohort(one.id, fleet_sums.fog_sum(one.fog, cloud.read_sum(one.digest), gather)) for one in job.cohorts
    ]
    server = None if job.server is None else msgspec.msgpack.decode(cloud.get(job.server), type=ServerState)
    # 3. One step.
    fisher = learning.fisher_of(release, held, layout, how) if how.fisher_precision else None
    step = fleet.advance(vector, sums, how, server, fisher)
    hashes = held.base, held.basis
    after = Learnt(*hashes, release.manifest.rank, held.scale, held.vocabulary, dict(params.named(step.values, layout)))
    data = learnt.encode(after)
    # 4. What only some devices hold was brought at the cost of what all had kept: that is mended, on public files.
    mended = learning.reconciled(release, data, how) if how.reconcile_steps else data
    notes = tuple(f"{id_}: {why}" for id_, why in step.refused)
    if mended is None:
        notes = (*notes, "not reconciled with what the base knew: that diverged; the gate sees it as it is")
    if step.rule != how.rule:
        notes = (*notes, f"fewer than five fogs: a mean, not a {how.rule}")
    state = cloud.put(msgspec.msgpack.encode(step.server))
    return Made(cloud.put(mended or data), state, time.monotonic() - started_s, notes)


def released(release: Release) -> tuple[Learnt, params.Layout]:
    """What a release has learnt on top of its base (zeros: nothing), and the layout of its generation."""
    manifest = release.manifest
    base, basis = release.read(manifest.base), release.read(manifest.basis)
    layout = params.layout_of(manifest, base, basis)
    if manifest.adapter is None:
        return blank(manifest, base, basis), layout
    return learnt.decode(release.read(manifest.adapter)), layout
