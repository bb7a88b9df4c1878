"""The stream of the bench: 30 frames a second of one condition, at as many sampler steps as this machine keeps up with.

A stream that misses its beats with nothing beside it tells nothing about what training or a swap does to it.
"""

import time
from collections.abc import Mapping

import numpy as np

from evergrove.adapters.release import Release
from evergrove.bootstrap import Device
from evergrove.runtime.picture import Frame

FPS = 30.0
FILLS = 0.55
"""Part of its period that a frame may take at its median: what a machine of uneven speed needs to be in time."""
WARM_UP, TRIES = 5, 25


def condition_of(release: Release) -> dict[str, str]:
    """What is drawn: the first value of every factor."""
    return {factor.name: factor.values[0] for factor in release.manifest.vocabulary.factors}


def steps_of(device: Device, release: Release, condition: Mapping[str, str]) -> int:
    """The most sampler steps, up to the release's own, at which a picture takes its part of the period; at least 1."""
    for steps in range(release.manifest.sampler.steps, 1, -1):
        took_ms = [device.generate(condition, seed=seed, steps=steps).latency_ms for seed in range(TRIES)]
        if float(np.median(took_ms[WARM_UP:])) <= FILLS * 1000 / FPS:
            return steps
    return 1


def time_ms(frame: Frame, period_s: float) -> float:
    """Milliseconds from the frame's beat, at which it could begin, to now, when the app has it."""
    return (time.monotonic() - (frame.due_s - period_s)) * 1000
