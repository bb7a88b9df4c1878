"""Flow matching: numbers by hand, and samplers against a denoiser that knows the answer."""

import pytest
import torch
from torch import Tensor

from evergrove.core.errors import UsageError
from evergrove.learn import flow

CODE = torch.zeros(2, 1, dtype=torch.int64)


def test_the_weight_is_one_over_what_is_left_and_at_most_ten() -> None:
    """w(0) = 1, w(½) = 2, w(0.95) would be 20."""
    assert flow.weight(torch.tensor([0.0, 0.5, 0.95, 1.0])).tolist() == pytest.approx([1.0, 2.0, 10.0, 10.0])


def test_the_path_leads_from_noise_to_the_picture() -> None:
    """x_0 is the noise, x_1 the picture, x_¼ a quarter of the way."""
    x, noise = torch.full((3, 1, 1, 1), 8.0), torch.full((3, 1, 1, 1), 4.0)
    assert flow.mix(x, noise, torch.tensor([0.0, 0.25, 1.0])).flatten().tolist() == [4.0, 5.0, 8.0]


def test_the_loss_is_the_weighted_square_error_over_pixels() -> None:
    """A denoiser that is off by 0.5 everywhere loses w(t)·0.25."""
    x = torch.rand(2, 3, 4, 4)
    t = torch.tensor([0.0, 0.5])
    losses = flow.loss_per_sample(lambda x_t, t, c: x + 0.5, x, CODE, t, torch.randn_like(x))
    assert losses.tolist() == pytest.approx([0.25, 0.5])


def test_times_are_logit_normal() -> None:
    """The median of σ(z) is ½, and σ(±1) bound the middle 68 %."""
    t = flow.draw_t(20_000, torch.Generator().manual_seed(0))
    assert t.min() > 0
    assert t.max() < 1
    assert float(t.median()) == pytest.approx(0.5, abs=0.01)
    assert float((t < torch.sigmoid(torch.tensor(-1.0))).float().mean()) == pytest.approx(0.159, abs=0.01)


@pytest.mark.parametrize("method", ["euler", "heun"])
@pytest.mark.parametrize("steps", [1, 4, 32])
def test_a_denoiser_that_knows_the_picture_gets_there(method: flow.Method, steps: int) -> None:
    """With x̂ = x the velocity is constant, so any number of steps ends at x."""
    x = torch.rand(2, 3, 4, 4) * 2 - 1
    out = flow.sample(lambda x_t, t, c: x, CODE, torch.randn_like(x), steps, method)
    assert torch.allclose(out, x, atol=1e-5)


def test_heun_is_nearer_to_the_true_path_than_euler() -> None:
    """For x̂ = x_t·t the error at 8 steps is smaller with the second-order rule."""

    def bent(x_t: Tensor, t: Tensor, c: Tensor) -> Tensor:
        return x_t * t.reshape(-1, 1, 1, 1)

    noise = torch.full((1, 1, 1, 1), 0.5)
    euler, heun, exact = (
        float(flow.sample(bent, CODE[:1], noise, steps, method))
        for steps, method in ((8, "euler"), (8, "heun"), (32, "heun"))
    )
    assert abs(heun - exact) < abs(euler - exact)


def test_guidance_extrapolates_from_the_null_condition() -> None:
    """x̂_0 = 0.1, x̂_c = 0.3, g = 2 gives 0.5; g = 1 asks the network once."""
    calls = []

    def model(x_t: Tensor, t: Tensor, c: Tensor) -> Tensor:
        calls.append(c)
        return torch.where(c[:, 0, None, None, None] > 0, 0.3, 0.1).expand_as(x_t)

    code = torch.ones(1, 1, dtype=torch.int64)
    assert float(flow.sample(model, code, torch.zeros(1, 1, 1, 1), 1, guidance=2.0)) == pytest.approx(0.5)
    assert len(calls) == 2
    assert float(flow.sample(model, code, torch.zeros(1, 1, 1, 1), 1)) == pytest.approx(0.3)
    assert len(calls) == 3


def test_what_the_sampler_does_not_know_is_refused() -> None:
    """Steps outside of 1-32, an unknown method."""
    for steps in (0, 33):
        with pytest.raises(UsageError, match="1 to 32"):
            flow.sample(lambda x, t, c: x, CODE, torch.zeros(2, 1, 2, 2), steps)
    with pytest.raises(UsageError, match="euler, heun"):
        flow.sample(lambda x, t, c: x, CODE, torch.zeros(2, 1, 2, 2), 4, "dpm")  # type: ignore[arg-type]


def test_labels_are_dropped_whole_and_one_by_one() -> None:
    """Of 10 % about half lose all factors; codes that are kept stay as they are."""
    code = torch.ones(40_000, 4, dtype=torch.int64)
    kept = flow.drop_labels(code, 0.1, torch.Generator().manual_seed(0)).sum(1)
    assert float((kept == 4).float().mean()) == pytest.approx(0.9 + 0.05 / 16, abs=0.01)
    assert float((kept == 0).float().mean()) == pytest.approx(0.05 + 0.05 / 16, abs=0.01)
    assert torch.equal(flow.drop_labels(code, 0.0, torch.Generator()), code)


def test_the_loss_is_repeatable() -> None:
    """Equal generators give equal losses."""
    x = torch.rand(4, 3, 4, 4)
    code = torch.ones(4, 1, dtype=torch.int64)
    one, two = (
        flow.flow_loss(lambda x_t, t, c: x_t * c[:, :1, None, None], x, code, torch.Generator().manual_seed(3))
        for _ in range(2)
    )
    assert torch.equal(one, two)
