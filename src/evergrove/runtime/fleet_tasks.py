"""What a cloud's worker does: consolidates sums, measures a candidate, makes the next generation. The torch of a cloud.

Everything comes from the cloud's folder by its name, and what is made is put into its store before the outcome says so.
"""

import time
from dataclasses import replace
from pathlib import Path
from typing import assert_never

import numpy as np
import torch
from numpy.typing import NDArray

from evergrove.adapters.release import Release, open_release
from evergrove.core.cloud_jobs import CloudJob, CloudOutcome, ConsolidateJob, FleetMeasure, MeasureJob, MergeJob
from evergrove.core.cloud_settings import Consolidation
from evergrove.core.conditions import Code, everything
from evergrove.learn import evaluate
from evergrove.learn.adapter import Adapter, attach, blank_adapter, rescale
from evergrove.learn.adapter_file import adapter_bytes, adapter_of_bytes
from evergrove.learn.fisher import estimate_fisher
from evergrove.learn.generator import to_condition, to_float
from evergrove.learn.reconcile import N_TRAJECTORIES, Old, reconcile
from evergrove.learn.rehearsal import codes_of, fleet_values
from evergrove.learn.strategies import Samples
from evergrove.learn.triggers import Trial, triggers
from evergrove.media.packs import read_pack
from evergrove.rules import params
from evergrove.rules.learnt import Learnt
from evergrove.runtime import assembly, fleet_consolidate, fleet_merge, rehearsing
from evergrove.runtime.cloud_folder import CloudFolder
from evergrove.runtime.cloud_golden import groups

Vector = NDArray[np.float64]


def run(job: CloudJob, folder: Path) -> CloudOutcome:
    """One job to its outcome; ``folder`` is its own. Raises ``EvergroveError`` for what trying again would not mend."""
    torch.set_num_threads(job.settings.work.threads)
    match job:
        case ConsolidateJob():
            return fleet_consolidate.consolidate(job, LEARNING)
        case MeasureJob():
            return measure(job, folder)
        case MergeJob():
            return fleet_merge.merge(job, folder)
        case _:
            assert_never(job)


def reconciled(release: Release, data: bytes, how: Consolidation) -> bytes | None:
    """A candidate's file after ``learn.reconcile`` (None: it diverged): nothing but the release's own files goes in
    beside it."""
    candidate = adapter_of_bytes(data, "the candidate")
    parts, manifest = assembly.open_parts(release), release.manifest
    pictures = assembly.pack_of(release, manifest.rehearsal.name)
    old = Old(parts.guide or parts.network(), pictures, assembly.balance(pictures.codes, manifest.known))
    values = fleet_values(manifest, candidate, ())
    seed = int(release.manifest_hash[:15], 16)
    new = codes_of(values, manifest, N_TRAJECTORIES, seed)
    after = reconcile(parts.model, parts.basis, candidate, old, new, how.reconcile_steps, how.reconcile_lr, seed)
    return None if after is None else adapter_bytes(after)


def fisher_of(release: Release, held: Learnt, layout: params.Layout, how: Consolidation) -> Vector:
    """The diagonal of the released model's own Fisher over B, in the layout's order; 0 for the rows of conditions.

    Of the rehearsal pack's pictures: nothing of any device goes into it.
    """
    parts = assembly.open_parts(release)
    start = parts.adapter or blank_adapter(parts.model, parts.basis, held.vocabulary)
    pack = read_pack(release.path_of(release.manifest.rehearsal))
    x, code = to_float(pack.images), to_condition(pack.codes)
    rng = torch.Generator().manual_seed(int(release.manifest_hash[:15], 16))
    fisher = estimate_fisher(attach(parts.model, parts.basis, start), x, code, rng, n=how.fisher_samples)
    diagonal = {}
    for name, rest in fisher.rest.items():
        top = (fisher.c[name][:, None] * fisher.u[name].square()).sum(0).reshape(rest.shape)
        diagonal[f"{name}.B"] = (rest + top).numpy()
    return params.flat(diagonal, held.vocabulary, layout).astype(np.float64)


LEARNING = fleet_consolidate.Learning(fisher_of, reconciled)


def measure(job: MeasureJob, folder: Path) -> FleetMeasure:
    """A candidate at a scale against the release, the generation's first one and the teacher; and trigger probes.

    The scale is of what the candidate has more than the release: what was released stays.
    """
    started_s, cloud = time.monotonic(), CloudFolder(Path(job.cloud))
    release = open_release(Path(job.release))
    parts, manifest = assembly.open_parts(release), release.manifest
    first = parts if job.first == job.release else assembly.open_parts(open_release(Path(job.first)))

    def network(of: assembly.Parts, adapter: Adapter | None) -> evaluate.Network:
        return evaluate.network(of.model, of.basis, adapter, manifest.vocabulary)

    # 1. The candidate, as the file that would be released; what devices rehearse with it shows what it has learnt.
    rehearsal: str | None = None
    if job.merged:
        scaled, candidate = job.candidate, evaluate.Network(fleet_merge.network_of(cloud, job.candidate, folder))
    else:
        whole = adapter_of_bytes(cloud.get(job.candidate), "the candidate")
        data = adapter_bytes(rescale(whole, job.gamma, parts.adapter))
        held = adapter_of_bytes(data, "the candidate")
        scaled, candidate = cloud.put(data), network(parts, held)
        if job.settings.work.rehearse_each:
            n_each, after = job.settings.work.rehearse_each, replace(parts, adapter=held)
            rehearsal = cloud.put(rehearsing.rehearsal_of(after, n_each, seed=manifest.generation))

    # 2. Who is compared, on what.
    teacher = assembly.teacher_of(release)
    roles = evaluate.Roles(
        candidate=candidate,
        incumbent=network(parts, parts.adapter),
        release=network(first, first.adapter),
        teacher=None if teacher is None else evaluate.Network(teacher),
    )
    seed, sizes = int(manifest.golden.sha256[:15], 16), manifest.vocabulary.sizes
    golden = _golden(assembly.pack_of(release, manifest.golden.name), manifest.known, seed, sizes)
    own = _nothing(golden)
    if job.golden is not None:
        pack = read_pack(Path(job.golden))
        own = _golden(Samples(pack.images, pack.codes), manifest.known, seed, sizes)
    # 3. Statistics per condition, the gain on the whole, and triggers.
    whole_of_it = (everything(golden.conditions),)
    if own.conditions:
        own = replace(own, conditions=(*own.conditions, *whole_of_it))
    comparisons = evaluate.measure(roles, golden, own, whole_of_it)
    asked = job.settings.gate
    trial = Trial(manifest.known, manifest.image_px, manifest.sampler, asked.probes, asked.probe_max, seed)
    found = triggers(roles.incumbent.module, roles.candidate.module, trial)
    probes = tuple(", ".join(f"{f}={v}" for f, v in manifest.vocabulary.decode(code).items()) for code in found)
    return FleetMeasure(scaled, rehearsal, comparisons, probes, time.monotonic() - started_s)


def _golden(samples: Samples, known: Code, seed: int, sizes: Code) -> evaluate.Golden:
    return evaluate.Golden(samples, groups(samples.codes, known), seed, sizes)


def _nothing(golden: evaluate.Golden) -> evaluate.Golden:
    """No pictures of what the fleet learns: nothing is asked of them."""
    return replace(golden, samples=Samples(golden.samples.images[:0], golden.samples.codes[:0]), conditions=())
