"""Who should not get in: a member that sends poison or borrows a token, and a thief with a stolen device.

Each has a valid certificate of the fleet (the thief's is a good one, until it is revoked) and speaks the real protocol
over mutual TLS. What the fog answered is kept as the typed reason that it is.
"""

import contextlib
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evergrove.adapters.fog_client import FogClient, connect, enrol
from evergrove.core import transport
from evergrove.core.errors import UpdateRefused
from evergrove.core.release import sha256_hex
from evergrove.demo.fleet.grove import Grove
from evergrove.rules import params, tokens
from evergrove.rules.params import Layout, Vector

POISONER, THIEF = "mallory", "lost-phone"


@dataclass(frozen=True)
class Attempt:
    """One try: who, what it did in words, the reason that was expected, the one that came ("": it was let in)."""

    who: str
    what: str
    expected: str
    reason: str
    said: str

    @property
    def refused(self) -> bool:
        """For the right reason, and no other."""
        return self.reason == self.expected


def knock(grove: Grove, home: str, layout: Layout, honest: Vector, folder: Path) -> list[Attempt]:
    """All tries at one fog. ``honest`` is the update of a good device, which the poisoner has somehow got hold of."""
    authority = grove.authority(home)
    for name in (POISONER, THIEF):
        token = authority.issue_token(time.time(), name)
        enrol(grove.url(home), grove.ca(home), token, folder / name)
    nan = honest.copy()
    nan[len(nan) // 2] = np.nan
    tries: list[tuple[str, str, str, Callable[[FogClient], object]]] = [
        (POISONER, "one NaN among sound numbers", "not finite",
         lambda line: submit(grove, line, layout, POISONER, nan)),
        (POISONER, "the opposite of what a good device learnt, five times as long", "enormous norm",
         lambda line: submit(grove, line, layout, POISONER, -5 * honest)),
        (POISONER, "what a good device learnt, a thousand times as long", "enormous norm",
         lambda line: submit(grove, line, layout, POISONER, 1000 * honest)),
        (POISONER, "a sound update with another device's participation token", "token of another",
         lambda line: submit(grove, line, layout, "ada", honest)),
    ]  # fmt: skip
    found = [_try(grove, home, folder, *one) for one in tries]
    # The thief's certificate is good, and its device is known; then its owner reports it.
    authority.revoke(THIEF, "stolen", time.time())
    stolen: list[tuple[str, str, str, Callable[[FogClient], object]]] = [
        (THIEF, "asks by what terms to take part, with the stolen key", "revoked", lambda line: line.terms()),
        (THIEF, "a sound update, with the stolen key", "revoked",
         lambda line: submit(grove, line, layout, THIEF, honest)),
        (THIEF, "asks for the newest release, with the stolen key", "revoked", lambda line: line.news("x")),
    ]  # fmt: skip
    return found + [_try(grove, home, folder, *one) for one in stolen]


def submit(grove: Grove, line: FogClient, layout: Layout, named: str, vector: Vector) -> object:
    """Sends numbers as an update whose token is that of the device ``named``."""
    body = raw(vector, layout)
    token = tokens.token_of(named, layout.generation, secrets.token_bytes(tokens.NONCE_BYTES))
    head = transport.Update(
        grove.release.manifest_hash, layout.base, layout.basis, layout.generation, token, sha256_hex(body), len(body)
    )
    return line.submit(transport.frame(head, body))


def raw(vector: Vector, layout: Layout) -> bytes:
    """The bytes of an update, whatever its numbers are: a good device's encoder would refuse some of them."""
    sound = params.encode(np.zeros(layout.n_numbers, np.float32), layout, "float32")
    numbers = np.asarray(vector, "<f4").tobytes()
    return sound[: len(sound) - len(numbers)] + numbers


def refused(attempts: Sequence[Attempt]) -> int:
    """How many were kept out for the right reason."""
    return sum(attempt.refused for attempt in attempts)


def _try(
    grove: Grove, home: str, folder: Path, who: str, what: str, expected: str, act: Callable[[FogClient], object]
) -> Attempt:
    with contextlib.closing(connect(grove.url(home), folder / who)) as line:
        try:
            act(line)
        except UpdateRefused as fault:
            return Attempt(who, what, expected, fault.reason, str(fault))
    return Attempt(who, what, expected, "", "it was let in")
