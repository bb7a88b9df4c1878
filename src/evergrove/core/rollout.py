"""What a staged rollout is made of: its stages, its rule, and the small document that tells devices whose turn it is.

A device decides by itself whether it is in a stage: by the place that its name has under the rollout's name. So a
``Directive`` is the same for every device, can be signed and cached, and asks nobody who is reading it.
"""

import hashlib
from typing import Literal

import msgspec

FULL = 1 << 32
"""Every device's place is below this; a reach of ``FULL`` is everybody."""

Mark = Literal["accepted", "confirmed", "rejected", "rolled_back", "failed"]
"""What a device says of a release. ``accepted``: its golden gate let it in. ``confirmed``: it has run it, and probation
has passed. ``rejected``: the gate. ``rolled_back``: probation. ``failed``: it could not be loaded or did not verify."""


class Stage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One stage: devices whose place is below ``reach`` take part; in the shadow they measure and do not serve.

    ``members`` is how many known devices the stage adds to the ones before.
    """

    name: str
    reach: int
    serves: bool
    members: int


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The rule of a rollout (``rules/rollout.judge`` states it).

    ``percents`` of the devices serve, one stage after the other, after ``shadow`` per cent have measured (0: no
    shadow). ``errors_share`` is the share of devices that may fail, ``alpha`` the chance to be wrong about it in one
    stage, ``reports_min`` the least reports that a stage is passed on, ``stage_s`` how long a stage may take (None for
    ``shadow_s``: the same). ``flip`` is the chance by which each device turns its health bit round (randomised
    response, Warner 1965); 0: reports are exact, and stand outside ε.
    """

    percents: tuple[float, ...] = (5.0, 25.0, 100.0)
    shadow: float = 5.0
    errors_share: float = 0.05
    alpha: float = 0.05
    reports_min: int = 10
    stage_s: float = 172_800.0
    shadow_s: float | None = None
    flip: float = 0.0


class Directive(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Which version runs where: ``release`` (a manifest's SHA-256) below ``reach``, ``before`` everywhere else.

    ``version`` and ``before_version`` are the numbers under which the two were published; a device takes only a higher
    one than it has. With ``serves`` false, the devices below ``reach`` measure the release and go on serving their own.
    ``held`` names devices, by ``held_as``, that take no version above the one given.
    """

    rollout: str
    release: str
    version: int
    reach: int
    serves: bool
    before: str = ""
    before_version: int = 0
    schema: int = 1
    held: dict[str, int] = {}


class Offer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one device is to take: a published version, to serve or only to measure."""

    release: str
    version: int
    serves: bool


def place(rollout: str, device: str) -> int:
    """A device's place in a rollout, 0 ≤ place < ``FULL``: uniform, fixed, and another one in the next rollout.

    BLAKE2b of both names. So it is not always the same devices that go first.
    """
    text = f"{rollout}\x1f{device}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=4, person=b"evergrove.stage").digest(), "big")


def held_as(device: str) -> str:
    """How a directive names a device that is held: 16 hex digits, which say its name only to who can guess it."""
    return hashlib.blake2b(device.encode(), digest_size=8, person=b"evergrove.held").hexdigest()


def offer(directive: Directive, device: str, version: int) -> Offer | None:
    """What a device that runs ``version`` is to take; None: nothing, it has what it should have, or a newer one."""
    most = directive.held.get(held_as(device), directive.version) if directive.held else directive.version
    in_turn = most >= directive.version > version and place(directive.rollout, device) < directive.reach
    if in_turn and directive.serves:
        return Offer(directive.release, directive.version, True)
    if most >= directive.before_version > version:  # before it measures a new one, a device is brought up to date
        return Offer(directive.before, directive.before_version, True)
    return Offer(directive.release, directive.version, False) if in_turn else None


class DeviceReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One device's word on a rollout on its way from a fog to the cloud; ``shadow``: it only measured.

    ``position`` grows with every word at a fog, and says which ones the cloud has.
    """

    position: int
    device: str
    rollout: str
    mark: Mark
    shadow: bool = False
