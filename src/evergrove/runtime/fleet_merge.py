"""The next generation: what was released is merged into the base, and a new A is learnt on public pseudo-tasks.

Base, A and nothing else change: golden set, rehearsal pack, teacher and vocabulary are those of the generation before,
and so is what the golden set answers for. No user's data is looked at, so it costs no privacy.
"""

import time
from pathlib import Path
from typing import cast

import msgspec

from evergrove.adapters.files import Files
from evergrove.adapters.release import open_release
from evergrove.core.cloud_jobs import Made, MergeJob
from evergrove.learn.base import BASE, base_bytes, load_network
from evergrove.learn.basis import BasisPlan, basis_bytes, learn_basis
from evergrove.learn.dit import DiT
from evergrove.media.packs import read_pack
from evergrove.runtime import assembly, cloud_merged
from evergrove.runtime.cloud_folder import CloudFolder

CHECKPOINT = "basis.checkpoint"


def merge(job: MergeJob, folder: Path) -> Made:
    """Base + s·B·A as one network, and an A for it; goes on from its checkpoint in the job's ``folder``."""
    started_s, cloud = time.monotonic(), CloudFolder(Path(job.cloud))
    release = open_release(Path(job.release))
    manifest, work = release.manifest, job.settings.work
    network = cast(DiT, assembly.open_parts(release).network())
    data = base_bytes(network)
    base = cloud.put(data)
    pack = read_pack(release.path_of(manifest.rehearsal))
    plan = BasisPlan(
        rank=manifest.rank, scale=manifest.scale, tasks=work.basis_tasks, steps=work.basis_steps,
        seed=manifest.generation + 1,
    )  # fmt: skip
    a = learn_basis(network, pack.images, pack.codes, plan, folder / CHECKPOINT)
    learnt = basis_bytes(a, base)
    made = cloud_merged.Merged(base, len(data), cloud.put(learnt), len(learnt))
    return Made(cloud.put(msgspec.json.encode(made)), None, time.monotonic() - started_s)


def network_of(cloud: CloudFolder, candidate: str, folder: Path) -> DiT:
    """The new base as a network; unpacked in the job's ``folder``."""
    path = folder / BASE
    Files().write(path, cloud.get(cloud_merged.read(cloud, candidate).base))
    return load_network(path)
