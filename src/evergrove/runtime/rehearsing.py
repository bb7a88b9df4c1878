"""A rehearsal pack that also shows what the fleet has learnt, so that devices which never saw it keep it.

The pictures of the fleet's values are drawn by the release itself: nothing of any user's goes into them beyond what the
release says anyway (generative replay, Shin et al. 2017, from a model that does not drift).
"""

import numpy as np
import torch
from numpy.typing import NDArray

from evergrove.core.rng import seed_of, stream
from evergrove.learn.generator import FlowGenerator, to_condition, to_uint8
from evergrove.media.packs import Pack, pack_bytes, read_pack
from evergrove.runtime.assembly import Parts

BATCH = 32


def rehearsal_of(parts: Parts, n_each: int, seed: int = 0) -> bytes:
    """The release's rehearsal pack with ``n_each`` pictures of every value that its golden set does not judge, as the
    bytes of a pack: for ``write_release``. Pictures of such values that the pack holds already are drawn anew.

    What else such a picture shows is drawn among what the release is judged on, each value as likely as the others.
    """
    manifest = parts.release.manifest
    pack = read_pack(parts.release.path_of(manifest.rehearsal))
    known = np.array(manifest.known)
    old = (pack.codes <= known).all(axis=1)
    codes = [pack.codes[old]]
    fleet = [(f, n) for f, size in enumerate(manifest.vocabulary.sizes) for n in range(known[f] + 1, size + 1)]
    for f, n in fleet:
        rng = stream(seed, "rehearsal", f, n)
        drawn = np.stack([rng.integers(min(k, 1), k + 1, size=n_each) for k in known], axis=1).astype(np.int16)
        drawn[:, f] = n
        codes.append(drawn)
    added = np.concatenate(codes)[old.sum() :]
    if not len(added):
        return pack_bytes(Pack(pack.images[old], pack.codes[old]))
    images = _drawn(parts, added, seed)
    return pack_bytes(Pack(np.concatenate((pack.images[old], images)), np.concatenate(codes)))


def _drawn(parts: Parts, codes: NDArray[np.int16], seed: int) -> NDArray[np.uint8]:
    """One picture uint8 (H, W, C) for every code, by the release alone."""
    manifest = parts.release.manifest
    generator = FlowGenerator(parts.network(), (3, manifest.image_px, manifest.image_px), manifest.sampler)
    rng = torch.Generator().manual_seed(seed_of(seed, "rehearsal", "noise"))
    with torch.no_grad():
        drawn = [to_uint8(generator.sample(part, rng)) for part in torch.split(to_condition(codes), BATCH)]
    return np.concatenate(drawn)
