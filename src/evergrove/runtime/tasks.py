"""What a worker does: puts files of the release, records of the vault and the learning code together, for one job.

Training: fresh observations against the rehearsal pack and what was learnt before. Measuring: a candidate against the
incumbent, the release and the teacher, on the release's golden set and the device's own.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import torch

from evergrove.adapters.assists import Assists
from evergrove.adapters.files import Files
from evergrove.adapters.keys import FileKey
from evergrove.adapters.release import Release, open_release
from evergrove.adapters.vault import Record, Vault
from evergrove.adapters.versions import Versions
from evergrove.core.conditions import Code, Factor, Vocabulary, group
from evergrove.core.config import Learn
from evergrove.core.errors import InvalidArtefact, UsageError
from evergrove.core.jobs import Job, Measure, Measured, Train, Trained
from evergrove.core.release import sha256_hex
from evergrove.learn import evaluate
from evergrove.learn.adapter import Adapter, rescale
from evergrove.learn.adapter_file import adapter_bytes, adapter_of_bytes, load_adapter
from evergrove.learn.assist import Assist
from evergrove.learn.assist import read as read_assist
from evergrove.learn.pauses import asking
from evergrove.learn.strategies import Samples
from evergrove.learn.trainer import Hooks
from evergrove.learn.trainer import train as run_training
from evergrove.runtime import assembly
from evergrove.runtime.pacing import Pace

Tell = Callable[[int, int, float, float], None]


@dataclass(frozen=True)
class Bench:
    """Everything that both jobs need, opened and verified."""

    parts: assembly.Parts
    vault: Vault
    versions: Versions
    vocabulary: Vocabulary

    @property
    def release(self) -> Release:
        """The device's release."""
        return self.parts.release


BEGUN = "begun.json"


class Begun(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a training job was made of at its first start: records, the numbers of values of the vocabulary, and how it
    learns (None: a job that began before this was kept).

    An app goes on observing while a job runs, is killed or waits parked, and its settings may change, as when it enters
    a fleet. What came later is not the job's, and the checkpoint of a job that would take it in, or that lost a record
    to the reservoir, could not be gone on with.
    """

    fresh: tuple[str, ...]
    known: tuple[str, ...]
    sizes: Code
    learn: Learn | None = None

    @property
    def name(self) -> str:
        """The records' name for the trainer."""
        return sha256_hex(msgspec.json.encode(Begun(self.fresh, self.known, self.sizes)))

    def within(self, vocabulary: Vocabulary) -> Vocabulary:
        """Today's vocabulary without the values that came later."""
        factors = zip(vocabulary.factors, self.sizes, strict=True)
        return Vocabulary(tuple(Factor(factor.name, factor.values[:n]) for factor, n in factors))


def train(job: Train, folder: Path, pace: Pace, tell: Tell) -> Trained:
    """Learns the fresh records; the candidate lies in the versions folder when this returns.

    Raises ``UsageError`` when none of them is left, and what the trainer raises.
    """
    bench = open_bench(job)
    begun = _begun(job, folder, bench)
    fresh, known = set(begun.fresh), set(begun.known)
    # 1. What is new, and which older records there are: as at the job's first start, less what has been lost since.
    vocabulary = begun.within(bench.vocabulary)
    records = list(bench.vault.all("train"))
    new = _samples([r for r in records if r.id in fresh], bench)
    if not len(new):
        raise UsageError("none of the observations to learn is left in the replay buffer")
    learnt = _samples([r for r in records if r.id in known], bench)
    # 2. The task, from what serves now, and with what a fog has given for it.
    lesson = assembly.Lesson(new, learnt, _adapter(bench, job.parent), vocabulary, job.seed, begun.name)
    task = assembly.task_of(bench.parts, lesson, begun.learn or job.learn, _assist(bench.parts, job), job.rehearse)
    # 3. Train; pausing means that the agent has gone, and the next attempt goes on from here.
    hooks = Hooks(
        micro_batch=pace.micro_batch,
        within=pace.within,
        aside=pace.aside,
        progress=lambda p: tell(p.step, p.steps, p.loss, p.eta_s),
        write=Files().write,
    )
    outcome = run_training(task, folder, hooks)
    if outcome.candidate is None:
        raise SystemExit("paused: the agent is gone")
    sha256 = bench.versions.add(outcome.candidate.read_bytes())
    loss = float(np.mean(outcome.losses[-25:]))
    return Trained(sha256, outcome.steps, outcome.seconds, loss, outcome.n_bytes)


def measure(job: Measure, folder: Path, pace: Pace) -> Measured:
    """Measures an adapter; what is measured lies in the versions folder (after scaling) when this returns.

    Raises ``InvalidArtefact`` for an adapter that does not pass its checks.
    """
    bench = open_bench(job)
    started_s = time.monotonic()
    released, incumbent = bench.parts.adapter, _adapter(bench, job.incumbent)
    # 1. The adapter in question, checked before anything else touches it.
    candidate: Adapter | None
    if job.source is not None:
        candidate = load_adapter(Path(job.source), bench.parts.model, bench.parts.basis)
        if candidate.branches and len(bench.vocabulary.factors) > 1:
            raise InvalidArtefact(
                f"{job.source}: it has a B of its own for some conditions, and this base knows several factors, whose"
                " values combine: what it learns shares one B"
            )
    else:
        candidate = _adapter(bench, job.candidate or job.incumbent)
    name = job.candidate or job.incumbent or bench.release.manifest.alone
    if candidate is not None and (job.source is not None or job.gamma != 1.0):
        # Of branches nothing but what this update has moved is weakened: the others stay as they serve.
        ground = incumbent if candidate.branches and incumbent is not None else released
        scaled = adapter_bytes(rescale(candidate, job.gamma, ground))
        name = bench.versions.add(scaled)
        candidate = adapter_of_bytes(scaled)
    vocabulary = _widest(bench.vocabulary, candidate)

    # 2. Who is compared, on what.
    def network(adapter: Adapter | None, called: str) -> evaluate.Network:
        return evaluate.network(bench.parts.model, bench.parts.basis, adapter, vocabulary, called)

    manifest = bench.release.manifest
    teacher = assembly.teacher_of(bench.release)
    roles = evaluate.Roles(
        candidate=network(candidate, name),
        incumbent=network(incumbent, job.incumbent or manifest.alone),
        release=network(released, manifest.alone),
        teacher=None
        if teacher is None or manifest.teacher is None
        else evaluate.Network(teacher, manifest.teacher.sha256),
    )
    known = manifest.known
    golden = assembly.pack_of(bench.release, manifest.golden.name)
    own, seed = _samples(list(bench.vault.all("golden")), bench), seed_of_set(manifest.golden.sha256)
    # 3. Statistics per condition; values per item stay in the device's cache.
    with asking(pace.within):
        comparisons = evaluate.measure(
            roles,
            evaluate.Golden(golden, groups(golden.codes, known), seed, vocabulary.sizes),
            evaluate.Golden(own, groups(own.codes, known), seed, vocabulary.sizes),
            job.learnt,
            cache=Path(job.device) / "cache",
            before_batch=lambda: go_on(pace),
        )
    return Measured(name, comparisons, time.monotonic() - started_s)


def open_bench(job: Job) -> Bench:
    """The release, the vault and the versions of a device, as the job names them."""
    torch.set_num_threads(job.learn.threads)
    root = Path(job.device)
    release = open_release(Path(job.release))
    parts = assembly.open_parts(release)
    vault = Vault(root / "vault", _device_id(root), FileKey(root / "device.key"), read_only=True)
    return Bench(parts, vault, Versions(root / "versions"), vault.names() or release.manifest.vocabulary)


def _begun(job: Train, folder: Path, bench: Bench) -> Begun:
    """What the job was made of when it first started; at its first start, what it is made of, durably."""
    path = folder / BEGUN
    try:
        begun = msgspec.json.decode(path.read_bytes(), type=Begun)
    except (FileNotFoundError, msgspec.MsgspecError):
        begun = None
    if begun is None or begun.fresh != job.fresh:
        known = (entry.id for entry in bench.vault.entries if entry.split == "train" and entry.id not in job.fresh)
        begun = Begun(job.fresh, tuple(known), bench.vocabulary.sizes, job.learn)
        Files().make_folder(folder)
        Files().write(path, msgspec.json.encode(begun))
    return begun


def _adapter(bench: Bench, sha256: str | None) -> Adapter | None:
    """What is attached to the base for a version (None: the release alone)."""
    own = None if sha256 is None else adapter_of_bytes(bench.versions.load(sha256), f"version {sha256[:12]}")
    return bench.parts.serving(own)


def _samples(records: list[Record], bench: Bench) -> Samples:
    """Records as arrays; their codes are read from their names, which outlive a change of numbers."""
    shown = ((record.media, bench.vocabulary.encode(record.condition)) for record in records)
    return assembly.samples_of(shown, bench.release.manifest.image_px, len(bench.vocabulary.factors))


def _assist(parts: assembly.Parts, job: Train) -> Assist | None:
    """The assist that the agent has verified and stored, checked against the release. Raises ``InvalidArtefact``."""
    if job.assist is None:
        return None
    body = Assists(Path(job.device) / "assists").body(job.assist)
    return read_assist(body, assembly.released(parts, with_teacher=False), f"assist {job.assist[:12]}")


def groups(codes: np.ndarray, known: Code) -> tuple[Code, ...]:
    """The conditions that stand in some codes, as they are judged (``core.conditions.group``)."""
    return tuple(sorted({group(tuple(int(n) for n in code), known) for code in codes}))


def _widest(vocabulary: Vocabulary, adapter: Adapter | None) -> Vocabulary:
    """The vocabulary that all compared networks are given; an adapter from elsewhere must not disagree with ours.

    Raises ``InvalidArtefact`` where the same number means two things.
    """
    if adapter is None or adapter.vocabulary == vocabulary:
        return vocabulary
    ours, theirs = vocabulary.factors, adapter.vocabulary.factors
    for mine, other in zip(ours, theirs, strict=True):
        short = min(len(mine.values), len(other.values))
        if mine.name != other.name or mine.values[:short] != other.values[:short]:
            raise InvalidArtefact(
                f"the adapter's conditions of '{other.name}' are not this device's: {', '.join(other.values)}; "
                f"here: {', '.join(mine.values)}. It was made for another device"
            )
    longest = (max(mine, other, key=lambda f: len(f.values)) for mine, other in zip(ours, theirs, strict=True))
    return Vocabulary(tuple(longest))


def seed_of_set(sha256: str) -> int:
    """The probe's seed: fixed by the golden set itself."""
    return int(sha256[:15], 16)


def _device_id(root: Path) -> str:
    return msgspec.json.decode((root / "identity.json").read_bytes(), type=_Identity).device


class _Identity(msgspec.Struct):
    """The one field of ``identity.json`` that a worker needs."""

    device: str


def go_on(pace: Pace) -> None:
    if not pace.micro_batch(1):
        raise SystemExit("stopped: the agent is gone")
