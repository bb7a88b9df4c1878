"""A rehearsal pack that also shows what the fleet has learnt, so that devices need not draw it themselves.

The pictures are the release's own (``learn/rehearsal``): nothing of any user's goes into them beyond what the release
says anyway.
"""

import numpy as np

from evergrove.learn.rehearsal import codes_of, draw, fleet_values
from evergrove.media.packs import Pack, pack_bytes, read_pack
from evergrove.runtime.assembly import Parts


def rehearsal_of(parts: Parts, n_each: int, seed: int = 0) -> bytes:
    """The release's rehearsal pack with ``n_each`` pictures of every value that the fleet has learnt and its golden
    set does not judge, as the bytes of a pack: for ``write_release``. Older ones of such values are drawn anew."""
    manifest = parts.release.manifest
    pack = read_pack(parts.release.path_of(manifest.rehearsal))
    old = (pack.codes <= np.array(manifest.known)).all(axis=1)
    images, codes = pack.images[old], pack.codes[old]
    added = codes_of(fleet_values(manifest, parts.adapter, [codes]), manifest, n_each, seed)
    if len(added):
        drawn = draw(parts.network(), manifest, added, seed)
        images, codes = np.concatenate((images, drawn.images)), np.concatenate((codes, added))
    return pack_bytes(Pack(images, codes))
