"""Which releases a fog gathers for, from what is signed: pure, so that all workers of a fog come to the same plan.

Within a generation every signed release of the plan's layout may take part, whatever its rollout says: devices have it
from its first stage on. A new generation is another matter, since a fog never goes back to an older one: it opens once
the directive gives its release to everybody, so a rollout that stops on the way leaves the old one gathering.
"""

import math
from collections.abc import Collection, Mapping

from evergrove.core.release import Manifest
from evergrove.core.rollout import FULL, Directive
from evergrove.rules.params import Layout

RELEASES_MAX = 16
"""Releases of one plan; the oldest give way."""


def everybodys(told: Directive | None, newest: int) -> int:
    """The version whose generation the fleet is in; 0: none yet. ``newest`` was signed last: it counts without a word.

    While a rollout is under way, or has stopped, it is the version before it. The first one of all has none before it.
    """
    if told is None:
        return newest
    if told.serves and told.reach >= FULL:
        return told.version
    return told.before_version or (told.version if told.reach else 0)


def belongs(manifest: Manifest, layout: Layout) -> bool:
    """Whether updates of devices that run this release have the layout."""
    theirs = (manifest.generation, manifest.base.sha256, manifest.basis.sha256, manifest.vocabulary)
    return theirs == (layout.generation, layout.base, layout.basis, layout.vocabulary)


def admitted(known: Collection[str], fresh: Collection[str], versions: Mapping[str, int]) -> tuple[str, ...]:
    """The releases of a plan, oldest first: those that it has and those that are new to it; ``versions``: of all.

    One without a version counts as newest: a person named it, or another worker has seen more. So whoever adds to the
    same plan in whatever order comes to the same one, and nobody takes away what another has added.
    """
    both = dict.fromkeys((*known, *fresh))
    return tuple(sorted(both, key=lambda release: versions.get(release, math.inf)))[-RELEASES_MAX:]
