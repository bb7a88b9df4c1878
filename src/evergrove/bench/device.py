"""``evergrove bench device``: what one device costs on this machine, beside the bars of DESIGN.md.

The main path: what the agent costs, what an app feels (``generate`` through a real device, and while versions swap),
what an observation costs, and what a training step costs against a plain full fine-tune of the same model.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec

from evergrove.adapters.release import open_release
from evergrove.bench import process
from evergrove.bench.measure import Bar, Machine, Ratio, Spread, machine

SWAP_MS_MAX = 2.0
"""p99 of a swap (issue 2, §5)."""
AGENT_MB_MAX = 80.0
"""Resident memory of the agent (DESIGN §3)."""
GENERATE_MS_MAX = 30.0
"""p50 of one picture on one thread at the release's sampler settings (issue 2, §2)."""


class Sizes(msgspec.Struct, frozen=True):
    """How much is measured."""

    n_images: int = 240
    n_swaps: int = 600
    n_observations: int = 600
    n_blocks: int = 8
    n_steps: int = 8
    n_starts: int = 7


QUICK = Sizes(n_images=12, n_swaps=20, n_observations=24, n_blocks=2, n_steps=2, n_starts=1)


class Report(msgspec.Struct, frozen=True):
    """The whole measurement.

    ``swap`` is what stands between two calls of ``generate``; ``stage`` is what fusing a version costs beforehand, off
    their path; ``load`` is reading and checking its bytes before that. ``after_swap`` compares the first call after a
    swap with the one before it. ``novelty`` has decode, measure, decide and their total per observation. ``training``
    compares images a second with a plain full fine-tune: of the adapter alone, and of the whole objective.
    """

    release: str
    n_parameters: int
    threads: int
    sizes: Sizes
    machine: Machine
    agent: process.AgentCost
    generate: Spread
    load: Spread
    stage: Spread
    swap: Spread
    after_swap: Ratio
    novelty: dict[str, Spread]
    training: dict[str, Ratio]

    @property
    def bars(self) -> tuple[Bar, ...]:
        """What the design promises, beside what was measured."""
        return (
            Bar("swap, p99", self.swap.p99, SWAP_MS_MAX, "ms"),
            Bar("generate, p50", self.generate.p50, GENERATE_MS_MAX, "ms"),
            Bar("agent at work, resident", self.agent.working_mb, AGENT_MB_MAX, "MB"),
        )


Say = Callable[[str, int, int], None]
"""Hears about progress: what is measured, how many parts are done, of how many."""


def run(place: str | Path = "avatars", sizes: Sizes | None = None, say: Say = lambda what, done, total: None) -> Report:
    """Measure a device made from a release (a packaged name or a folder), in a temporary folder, on one thread.

    Takes about two minutes; raises ``InvalidArtefact`` for a release that fails its checks.
    """
    sizes = sizes or Sizes()
    release = open_release(place)
    say("agent", 0, 5)
    starting = process.start_cost(sizes.n_starts)

    import torch

    from evergrove.bench import novelty, serving, training
    from evergrove.runtime.assembly import open_parts

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        parts = open_parts(release)
        with tempfile.TemporaryDirectory(prefix="evergrove-bench-") as folder:
            say("generate", 1, 5)
            generate, working_mb = serving.generating(Path(folder) / "device", place, sizes.n_images)
            say("swap", 2, 5)
            swaps = serving.swapping(parts, sizes.n_swaps, sizes.n_images // 4)
            say("novelty", 3, 5)
            filtering = novelty.cost(release, sizes.n_observations)
            say("training", 4, 5)
            rates = training.compare(parts, Path(folder) / "training", sizes.n_blocks, sizes.n_steps)
    finally:
        torch.set_num_threads(threads)
    return Report(
        release=release.manifest.name,
        n_parameters=sum(p.numel() for p in parts.model.parameters()),
        threads=1,
        sizes=sizes,
        machine=machine(),
        agent=process.AgentCost(*starting, working_mb),
        generate=generate,
        load=swaps.load,
        stage=swaps.stage,
        swap=swaps.swap,
        after_swap=swaps.after,
        novelty=filtering,
        training=rates,
    )
