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
from torch import nn

from evergrove.adapters.files import Files
from evergrove.adapters.images import decode
from evergrove.adapters.keys import FileKey
from evergrove.adapters.release import Release, open_release
from evergrove.adapters.vault import Record, Vault
from evergrove.adapters.versions import Versions
from evergrove.core.conditions import Code, Vocabulary, group
from evergrove.core.errors import InvalidArtefact, UsageError
from evergrove.core.jobs import Job, Measure, Measured, Train, Trained
from evergrove.learn import evaluate
from evergrove.learn.adapter import Adapter, Basis, rescale
from evergrove.learn.adapter_file import adapter_bytes, adapter_of_bytes, load_adapter
from evergrove.learn.base import load_base, load_teacher
from evergrove.learn.basis import load_basis
from evergrove.learn.strategies import Recipe, Samples, Task, strategy_named
from evergrove.learn.trainer import Hooks
from evergrove.learn.trainer import train as run_training
from evergrove.media.packs import read_pack

Ask = Callable[[], bool]
Tell = Callable[[int, int, float, float], None]


@dataclass(frozen=True)
class Bench:
    """Everything that both jobs need, opened and verified."""

    release: Release
    model: nn.Module
    basis: Basis
    vault: Vault
    versions: Versions
    vocabulary: Vocabulary


def train(job: Train, folder: Path, ask: Ask, tell: Tell) -> Trained:
    """Learns the fresh records; the candidate lies in the versions folder when this returns.

    Raises ``UsageError`` when none of them is left, and what the trainer raises.
    """
    bench = _open(job)
    known = bench.release.manifest.vocabulary.sizes
    fresh = set(job.fresh)
    # 1. What is new, and what is known already: older records and the release's rehearsal pack.
    records = list(bench.vault.all("train"))
    new = _samples([r for r in records if r.id in fresh], bench)
    if not len(new):
        raise UsageError("none of the observations to learn is left in the replay buffer")
    learnt = _samples([r for r in records if r.id not in fresh], bench)
    rehearsal = _pack(bench.release, bench.release.manifest.rehearsal.name)
    replay = Samples(np.concatenate([rehearsal.images, learnt.images]), np.concatenate([rehearsal.codes, learnt.codes]))
    # 2. The task, from what serves now.
    learn = job.learn
    task = Task(
        model=bench.model,
        basis=bench.basis,
        vocabulary=bench.vocabulary,
        new=new,
        replay=replay,
        strategy=strategy_named(learn.strategy),
        recipe=Recipe(steps=learn.steps, batch=learn.batch, checkpoint_every=learn.checkpoint_every),
        seed=job.seed,
        start=_adapter(bench, job.parent),
        teacher=_teacher(bench),
        balance=_balance(new.codes, known),
    )
    # 3. Train; pausing means that the agent has gone, and the next attempt goes on from here.
    hooks = Hooks(ask, lambda p: tell(p.step, p.steps, p.loss, p.eta_s), Files().write)
    outcome = run_training(task, folder, hooks)
    if outcome.candidate is None:
        raise SystemExit("paused: the agent is gone")
    sha256 = bench.versions.add(outcome.candidate.read_bytes())
    loss = float(np.mean(outcome.losses[-25:]))
    return Trained(sha256, outcome.steps, outcome.seconds, loss, outcome.n_bytes)


def measure(job: Measure, folder: Path, ask: Ask) -> Measured:
    """Measures an adapter; what is measured lies in the versions folder (after scaling) when this returns.

    Raises ``InvalidArtefact`` for an adapter that does not pass its checks.
    """
    bench = _open(job)
    started_s = time.monotonic()
    incumbent = _adapter(bench, job.incumbent)
    # 1. The adapter in question, checked before anything else touches it.
    candidate: Adapter | None
    if job.source is not None:
        candidate = load_adapter(Path(job.source), bench.model, bench.basis)
    else:
        candidate = _adapter(bench, job.candidate or job.incumbent)
    name = job.candidate or job.incumbent or bench.release.manifest.base.sha256
    if candidate is not None and (job.source is not None or job.gamma != 1.0):
        scaled = adapter_bytes(rescale(candidate, job.gamma))
        name = bench.versions.add(scaled)
        candidate = adapter_of_bytes(scaled)
    vocabulary = _widest(bench.vocabulary, candidate)

    # 2. Who is compared, on what.
    def network(adapter: Adapter | None, called: str) -> evaluate.Network:
        return evaluate.network(bench.model, bench.basis, adapter, vocabulary, called)

    manifest = bench.release.manifest
    teacher = _teacher(bench)
    roles = evaluate.Roles(
        candidate=network(candidate, name),
        incumbent=network(incumbent, job.incumbent or manifest.base.sha256),
        release=network(None, manifest.base.sha256),
        teacher=None
        if teacher is None or manifest.teacher is None
        else evaluate.Network(teacher, manifest.teacher.sha256),
    )
    known = manifest.vocabulary.sizes
    golden = _pack(bench.release, manifest.golden.name)
    own_records = list(bench.vault.all("golden"))
    own = _samples(own_records, bench)
    # 3. Statistics per condition; values per item stay in the device's cache.
    comparisons = evaluate.measure(
        roles,
        evaluate.Golden(golden, _groups(golden.codes, known), _seed(manifest.golden.sha256)),
        evaluate.Golden(own, _groups(own.codes, known), _seed(manifest.golden.sha256)),
        job.learnt,
        cache=Path(job.device) / "cache",
        before_batch=lambda: _go_on(ask),
    )
    return Measured(name, comparisons, time.monotonic() - started_s)


def _open(job: Job) -> Bench:
    """The release, the vault and the versions of a device, as the job names them."""
    torch.set_num_threads(job.learn.threads)
    root = Path(job.device)
    release = open_release(Path(job.release))
    model = load_base(release.folder)
    manifest = release.manifest
    basis = load_basis(release.path_of(manifest.basis), manifest.base.sha256, manifest.scale)
    vault = Vault(root / "vault", _device_id(root), FileKey(root / "device.key"), read_only=True)
    return Bench(release, model, basis, vault, Versions(root / "versions"), vault.names() or manifest.vocabulary)


def _adapter(bench: Bench, sha256: str | None) -> Adapter | None:
    return None if sha256 is None else adapter_of_bytes(bench.versions.load(sha256), f"version {sha256[:12]}")


def _samples(records: list[Record], bench: Bench) -> Samples:
    """Records as arrays; their codes are read from their names, which outlive a change of numbers."""
    n_px, n_factors = bench.release.manifest.image_px, len(bench.vocabulary.factors)
    images = np.zeros((len(records), n_px, n_px, 3), np.uint8)
    codes = np.zeros((len(records), n_factors), np.int16)
    for i, record in enumerate(records):
        images[i] = decode(record.media)
        codes[i] = bench.vocabulary.encode(record.condition)
    return Samples(images, codes)


def _pack(release: Release, name: str) -> Samples:
    pack = read_pack(release.folder / name)
    return Samples(pack.images, pack.codes)


def _teacher(bench: Bench) -> nn.Module | None:
    return None if bench.release.manifest.teacher is None else load_teacher(bench.release.folder)


def _groups(codes: np.ndarray, known: Code) -> tuple[Code, ...]:
    """The conditions that stand in some codes, as they are judged (``core.conditions.group``)."""
    return tuple(sorted({group(tuple(int(n) for n in code), known) for code in codes}))


def _balance(codes: np.ndarray, known: Code) -> int:
    """The factor whose values are drawn evenly: the first in which something new stands, else the first of all."""
    new = [f for f, size in enumerate(known) if (codes[:, f] > size).any()]
    return new[0] if new else 0


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


def _seed(sha256: str) -> int:
    """The probe's seed: fixed by the golden set itself."""
    return int(sha256[:15], 16)


def _device_id(root: Path) -> str:
    return msgspec.json.decode((root / "identity.json").read_bytes(), type=_Identity).device


class _Identity(msgspec.Struct):
    """The one field of ``identity.json`` that a worker needs."""

    device: str


def _go_on(ask: Ask) -> None:
    if not ask():
        raise SystemExit("stopped: the agent is gone")
