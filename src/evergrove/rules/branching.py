"""Where a device gives each condition a B of its own, and for how long it learns one (ADR 0028)."""

from evergrove.core.config import Config
from evergrove.core.sections import OURS

PASSES_MAX = 40
"""How often a job sees each of its pictures, about: few pictures that are seen more often are learnt by heart."""
FRAME_RATIO = 1.35
"""How much longer a picture may take that has a B of its own beside the weights (at most 1.31 was measured)."""


def gives(config: Config) -> bool:
    """Whether a device's updates go to its fleet, which sums one B for all."""
    return bool(config.fleet.fog) and config.fleet.federate


def stands_alone(config: Config, n_factors: int) -> bool:
    """Whether each condition gets a B of its own: by our strategy, on a base of one factor, where nothing is given."""
    return n_factors == 1 and config.learn.strategy == OURS and not gives(config)


def bearable(config: Config, n_factors: int, steps: int, n_pictures: int) -> int:
    """How many of the ``steps`` that were asked for a job of so many pictures takes."""
    if not stands_alone(config, n_factors):
        return steps
    return min(steps, max(1, -(-PASSES_MAX * n_pictures // config.learn.batch)))
