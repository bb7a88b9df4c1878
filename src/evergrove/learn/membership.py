"""Does an adapter give away what it was trained on? The loss-based attack on one adapter (``rules/audit.membership``).

Scores of pictures come out: how much less the adapted network errs on a picture than the release alone does, at fixed
(t, noise), smaller for what was learnt. The release as reference takes off how easy a picture is (Carlini et al. 2022).
"""

import numpy as np
from numpy.typing import NDArray
from torch import nn

from evergrove.core.conditions import Vocabulary
from evergrove.learn.adapter import Adapter, Basis
from evergrove.learn.evaluate import Golden, Probe, item_values, network
from evergrove.learn.strategies import Samples

DRAWS, T_LOW, T_HIGH = 16, 0.3, 0.95
"""Looks at each picture: what one look adds by chance must not hide what the network remembers. Measured on pictures
that were learnt by heart: from .3 to .95 all of 8 are recognised, from .05 to .5 five."""


def scores(
    model: nn.Module,
    basis: Basis,
    adapter: Adapter,
    released: Adapter | None,
    vocabulary: Vocabulary,
    samples: Samples,
    seed: int,
) -> NDArray[np.float64]:
    """One score for each picture (N,): its loss with the adapter less that of the release, in shares of the latter.

    ``released`` is what the release itself attaches to the base, None for nothing. ``vocabulary`` numbers the codes of
    the samples. The same ``seed`` looks at everything in the same way.
    """
    items = Golden(samples, (), seed)
    probe = Probe(draws=DRAWS, t_low=T_LOW, t_high=T_HIGH)
    adapted = item_values(network(model, basis, adapter, vocabulary).module, items, probe).loss
    before = item_values(network(model, basis, released, vocabulary).module, items, probe).loss
    result: NDArray[np.float64] = (adapted - before) / np.maximum(before, 1e-12)
    return result
