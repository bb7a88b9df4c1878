"""The loss-based attack on a device's personal adapter: what it was trained on, against its held-back golden items.

Runs in the process that asks, beside an agent at work; nothing is written. Needs torch.
"""

from pathlib import Path

import msgspec
import numpy as np

from evergrove.adapters.keys import FileKey
from evergrove.adapters.release import Release
from evergrove.adapters.vault import Record, Vault
from evergrove.adapters.versions import Versions
from evergrove.core.conditions import group
from evergrove.core.errors import UsageError
from evergrove.learn import membership
from evergrove.learn.adapter_file import adapter_of_bytes
from evergrove.rules import audit
from evergrove.runtime import assembly
from evergrove.tiers.device import State

FPR = 0.01
OTHERS_MIN = 10


class Exposed(msgspec.Struct, frozen=True):
    """How well an attacker who has the adapter tells its training pictures: ``tpr`` with its 95 % interval.

    ``fpr_most`` is the rate of false accusations that it allows itself: 1 %, or one of ``n_others`` where these are
    fewer than a hundred. ``fpr`` is what it came to.
    """

    version: str
    tpr: float
    low: float
    high: float
    fpr: float
    fpr_most: float
    n_members: int
    n_others: int


def attack(root: Path, release: Release, state: State) -> Exposed:
    """Attacks what serves now. Raises ``UsageError`` where nothing was learnt, or too little is held back to tell."""
    pointer = Versions(root / "versions").read_pointer()
    if pointer.current is None:
        raise UsageError("the release alone serves: there is no personal adapter that could give anything away")
    # 1. What it has seen, and golden items of the same conditions, which are never trained on.
    vault = Vault(root / "vault", state.device, FileKey(root / "device.key"), read_only=True)
    trained = list(state.codes)[: None if state.seen is None else state.seen.records]
    records = list(vault.all())
    members = [one for one in records if one.id in set(trained)]
    known = {group(tuple(one.code), state.known) for one in members}
    others = [one for one in records if one.split == "golden" and group(tuple(one.code), state.known) in known]
    if not members or len(others) < OTHERS_MIN:
        raise UsageError(
            f"{len(members)} pictures that it was trained on and {len(others)} that were held back; {OTHERS_MIN} of "
            "the latter are needed to tell anything. Show the device more, or raise novelty.golden_capacity"
        )
    # 2. Their scores, under the adapter and under the release alone.
    vocabulary = vault.names() or release.manifest.vocabulary
    parts = assembly.open_parts(release)
    adapter = adapter_of_bytes(Versions(root / "versions").load(pointer.current), f"version {pointer.current[:12]}")

    def scored(chosen: list[Record]) -> np.ndarray:
        shown = ((one.media, vocabulary.encode(one.condition)) for one in chosen)
        samples = assembly.samples_of(shown, release.manifest.image_px, len(vocabulary.factors))
        return membership.scores(
            parts.model, parts.basis, adapter, parts.serving(None), vocabulary, samples, state.seed
        )

    # 3. The attack.
    fpr_most = max(FPR, 1 / len(others))
    found = audit.membership(scored(members), scored(others), fpr_most)
    return Exposed(pointer.current, found.tpr, found.low, found.high, found.fpr, fpr_most, found.n_members, len(others))
