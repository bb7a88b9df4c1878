"""What a device may run on another release: the release and 1, ½, ¼ or none of what it has learnt itself (DESIGN §4),
or the release and its own pictures, learnt again on it in a few steps.

A worker's job. Every choice is scored on pictures that it was not trained on (the device's own golden set, and what
waits to be learnt), and compared on the golden sets as the gate asks for it; which one serves is for the gate to say.
"""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from evergrove.adapters.files import Files
from evergrove.adapters.release import open_release
from evergrove.adapters.vault import Record
from evergrove.core.conditions import Code, Vocabulary, group
from evergrove.core.jobs import Choose, Chosen
from evergrove.core.measures import Choice
from evergrove.learn import evaluate
from evergrove.learn.adapter import Adapter
from evergrove.learn.adapter_file import adapter_of_bytes
from evergrove.learn.pauses import asking
from evergrove.learn.strategies import Samples, Task
from evergrove.learn.trainer import Hooks, fingerprint, train
from evergrove.rules import gate
from evergrove.rules.carry import renumbered, renumbering, vocabulary_on
from evergrove.runtime import assembly
from evergrove.runtime.carrying import carried
from evergrove.runtime.pacing import Pace
from evergrove.runtime.tasks import Bench, go_on, groups, open_bench, seed_of_set

Way = tuple[float, str | None, str | None, bool]
"""γ, adapter, what updates are counted from there, and whether it was learnt again."""
HELD_BACK_MAX = 32
"""Records beside the golden set that choices are scored on."""
RELEARN_PATH = 12.0
"""What a device learns again goes as far as this many steps at a lesson's rate, and takes its time: 40 steps at .3."""


def choose(job: Choose, folder: Path, pace: Pace) -> Chosen:
    """Measures the choices, best first, until the gate would let one in; ``folder`` is the job's own.

    The adapters of all lie in the versions folder when this returns.

    Raises ``InvalidArtefact`` for a release that does not pass its checks, ``UsageError`` for one of another model.
    """
    started_s, now = time.monotonic(), open_bench(job)
    arriving = assembly.open_parts(open_release(Path(job.arriving)))
    manifest = arriving.release.manifest
    # 1. The device's own words come behind the release's, and so under other numbers.
    vocabulary = vocabulary_on(manifest.vocabulary, now.vocabulary)
    table = renumbering(now.vocabulary, vocabulary)
    # 2. What may serve: made without torch, in the very bytes that will.
    made: list[Way] = [
        (*one, False) for one in carried(now.versions, now.release, arriving.release, job.incumbent, job.given)
    ]
    if (relearnt := _relearnt(job, now, arriving, vocabulary, folder, pace)) is not None:
        made.append(relearnt)
    # 3. Pictures that none of them was trained on.
    golden = assembly.pack_of(arriving.release, manifest.golden.name)
    records = list(now.vault.all())
    own = _samples([r for r in records if r.split == "golden"], manifest.image_px, vocabulary)
    waiting = [r for r in records if r.id in set(job.held_back)][:HELD_BACK_MAX]
    held = _samples([*(r for r in records if r.split == "golden"), *waiting], manifest.image_px, vocabulary)
    held = _with_fleet(held, assembly.pack_of(arriving.release, manifest.rehearsal.name), manifest.known)

    def golden_of(samples: Samples) -> evaluate.Golden:
        conditions = groups(samples.codes, manifest.known)
        return evaluate.Golden(samples, conditions, seed_of_set(manifest.golden.sha256), vocabulary.sizes)

    # 4. Best first by what was held back; measured against what serves now, until the gate would let one in.
    parts, incumbent = now.parts, None if job.incumbent is None else now.versions.load(job.incumbent)
    served = parts.serving(None if incumbent is None else adapter_of_bytes(incumbent))
    before = evaluate.network(parts.model, parts.basis, served, now.vocabulary)
    present = f"{job.incumbent or now.release.manifest.alone}-on-{manifest.alone}"
    teacher, teacher_ref = assembly.teacher_of(arriving.release), manifest.teacher
    is_taught = teacher is not None
    policy = gate.Policy.of(job.gate)
    expected = gate.of_release(manifest.known, [renumbered(one, table) for one in job.learnt], teacher=is_taught)
    cache, stop = Path(job.device) / "cache", lambda: go_on(pace)
    choices: list[Choice] = []

    def network_of(candidate: str | None) -> evaluate.Network:
        data = None if candidate is None else adapter_of_bytes(now.versions.load(candidate))
        return _on(arriving, data, vocabulary, candidate or manifest.alone)

    with asking(pace.within):
        scored = [(_score(network_of(way[1]).module, golden_of(held), stop), way) for way in made]
        for score, (gamma, candidate, given, again) in sorted(scored, key=lambda one: (one[0], -one[1][0])):
            roles = evaluate.Roles(
                candidate=network_of(candidate),
                incumbent=_named(_Renumbered(before.module, table, vocabulary.sizes), present),
                release=_on(arriving, None, vocabulary, manifest.alone),
                teacher=None if teacher is None or teacher_ref is None else _named(teacher, teacher_ref.sha256),
            )
            comparisons = evaluate.measure(roles, golden_of(golden), golden_of(own), (), cache=cache, before_batch=stop)
            choices.append(Choice(gamma, candidate, given, score, comparisons, again))
            if not gate.examine(policy, comparisons, expected):
                break
    return Chosen(tuple(choices), manifest.known, table, is_taught, time.monotonic() - started_s)


def _relearnt(
    job: Choose, now: Bench, arriving: assembly.Parts, vocabulary: Vocabulary, folder: Path, pace: Pace
) -> Way | None:
    """The release, with what the incumbent was trained on learnt again; None where that is nothing.

    B of two trainings do not add up: the release holds a part of it already. A few steps from there bring back what is
    the device's own, beside the rehearsal of what the fleet brought. Updates are counted from the release.
    """
    records = [record for record in now.vault.all("train") if record.id not in set(job.held_back)]
    if job.incumbent is None or not job.learn.relearn_steps or not records:
        return None
    new = _samples(records, arriving.release.manifest.image_px, vocabulary)
    nothing = Samples(new.images[:0], new.codes[:0])
    lesson = assembly.Lesson(new, nothing, None, vocabulary, seed_of_set(arriving.release.manifest_hash))
    task = assembly.task_of(arriving, lesson, msgspec.structs.replace(job.learn, steps=job.learn.relearn_steps))
    task = gently(task)
    hooks = Hooks(micro_batch=pace.micro_batch, within=pace.within, aside=pace.aside, write=Files().write)
    outcome = train(task, folder / f"relearnt-{fingerprint(task)[:12]}", hooks)
    if outcome.candidate is None:
        raise SystemExit("paused: the agent is gone")
    return 1.0, now.versions.add(outcome.candidate.read_bytes()), None, True


def gently(task: Task) -> Task:
    """The same at a lower rate, the lower the more steps: the release has a part of it already, and the same way in
    fewer and longer steps harms the old more and brings back less (ADR 0030)."""
    rate = min(1.0, RELEARN_PATH / task.recipe.steps) * (task.recipe.lr or task.strategy.lr)
    return replace(task, recipe=replace(task.recipe, lr=rate))


def _on(parts: assembly.Parts, adapter: Adapter | None, vocabulary: Vocabulary, name: str) -> evaluate.Network:
    """A candidate on its release, widened to the device's vocabulary."""
    return evaluate.network(parts.model, parts.basis, parts.serving(adapter), vocabulary, name)


def _named(module: nn.Module, name: str) -> evaluate.Network:
    return evaluate.Network(module, name)


def _samples(records: list[Record], n_px: int, vocabulary: Vocabulary) -> Samples:
    shown = ((record.media, vocabulary.encode(record.condition)) for record in records)
    return assembly.samples_of(shown, n_px, len(vocabulary.factors))


def _with_fleet(held: Samples, rehearsal: Samples, known: Code) -> Samples:
    """What was held back, and the release's own pictures of what the fleet learnt and this device never saw.

    Else a device would take along all of its own and lose what the release brings: nothing that it has seen says so.
    """
    seen, times = groups(held.codes, known), Counter[Code]()
    unseen: list[tuple[int, int]] = []  # (how many of its condition came before, row): all conditions alike
    for row in np.flatnonzero((rehearsal.codes > np.array(known)).any(axis=1)).tolist():
        condition = group(tuple(int(n) for n in rehearsal.codes[row]), known)
        if condition not in seen:
            unseen.append((times[condition], row))
            times[condition] += 1
    picked = [row for _, row in sorted(unseen)[:HELD_BACK_MAX]]
    return Samples(
        np.concatenate((held.images, rehearsal.images[picked])), np.concatenate((held.codes, rehearsal.codes[picked]))
    )


def _score(module: nn.Module, held: evaluate.Golden, before_batch: Callable[[], None]) -> float:
    """Mean loss over what was held back, each condition alike; 0 where there is nothing."""
    if not len(held.samples):
        return 0.0
    losses = evaluate.item_values(module, held, evaluate.Probe(), before_batch=before_batch).loss
    by_condition = [losses[evaluate.rows_of(held.samples.codes, code)].mean() for code in held.conditions]
    return float(np.mean(by_condition))


class _Renumbered(nn.Module):
    """A network that is asked in the numbers of another release; what it does not know is left open."""

    def __init__(self, network: nn.Module, table: tuple[Code, ...], sizes: Code) -> None:
        super().__init__()
        self.network = network
        self._old = []
        for numbers, size in zip(table, sizes, strict=True):
            old = torch.zeros(size + 1, dtype=torch.long)
            old[torch.tensor(numbers)] = torch.arange(len(numbers))
            self._old.append(old)

    def forward(self, x: Tensor, t: Tensor, code: Tensor) -> Tensor:
        """As the network, under its own numbers."""
        own = torch.stack([old[code[:, f]] for f, old in enumerate(self._old)], dim=1)
        estimate: Tensor = self.network(x, t, own)
        return estimate
