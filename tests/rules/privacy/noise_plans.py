"""A small plan to change: what the tests of this folder begin with."""

from typing import Any

import msgspec

from evergrove.rules.privacy.blt import Blt
from evergrove.rules.privacy.plan import NoisePlan

VECTOR = Blt((0.98607187, 0.62314426), (0.2313186, 0.27253798))
"""θ and ω of DESIGN §7's test vector."""

PLAN = NoisePlan(
    generation=3,
    fog="north",
    rounds=12,
    separation=4,
    participations=2,
    cohort=5,
    size=6,
    clip=0.75,
    multiplier=20.0,
    blt=Blt((0.9, 0.4), (0.3, 0.2)),
    quantile_multiplier=90.0,
)


def plan(**changes: Any) -> NoisePlan:
    """``PLAN`` with changes."""
    return msgspec.structs.replace(PLAN, **changes)
