"""What an app feels: pictures through a real device, and what a swap of versions does to them."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from evergrove import Device
from evergrove.bench.measure import Ratio, Spread, rss_mb
from evergrove.core.conditions import Vocabulary
from evergrove.core.rng import seed_of, stream
from evergrove.learn.adapter import Adapter, attach, blank_adapter, check_fit, read_adapter
from evergrove.learn.adapter_file import adapter_bytes, adapter_of_bytes
from evergrove.learn.generator import FlowGenerator
from evergrove.learn.slots import LiveModel
from evergrove.runtime.assembly import Parts

WARM_UP = 5
"""Calls before the clock starts: torch picks its kernels in the first ones."""
LEARNT_STD = 0.02
"""Spread of a test adapter's B: about what training leaves; the time does not depend on it."""


@dataclass(frozen=True)
class Swapping:
    """See ``device.Report``."""

    load: Spread
    stage: Spread
    swap: Spread
    after: Ratio


def generating(folder: Path, place: str | Path, n: int) -> tuple[Spread, float]:
    """``n`` pictures, one after the other, from a new device; and its agent's resident MB after some observations."""
    rng = stream(0, "bench", "conditions")
    with Device.create(folder, release=place, flags={"generate.threads": "1"}) as device:
        vocabulary = device.vocabulary
        for i in range(WARM_UP):
            device.generate(draw_condition(vocabulary, rng), seed=i)
        pictures = [device.generate(draw_condition(vocabulary, rng), seed=i) for i in range(n)]
        for picture in pictures[:50]:
            device.observe(picture.array, picture.condition)
        working_mb = rss_mb(device.agent_pid)
        device.close(stop_agent=True)
    return Spread.of([picture.latency_ms for picture in pictures], "ms"), round(working_mb, 1)


def swapping(parts: Parts, n: int, n_pairs: int) -> Swapping:
    """``n`` swaps between two adapters that each know a condition more than the base; every one is checked.

    After ``n_pairs`` of them a picture is drawn at once, beside one just before the swap.
    """
    manifest = parts.release.manifest
    data = [adapter_bytes(some_adapter(parts, seed)) for seed in range(2)]
    live = LiveModel(parts.model, parts.basis, manifest.vocabulary, parts.adapter)
    load_ms, stage_ms, swap_ms, before_ms, after_ms = [], [], [], [], []
    for i in range(WARM_UP):
        picture_ms(live, parts, i)
    for i in range(n):
        version = f"version {i}"
        started_s = time.perf_counter()
        adapter = adapter_of_bytes(data[i % 2])
        check_fit(parts.model, parts.basis, adapter)
        loaded_s = time.perf_counter()
        live.stage(adapter, version)
        staged_s = time.perf_counter()
        paired = i < n_pairs
        if paired:
            before_ms.append(picture_ms(live, parts, i))
        ready_s = time.perf_counter()
        live.swap()
        swap_ms.append((time.perf_counter() - ready_s) * 1000)
        assert live.current.version == version, "a swap takes effect at once"
        if paired:
            after_ms.append(picture_ms(live, parts, i))
        load_ms.append((loaded_s - started_s) * 1000)
        stage_ms.append((staged_s - loaded_s) * 1000)
    load, stage, swap = (Spread.of(values, "ms") for values in (load_ms, stage_ms, swap_ms))
    return Swapping(load, stage, swap, Ratio.of(after_ms, before_ms, "ms"))


def picture_ms(live: LiveModel, parts: Parts, seed: int) -> float:
    """What one picture takes from the version that is live, in milliseconds."""
    manifest = parts.release.manifest
    started_s = time.perf_counter()
    with live.lease() as lease, torch.no_grad():
        code = lease.vocabulary.encode(draw_condition(manifest.vocabulary, np.random.default_rng(seed)))
        shape = (3, manifest.image_px, manifest.image_px)
        generator = FlowGenerator(lease.module, shape, manifest.sampler)
        generator.sample(torch.tensor([code]), torch.Generator().manual_seed(seed))
    return (time.perf_counter() - started_s) * 1000


def some_adapter(parts: Parts, seed: int) -> Adapter:
    """An adapter with small random numbers that knows one value more than the base in its first factor."""
    blank = blank_adapter(parts.model, parts.basis, wider(parts.release.manifest.vocabulary))
    attached = attach(parts.model, parts.basis, blank)
    rng = torch.Generator().manual_seed(seed_of(seed, "bench", "adapter"))
    with torch.no_grad():
        for parameter in attached.parameters.values():
            numbers: Tensor = torch.randn(parameter.shape, generator=rng)
            parameter.copy_(LEARNT_STD * numbers)
    return read_adapter(attached)


def wider(vocabulary: Vocabulary) -> Vocabulary:
    """The vocabulary with one more value of its first factor."""
    return vocabulary.extend({vocabulary.names[0]: "bench"})


def draw_condition(vocabulary: Vocabulary, rng: np.random.Generator) -> dict[str, str]:
    """A condition that names every factor, each value as likely as the others."""
    return {factor.name: str(rng.choice(factor.values)) for factor in vocabulary.factors}
