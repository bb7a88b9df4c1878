"""Is the novelty filter worth having? Keep all, a random selection of the same count, and ours, on labelled streams.

    python benchmarks/novelty.py --seeds 5                  # the filter, and what a device learns from what it kept
    python benchmarks/novelty.py --seeds 5 --filter-only    # seconds: shares and recall only

Each seed draws a stream of 400 observations of the two emotions that the base does not know (`media/streams.py`, whose
profile was fixed before the filter was tuned) from the release's demo pack. Pictures go the way that an agent takes
them: decoded and checked first, then measured and decided. All three selections train the same strategy by the same
recipe from the same base; the oracle reads the emotion off generated pictures in looks of the golden set. Nothing was
tuned on these emotions: thresholds come from the base's own and from other new ones.
"""

import argparse
import json
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

import evergrove
from evergrove.adapters.images import decode_to
from evergrove.core.conditions import Code, Vocabulary, group
from evergrove.core.config import Config, Novelty
from evergrove.core.errors import InvalidMedia
from evergrove.core.rng import stream as named
from evergrove.learn.adapter import fuse
from evergrove.learn.adapter_file import adapter_of_bytes
from evergrove.learn.base import load_base, read_manifest
from evergrove.learn.basis import load_basis
from evergrove.learn.flow import Method, sample
from evergrove.learn.generator import to_condition, to_uint8
from evergrove.learn.oracle import load_oracle
from evergrove.learn.strategies import Recipe, Samples, Task, strategy_named
from evergrove.learn.trainer import train
from evergrove.media.packs import read_pack
from evergrove.media.streams import Seen, stream
from evergrove.rules import features, novelty
from evergrove.rules.kept import KeptIndex, measure

RELEASE = Path(evergrove.__file__).parent / "assets" / "avatars"
PER_NEW, PER_OLD = 96, 24
"""Pictures that the oracle reads of every new emotion, and of every one that the base knows."""


@dataclass
class Filtered:
    """What became of a stream: numbers of observations, by selection, and why."""

    seen: list[Seen]
    pixels: dict[int, NDArray[np.uint8]] = field(default_factory=dict)
    train: set[int] = field(default_factory=set)
    golden: set[int] = field(default_factory=set)
    ever: set[int] = field(default_factory=set)
    reasons: dict[str, Counter[str]] = field(default_factory=dict)


def run_filter(
    seen: list[Seen], vocabulary: Vocabulary, known: Code, image_px: int, config: Config, seed: int
) -> Filtered:
    """The agent's path without the agent: decode, check, measure, decide."""
    out = Filtered(seen)
    policy, state = novelty.Policy.of(config.novelty, config.replay), novelty.State()
    kept: dict[Code, KeptIndex] = {}

    def note(i: int, reason: str) -> None:
        out.reasons.setdefault(seen[i].label, Counter())[reason] += 1

    for i, one in enumerate(seen):
        try:
            pixels = decode_to(one.media, image_px, config.media)
            if reason := features.sanity(pixels):
                raise InvalidMedia(reason, reason)
        except InvalidMedia as fault:
            note(i, fault.reason)
            continue
        out.pixels[i] = pixels
        code = vocabulary.encode(one.condition)
        condition = group(code, known)
        index = kept.get(condition, KeptIndex.empty())
        look = features.digest(pixels), features.perceptual_hash(pixels), features.describe(pixels)
        facts = measure(*look, index, code)
        chance = novelty.draw(named(seed, "novelty", state.n_decided))
        new = any(value > size for value, size in zip(condition, known, strict=True))
        state, decision = novelty.decide(state, policy, str(i), condition, len(one.media), facts, chance, golden=new)
        note(i, str(decision.reason))
        if decision.keep:
            kept[condition] = index.add(str(i), *look, code)
            out.ever.add(i)
        for record in decision.evict:
            kept[condition] = kept[condition].retire(record)
    out.train = {int(r) for r in state.buffer.records("train")}
    out.golden = {int(r) for r in state.buffer.records("golden")}
    return out


def figures(filtered: Filtered) -> dict[str, float]:
    """Shares of the stream and of its truly new items (an item counts as held if it or a copy of it is)."""
    seen, held = filtered.seen, filtered.train | filtered.golden
    sources = {s.source for s in seen if s.label == "new"}
    held_sources = {seen[i].source for i in held} - {None}
    leaked = {seen[i].source for i in filtered.train} & {seen[i].source for i in filtered.golden}
    return {
        "observed": len(seen),
        "held": len(held) / len(seen),
        "ever_kept": len(filtered.ever) / len(seen),
        "recall_new": len(held_sources) / len(sources),
        "recall_new_at_arrival": len({seen[i].source for i in filtered.ever} - {None}) / len(sources),
        "copies_among_held": 1 - len(held_sources) / len(held),
        "junk_kept": sum(seen[i].label == "junk" for i in filtered.ever),
        "golden": len(filtered.golden),
        "golden_leaks": len(leaked),
    }


@dataclass(frozen=True)
class Course:
    """What learning needs, opened once."""

    release: Path
    strategy: str
    steps: int

    def accuracy(
        self, images: NDArray[np.uint8], codes: NDArray[np.int16], vocabulary: Vocabulary, seed: int
    ) -> dict[str, float]:
        """Trains on these observations; what the oracle then reads right, of new emotions and of old ones."""
        manifest, model = read_manifest(self.release), load_base(self.release)
        basis = load_basis(self.release / manifest.basis.name, manifest.base.sha256, manifest.scale)
        pack = read_pack(self.release / manifest.rehearsal.name)
        task = Task(
            model,
            basis,
            vocabulary,
            Samples(images, codes),
            Samples(pack.images, pack.codes),
            strategy_named(self.strategy),
            Recipe(steps=self.steps),
            seed,
        )
        with tempfile.TemporaryDirectory() as folder:
            outcome = train(task, Path(folder))
            assert outcome.candidate is not None
            adapter = adapter_of_bytes(outcome.candidate.read_bytes())
        network = fuse(model, basis, adapter)
        golden = read_pack(self.release / manifest.golden.name)
        asked = _asked(golden.codes, vocabulary, manifest.vocabulary.sizes[0], seed)
        rng = torch.Generator().manual_seed(seed)
        noise = torch.randn((len(asked), 3, manifest.image_px, manifest.image_px), generator=rng)
        sampler = manifest.sampler
        method = cast(Method, sampler.method)
        pictures = [
            to_uint8(sample(network, to_condition(codes), z, sampler.steps, method, sampler.guidance))
            for codes, z in ((asked[i : i + 32], noise[i : i + 32]) for i in range(0, len(asked), 32))
        ]
        read = load_oracle(self.release / "oracle.safetensors").read(np.concatenate(pictures))
        right, old = read[:, 0] == asked[:, 0], asked[:, 0] <= manifest.vocabulary.sizes[0]
        return {"new": float(right[~old].mean()), "old": float(right[old].mean()), "seconds": outcome.seconds}


def _asked(codes: NDArray[np.int16], vocabulary: Vocabulary, known: int, seed: int) -> NDArray[np.int16]:
    """Conditions of every emotion, in looks of the golden set: the same looks for each."""
    looks = codes[named(seed, "asked").choice(len(codes), PER_NEW, replace=False)]
    asked = []
    for value in range(1, vocabulary.sizes[0] + 1):
        some = looks[: PER_OLD if value <= known else PER_NEW].copy()
        some[:, 0] = value
        asked.append(some)
    return np.concatenate(asked)


def one_seed(seed: int, course: Course, config: Config, *, learn: bool) -> dict[str, Any]:
    """One stream, its filtering and, if asked for, the three trainings."""
    manifest = read_manifest(course.release)
    pack = read_pack(course.release / "demo.npz")
    emotion = manifest.vocabulary.factors[0]
    vocabulary = manifest.vocabulary.extend({emotion.name: "love"}).extend({emotion.name: "dizzy"})
    _, distinct = np.unique(pack.images.reshape(len(pack), -1), axis=0, return_index=True)
    chosen = named(seed, "pictures").permutation(distinct)
    conditions = [vocabulary.decode(tuple(int(v) for v in pack.codes[i])) for i in chosen]
    seen = stream(pack.images[chosen], conditions, named(seed, "stream"))
    filtered = run_filter(seen, vocabulary, manifest.vocabulary.sizes, manifest.image_px, config, seed)
    result: dict[str, Any] = {"seed": seed, "filter": figures(filtered), "reasons": filtered.reasons}
    if not learn:
        return result
    sane = sorted(set(filtered.pixels) - filtered.golden)
    random = named(seed, "random").choice(sorted(filtered.pixels), len(filtered.train), replace=False)
    for name, rows in (("all", sane), ("random", random.tolist()), ("ours", sorted(filtered.train))):
        images = np.stack([filtered.pixels[i] for i in rows])
        codes = np.array([vocabulary.encode(seen[i].condition) for i in rows], np.int16)
        result[name] = {"n": len(rows)} | course.accuracy(images, codes, vocabulary, seed)
        print(json.dumps({"seed": seed, name: result[name]}), flush=True)
    return result


def main() -> None:
    """Prints one JSON document a seed and a summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--strategy", default="evergrove")
    parser.add_argument("--capacity", type=int, default=Novelty().capacity_per_condition)
    parser.add_argument("--release", type=Path, default=RELEASE)
    parser.add_argument("--filter-only", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = Config(novelty=Novelty(capacity_per_condition=options.capacity))
    course = Course(options.release, options.strategy, options.steps)
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    results = [one_seed(seed, course, config, learn=not options.filter_only) for seed in seeds]
    print(json.dumps({"per_seed": results, "mean": summary(results)}, indent=1))


def summary(results: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Means over the seeds of everything that is a number."""
    out: dict[str, dict[str, float]] = {}
    for part in ("filter", "all", "random", "ours"):
        rows = [r[part] for r in results if isinstance(r.get(part), dict)]
        if rows:
            out[part] = {key: round(float(np.mean([row[key] for row in rows])), 4) for key in rows[0]}
    return out


if __name__ == "__main__":
    main()
