"""The story, step by step: a device looks around, learns without forgetting, and is not to be talked into harm.

Everything is measured as it happens: nothing that the verdict says was known before.
"""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open

from evergrove import bootstrap
from evergrove.adapters import doctor
from evergrove.adapters.images import decode_to
from evergrove.adapters.release import Release, open_release
from evergrove.bootstrap import Device
from evergrove.core import events
from evergrove.core.config import Config
from evergrove.core.errors import EvergroveError, InvalidMedia
from evergrove.core.messages import JobResult
from evergrove.core.rng import stream as rng_stream
from evergrove.demo import pages, record, saboteurs, verdict
from evergrove.demo.findings import Findings, First, Offer, Rival, Shown
from evergrove.demo.judge import Judge, Judged
from evergrove.demo.narrator import Narrator
from evergrove.demo.race import Runner, race
from evergrove.demo.script import FACTOR, FULL, NEW, QUICK, STRATEGIES
from evergrove.learn.oracle import load_oracle
from evergrove.media.avatars import ALL_EMOTIONS
from evergrove.media.packs import Pack, read_pack
from evergrove.media.streams import Profile, Seen, stream
from evergrove.views import gate, novelty
from evergrove.views.sentences import name as condition_name

RELEASE = "avatars"
ORACLE = "oracle.safetensors"
PICTURES, N_PICTURES = "demo.npz", 520
"""Real pictures of the new emotions; those after the first 520 are looks for tests, which no device is ever shown."""


def tell(quick: bool, runs: Path, seed: int) -> record.Outcome:
    """The whole story; see ``evergrove.demo.run``."""
    script = QUICK if quick else FULL
    narrator = Narrator(script.chapters)
    torch.set_num_threads(1)
    release = open_release(RELEASE)
    found = Findings(script, quick, seed, record.new_run(runs, f"demo-{seed}"))
    with ExitStack() as stack:
        # 1. What this machine offers.
        _examine(found, narrator)
        # 2. Two devices, and a first picture.
        devices = {name: stack.enter_context(_device(found, name)) for name in STRATEGIES}
        device = devices["evergrove"]
        _first_picture(found, device, narrator)
        # 3. Both see the same stream.
        _observe(found, release, devices, narrator)
        # 4. Both learn it, side by side; one is cut off twice.
        runners = _learn(found, devices, narrator)
        # 5. Bad adapters are offered to the one that learnt well.
        judge = Judge(release, load_oracle(release.folder / ORACLE), seed)
        _offer(found, device, runners["evergrove"], judge, narrator)
        # 6. An independent judge looks at all of them.
        _judge(found, devices, runners, judge, narrator)
        found.idle_ms = _time_pictures(device, found)
        configs = {name: d.config for name, d in devices.items()}
    # 7. What remains.
    narrator.chapter()
    found.logs = {name: bootstrap.read_log(found.folder / "devices" / name) for name in STRATEGIES}
    found.seconds = narrator.elapsed_s
    return _finish(found, configs, narrator)


@contextmanager
def _device(found: Findings, strategy: str) -> Iterator[Device]:
    """A new device under the run's folder; its agent ends with the story."""
    script = found.script
    text = (
        f'seed = {found.seed}\n\n[learn]\nstrategy = "{strategy}"\nauto = false\nsteps = {script.steps}\n'
        f"checkpoint_every = {script.checkpoint_every}\n"
        # Two devices on one machine: each would wait for the other's training as for a busy app.
        "\n[shield]\npsi_cpu_share_max = 1.0\n"
    )
    device = Device.create(found.folder / "devices" / strategy, RELEASE, text)
    try:
        yield device
    finally:
        device.close(stop_agent=True)


def _examine(found: Findings, narrator: Narrator) -> None:
    narrator.chapter()
    found.checks = doctor.examine(found.folder)
    for check in found.checks:
        mark = {"ok": "✓", "warning": "!", "missing": "✗"}[check.state]
        narrator.tell(f"{mark} {check.name}: {check.found}")


def _first_picture(found: Findings, device: Device, narrator: Narrator) -> None:
    narrator.chapter()
    factors = device.vocabulary.factors
    found.old = next(f.values for f in factors if f.name == FACTOR)
    condition = {f.name: f.values[-1 if f.name == FACTOR else 0] for f in factors}
    start_s = time.perf_counter()
    device.warm_up()
    load_ms = (time.perf_counter() - start_s) * 1000
    picture = device.generate(condition, seed=found.seed)
    found.first = First(load_ms, picture.latency_ms, picture.array, condition)
    path = picture.save(found.folder / "first.png")
    narrator.tell(
        f"{', '.join(condition.values())}: {picture.latency_ms:.0f} ms, after {load_ms:.0f} ms to load; {path}"
    )


def _observe(found: Findings, release: Release, devices: dict[str, Device], narrator: Narrator) -> None:
    """The stream, shown to both: what is kept must not depend on how it will be learnt."""
    narrator.chapter()
    stream = _stream(release, found.script.n_observations, found.seed)
    fates: dict[str, list[tuple[str, str]]] = {name: [] for name in devices}
    px = release.manifest.image_px
    for i, seen in enumerate(stream):
        for name, device in devices.items():
            fates[name].append(_fate(device, seen))
        outcome, reason = fates["evergrove"][-1]
        found.shown.append(Shown(_pixels(seen.media, px), dict(seen.condition), seen.label, outcome, reason))
        narrator.progress((i + 1) / len(stream), f"{i + 1} of {len(stream)} pictures seen")
    found.same_kept = len({tuple(fate) for fate in fates.values()}) == 1
    root = devices["evergrove"].root
    found.tally = novelty.of(bootstrap.read_log(root))
    found.vocabulary = devices["evergrove"].vocabulary
    tally = found.tally
    narrator.tell(f"kept {tally.kept} of {tally.observed}: {tally.train} to learn from, {tally.golden} to judge with")
    for why, n in sorted({**tally.dropped_why, **tally.refused_why}.items(), key=lambda pair: -pair[1]):
        narrator.tell(f"{n:4d} × {why}")


def _stream(release: Release, n: int, seed: int) -> list[Seen]:
    """Real pictures of the new emotions, with the redundancy of a camera that stays on."""
    pack = read_pack(release.folder / PICTURES)
    factor = ALL_EMOTIONS.names.index(FACTOR)
    wanted = [ALL_EMOTIONS.factors[factor].values.index(emotion) + 1 for emotion in NEW]
    rng = rng_stream(seed, "demo", "stream")
    rows = rng.permutation(np.flatnonzero(np.isin(pack.codes[:N_PICTURES, factor], wanted)))
    conditions = [ALL_EMOTIONS.decode(tuple(int(c) for c in pack.codes[row])) for row in rows]
    return stream(pack.images[rows], conditions, rng, Profile(n=n))


def _fate(device: Device, seen: Seen) -> tuple[str, str]:
    try:
        reply = device.observe(seen.media, seen.condition)
    except InvalidMedia as fault:
        return "refused", fault.reason
    if not reply.kept:
        return "dropped", reply.reason
    return "golden" if reply.split == "golden" else "kept", reply.reason.removeprefix("kept: ")


def _pixels(media: bytes, px: int) -> NDArray[np.uint8] | None:
    try:
        return decode_to(media, px)
    except InvalidMedia:
        return None


def _learn(found: Findings, devices: dict[str, Device], narrator: Narrator) -> dict[str, Runner]:
    narrator.chapter()
    steps = found.script.steps
    narrator.tell(f"{steps} steps each, one process and one thread each; pictures are made here meanwhile")
    before = devices["evergrove"].status().records
    assert found.first is not None
    condition = found.first.condition
    runners, found.learning_ms = race(devices, found.folder / "checkpoints", found.script, narrator, condition)
    after = devices["evergrove"].status().records
    found.records_lost = sum(before.values()) - sum(after.values())
    return runners


def _offer(found: Findings, device: Device, runner: Runner, judge: Judge, narrator: Narrator) -> None:
    """Four bad adapters, made from the good one; the device must keep every one out and go on serving."""
    narrator.chapter()
    torch.set_num_threads(max(1, min(2, os.cpu_count() or 1)))
    good = _file_to_judge(device, runner)
    serves = runner.result is not None and runner.result.verdict == "accepted"
    folder = found.folder / "adapters" / "injected"
    folder.mkdir(parents=True)
    victim = "happy" if "happy" in found.old else found.old[0]
    bad = [
        saboteurs.broken_numbers(good, folder / "nan.safetensors"),
        saboteurs.wrong_base(good, folder / "wrong-base.safetensors"),
        saboteurs.no_op(good, folder / "no-op.safetensors", serves),
        saboteurs.poisoned(
            good,
            folder / "poisoned.safetensors",
            judge,
            _material(found),
            NEW[0],
            victim,
            found.script.poison_steps,
            lambda p: narrator.progress(0.6 * p.step / p.steps, f"making a poisoned adapter: step {p.step}"),
        ),
    ]
    found.poison_norm = saboteurs.norm_ratio(judge.adapter(bad[-1].path.read_bytes()), judge.adapter(good.read_bytes()))
    for number, saboteur in enumerate(bad):
        device.wait_idle()
        result = device.offer(saboteur.path)
        found.offers.append(Offer(saboteur, result, _first_word(device, result)))
        narrator.progress(0.6 + 0.1 * number, f"{saboteur.name} at the gate")
        narrator.tell(f"{saboteur.what}: {result.verdict}")
        narrator.tell(f"  {found.offers[-1].said}")


def _first_word(device: Device, result: JobResult) -> str:
    """What was said at the first look, at full strength: later ones are about a weaker adapter."""
    looks = [look for look in gate.of(bootstrap.read_log(device.root)) if look.job == result.job]
    return looks[0].said(device.vocabulary) if looks else result.sentence


def _material(found: Findings) -> Pack:
    """Pictures of the new emotions from the stream, with codes of the device's vocabulary."""
    items = [(s.pixels, s.condition) for s in found.shown if s.outcome == "kept" and s.pixels is not None]
    images = np.stack([pixels for pixels, _ in items])
    return Pack(images, np.array([found.vocabulary.encode(condition) for _, condition in items], np.int16))


def _judge(
    found: Findings, devices: dict[str, Device], runners: dict[str, Runner], judge: Judge, narrator: Narrator
) -> None:
    """The oracle on the base, on both candidates at full strength (ours as it serves), and on both ways there."""
    narrator.chapter()
    torch.set_num_threads(1)
    script, emotions = found.script, (*found.old, *NEW)
    found.base = judge.judge(None, emotions, script.n_judged)
    narrator.tell(f"before: {found.base.mean(found.old):.0%} of {', '.join(found.old)} are right")
    for number, (name, runner) in enumerate(runners.items()):
        device, result = devices[name], runner.result
        assert result is not None
        log = bootstrap.read_log(device.root)
        path = _file_to_judge(device, runner)
        final = judge.judge(judge.adapter(path.read_bytes()), emotions, script.n_judged)
        glimpses = []
        for step, checkpoint in sorted(runner.checkpoints.items()):
            if step % script.glimpse_every == 0 and 0 < step < result.steps:
                with safe_open(checkpoint, "pt") as file:
                    tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
                adapter = judge.unfinished(tensors, found.vocabulary)
                glimpses.append((step, judge.judge(adapter, emotions, script.n_glimpsed)))
            narrator.progress((number + step / result.steps) / len(runners), f"{name} at step {step}")
        found.rivals[name] = _rival(found, runner, log, path, tuple(glimpses), final)
        narrator.tell(f"{name}: {final.mean(found.old):.0%} of the old and {final.mean(NEW):.0%} of the new are right")


def _rival(
    found: Findings,
    runner: Runner,
    log: list[events.Stamped],
    path: Path,
    glimpses: tuple[tuple[int, Judged], ...],
    final: Judged,
) -> Rival:
    """One contestant's whole course, with the gate's word and the names of the emotions that it would have lost."""
    assert runner.result is not None
    looks = [look for look in gate.of(log) if look.origin == "trained"]
    words = {"accepted": "accept", "rejected": "reject"}
    failed = looks[0].failed if looks else ()
    lost = {
        condition_name(code, found.vocabulary).removeprefix(f"{FACTOR}=") for kind, code in failed if kind != "gain"
    }
    named = tuple(emotion for emotion in found.old if emotion in lost)
    verdict_word = words.get(runner.result.verdict, runner.result.verdict)
    return Rival(runner, runner.result, path, glimpses, final, verdict_word, named)


def _file_to_judge(device: Device, runner: Runner) -> Path:
    """What serves, where the gate accepted it; else the candidate as it left the training."""
    assert runner.result is not None
    if runner.result.verdict == "accepted" and runner.result.adapter is not None:
        return device.root / "versions" / f"{runner.result.adapter}.safetensors"
    if runner.candidate is None:
        raise EvergroveError(f"{runner.name}: no training came to its end: {runner.result.sentence}")
    return runner.candidate


def _time_pictures(device: Device, found: Findings) -> list[float]:
    """Latencies in ms with nothing else at work, one thread."""
    assert found.first is not None
    torch.set_num_threads(1)
    device.wait_idle()
    learnt = found.rivals["evergrove"].gate == "accept"
    condition = {**found.first.condition, FACTOR: NEW[0]} if learnt else found.first.condition
    return [device.generate(condition).latency_ms for _ in range(found.script.n_pictures)]


def _finish(found: Findings, configs: dict[str, Config], narrator: Narrator) -> record.Outcome:
    """Numbers, verdict, pictures and the report; the folder is complete when this returns."""
    numbers = verdict.metrics(found)
    claims = verdict.claims(numbers)
    numbers["ok"] = all(claim.holds for claim in claims)
    folder = found.folder
    record.write_json(folder / "metrics.json", numbers)
    record.write_events(folder / "events.jsonl", found.logs)
    record.write_ledger(folder / "ledger.jsonl", found.sockets)
    record.write_config(folder / "config.resolved.toml", configs)
    record.copy_adapters(folder / "adapters", {name: rival.candidate for name, rival in found.rivals.items()})
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    pages.write_pictures(found)
    path = pages.write_report(found, numbers, claims)
    record.point_latest(folder)
    narrator.tell(f"{path}")
    lines = tuple(f"{'✓' if claim.holds else '✗'} {claim.text}" for claim in claims)
    return record.Outcome(numbers, lines, bool(numbers["ok"]), folder)
