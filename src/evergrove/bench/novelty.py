"""What one observation costs the agent, in its three parts: decode, measure against what is kept, decide."""

import time

import numpy as np
from numpy.typing import NDArray

from evergrove.adapters.images import decode_to, encode_png
from evergrove.adapters.release import Release
from evergrove.bench.measure import Spread
from evergrove.core.conditions import Code, group
from evergrove.core.config import Novelty, Replay
from evergrove.core.rng import stream
from evergrove.media.packs import pack_of_bytes
from evergrove.rules import features, kept, novelty

PARTS = ("decode", "measure", "decide", "total")
JITTER = 6
"""Pictures come again with up to this much change of brightness, of 255: near duplicates, as cameras make them."""


def cost(release: Release, n: int) -> dict[str, Spread]:
    """Microseconds per observation over a stream of ``n`` PNG pictures, from the rehearsal pack with repetition."""
    manifest = release.manifest
    pack = pack_of_bytes(release.read(manifest.rehearsal), manifest.rehearsal.name)
    rng = stream(0, "bench", "observations")
    policy, state = novelty.Policy.of(Novelty(), Replay()), novelty.State()
    indices: dict[Code, kept.KeptIndex] = {}
    spent: dict[str, list[float]] = {part: [] for part in PARTS}
    for i in range(n):
        at = int(rng.integers(len(pack)))
        media = encode_png(jittered(pack.images[at], rng))
        code = tuple(int(value) for value in pack.codes[at])
        condition = group(code, manifest.known)
        chance = novelty.draw(rng)
        t0 = time.perf_counter_ns()
        pixels = decode_to(media, manifest.image_px)
        t1 = time.perf_counter_ns()
        index = indices.get(condition, kept.KeptIndex())
        features.sanity(pixels)
        digest, phash, feature = features.digest(pixels), features.perceptual_hash(pixels), features.describe(pixels)
        facts = kept.measure(digest, phash, feature, index, code)
        t2 = time.perf_counter_ns()
        state, decision = novelty.decide(state, policy, str(i), condition, len(media), facts, chance, golden=False)
        t3 = time.perf_counter_ns()
        if decision.keep:
            indices[condition] = index.add(str(i), digest, phash, feature, code)
        for record in decision.evict:
            indices[condition] = indices[condition].retire(record)
        for part, nanoseconds in zip(PARTS, (t1 - t0, t2 - t1, t3 - t2, t3 - t0), strict=True):
            spent[part].append(nanoseconds / 1000)
    return {part: Spread.of(values, "µs") for part, values in spent.items()}


def jittered(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """The picture a little brighter or darker, half of the time; else the very same."""
    shift = int(rng.integers(-JITTER, JITTER + 1)) if rng.random() < 0.5 else 0
    return np.clip(image.astype(np.int16) + shift, 0, 255).astype(np.uint8)
