"""What a device may take along to another release: 1, ½, ¼ or none of what it has learnt itself. numpy alone."""

from collections.abc import Callable

from evergrove.adapters.release import Release
from evergrove.adapters.versions import Versions
from evergrove.core.errors import UsageError
from evergrove.rules.carry import GAMMAS, across, ground_of, on_release
from evergrove.rules.learnt import Learnt, decode, encode

Made = tuple[float, str | None, str | None]
"""γ, the adapter (None: the release alone), and what updates are counted from there."""


def carried(
    versions: Versions, before: Release, arriving: Release, incumbent: str | None, given: str | None
) -> list[Made]:
    """The adapters that may serve on ``arriving``, put into the versions folder; the release alone at least.

    ``incumbent`` serves on the release ``before``, ``given`` is what the last update was made of. What was not sent yet
    stays the difference of the two. A device that has learnt nothing, or by ordinary LoRA, has the release alone to
    choose.
    """
    alone: list[Made] = [(0.0, None, None)]
    if incumbent is None:
        return alone
    own = decode(versions.load(incumbent), f"version {incumbent[:12]}")
    sent = None if given is None else decode(versions.load(given), f"version {given[:12]}")
    try:
        carry = _carrier(before, arriving)
        return [
            *(
                (
                    gamma,
                    versions.add(encode(carry(own, gamma))),
                    None if sent is None else versions.add(encode(carry(sent, gamma))),
                )
                for gamma in GAMMAS
                if gamma > 0
            ),
            *alone,
        ]
    except UsageError:
        return alone


def _carrier(before: Release, after: Release) -> Callable[[Learnt, float], Learnt]:
    """How what was learnt goes along: exactly within a generation, by least squares across one."""
    old, new = before.manifest, after.manifest
    r0, r1 = (None if r.manifest.adapter is None else decode(r.read(r.manifest.adapter)) for r in (before, after))
    if (old.base.sha256, old.basis.sha256) == (new.base.sha256, new.basis.sha256):
        return lambda one, gamma: on_release(one, r0, r1, new.vocabulary, gamma)
    here, there = (ground_of(r.manifest, r.read(r.manifest.base), r.read(r.manifest.basis)) for r in (before, after))
    return lambda one, gamma: across(one, r0, here, r1, there, gamma).adapter
