"""The network: shapes, names that adapters rely on, and growth that leaves the old as it was."""

import pytest
import torch

from evergrove.core.conditions import Factor, Vocabulary
from evergrove.core.errors import UsageError
from evergrove.learn.dit import ADAPTED, DiT, DiTConfig, adapted_layers, grow

CONFIG = DiTConfig(image_px=16, patch_px=4, width=32, depth=3, heads=2)
WORDS = Vocabulary((Factor("emotion", ("happy", "sad", "angry")), Factor("hair", ("bob", "short"))))


def network() -> DiT:
    torch.manual_seed(0)
    return DiT(CONFIG, WORDS)


def stirred() -> DiT:
    """A network none of whose layers is zero, as the gates are at first."""
    model = network()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return model


def test_gives_a_picture_of_the_size_that_it_was_given() -> None:
    """x̂ has the shape of x_t, and a fresh network says 'grey' (its last layer starts at zero)."""
    x_hat = network()(torch.randn(5, 3, 16, 16), torch.rand(5), torch.ones(5, 2, dtype=torch.int64))
    assert x_hat.shape == (5, 3, 16, 16)
    assert (x_hat == 0).all()


def test_patches_are_cut_and_put_together_without_a_change() -> None:
    """Cutting and joining are inverse to each other."""
    x = torch.randn(2, 3, 16, 16)
    model = network()
    assert torch.equal(model._picture(model._patches(x)), x)


def test_every_factor_and_the_time_matter() -> None:
    """Changing any one of them changes the outcome."""
    model, x = stirred(), torch.randn(1, 3, 16, 16)
    plain = model(x, torch.tensor([0.3]), torch.tensor([[1, 1]]))
    for t, code in ((0.4, [1, 1]), (0.3, [2, 1]), (0.3, [1, 2]), (0.3, [0, 1])):
        assert not torch.allclose(model(x, torch.tensor([t]), torch.tensor([code])), plain)


def test_adapted_layers_have_the_names_of_the_state_dict() -> None:
    """Adapters on disk name these layers, so the names may never change."""
    layers = adapted_layers(network())
    assert list(layers) == [f"blocks.{i}.{name}" for i in range(3) for name in ADAPTED]
    weights = network().state_dict()
    assert all(f"{name}.weight" in weights for name in layers)


def test_growing_keeps_the_old_rows_and_starts_new_ones_at_the_mean() -> None:
    """Old rows are bit-identical; the null row does not count for the mean."""
    model = stirred()
    before = model.tables[0].weight.clone()
    x, t, code = torch.randn(1, 3, 16, 16), torch.tensor([0.5]), torch.tensor([[3, 2]])
    picture = model(x, t, code)
    grow(model, WORDS.extend({"emotion": "proud"}))
    after = model.tables[0].weight
    assert torch.equal(after[:4], before)
    assert torch.allclose(after[4], before[1:].mean(0))
    assert torch.equal(model(x, t, code), picture)
    assert model.vocabulary.encode({"emotion": "proud"}) == (4, 0)


def test_a_vocabulary_only_grows() -> None:
    """Another order or a missing value would change what the old rows mean."""
    model = network()
    with pytest.raises(UsageError, match="only grow"):
        grow(model, Vocabulary((Factor("emotion", ("sad", "happy", "angry")), WORDS.factors[1])))
    with pytest.raises(UsageError, match="only grow"):
        grow(model, Vocabulary((Factor("emotion", ("happy",)), WORDS.factors[1])))


@pytest.mark.parametrize(
    ("change", "word"),
    [({"patch_px": 5}, "multiple of patch_px"), ({"heads": 3}, "multiple of heads"), ({"depth": 0}, "positive")],
)
def test_sizes_that_do_not_fit_are_refused(change: dict[str, int], word: str) -> None:
    """The message names the number at fault."""
    sizes = {"image_px": 16, "patch_px": 4, "width": 32, "depth": 3, "heads": 2} | change
    with pytest.raises(UsageError, match=word):
        DiT(DiTConfig(**sizes), WORDS)


def test_a_picture_of_another_size_is_refused() -> None:
    """Not silently cut."""
    with pytest.raises(UsageError, match="3x8x8"):
        network()(torch.randn(1, 3, 8, 8), torch.rand(1), torch.ones(1, 2, dtype=torch.int64))
