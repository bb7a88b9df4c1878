"""The study's engine on the tiny release: each device alone, exact means, the price of ε in lengths, and 8 bits."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from evergrove.bench.federated import attacks, reading, study
from evergrove.bench.federated.crowd import Crowd, Local, Pictures, on
from evergrove.bench.federated.fleet import Fleet, FleetPlan, vocabulary_of
from evergrove.bench.federated.study import Spec, Updates, federate, plan_of
from evergrove.bench.federated.whole import federate_whole
from evergrove.bench.federated.world import Part, World, layout_of, narrowed, open_world
from evergrove.core.rng import seed_of
from evergrove.core.rng import stream as named
from evergrove.learn.adapter import attach, fuse
from evergrove.learn.objective import data_loss, flow_rows
from evergrove.rules.params import Layout, Slot, decode, encode

SMALL = Part(rank=2, blocks=1)


@pytest.fixture(scope="module")
def world() -> World:
    """The tiny release."""
    torch.set_num_threads(1)
    return open_world("tiny", "cpu")


@pytest.fixture(scope="module")
def fleet(world: World) -> Fleet:
    """Four devices with three pictures of noise each, under conditions that are new to the base."""
    plan = FleetPlan(4, hairs=())
    vocabulary, px = vocabulary_of(world, plan), world.manifest.image_px
    images = named(5, "tests", "pictures").integers(0, 256, (4, 3, px, px, 3), np.uint8)
    codes = np.ones((4, 3, len(vocabulary.factors)), np.int16)
    codes[..., 0] = vocabulary.sizes[0]
    none = np.zeros(0, np.bool_)
    return Fleet(plan, vocabulary, images, codes, codes[0], images[0], none, none)


@pytest.fixture(scope="module")
def crowd(world: World, fleet: Fleet) -> Crowd:
    """The devices, adapting a part of the last block."""
    basis = narrowed(world, SMALL)
    return Crowd(world, basis, layout_of(world, basis, fleet.vocabulary))


def test_a_device_in_the_crowd_takes_the_step_that_it_takes_alone(world: World, fleet: Fleet, crowd: Crowd) -> None:
    """One plain step of 4 devices at once: minus the gradient of a device's own loss on a network of its own."""
    release = crowd.start(torch.Generator().manual_seed(1))
    release += 0.1 * torch.randn(release.shape, generator=torch.Generator().manual_seed(2))
    pictures = Pictures(*on(world.device, fleet.images, fleet.codes))
    local = Local(steps=1, batch=3, lr=1.0, optimiser="sgd", label_drop=0.0, clip=1e9, replay=False)
    learnt = crowd.learn(release, pictures, local, torch.Generator().manual_seed(3))
    again = torch.Generator().manual_seed(3)
    rows = flow_rows(*crowd.rows_of(pictures, local, again), 4.0, again, 0.0)
    for device in (0, 3):
        alone = attach(world.model, crowd.basis, crowd.adapter(release))
        data_loss(alone.module, rows.rows(3 * device, 3 * device + 3)).backward()  # type: ignore[no-untyped-call]
        gradient = {name: p.grad[None] for name, p in alone.parameters.items() if p.grad is not None}
        assert gradient.keys() == alone.parameters.keys()
        expected = crowd._flat({name: torch.nn.Parameter(g) for name, g in gradient.items()})[0]
        torch.testing.assert_close(learnt[device], -expected, rtol=1e-3, atol=1e-6)
    assert not torch.allclose(learnt[0], learnt[3], atol=1e-4)


def test_without_noise_a_release_moves_by_the_mean_of_what_was_sent(fleet: Fleet, world: World) -> None:
    """One round of 4 devices: the float16 updates' mean, to the grid of the exact sum, times the server's rate."""
    sent: list[Updates] = []

    def keep(updates: Updates, who: NDArray[np.intp]) -> Updates:
        sent.append(updates)
        return updates

    spec = Spec(part=SMALL, local=Local(steps=1, batch=2), rounds=1, clip=100.0, rate=3.0)
    done = federate(world, fleet, spec, 7, keep)
    layout = done.crowd.layout
    arrived = np.stack([decode(encode(update, layout), layout) for update in sent[0]])
    start = done.crowd.start(torch.Generator().manual_seed(seed_of(7, "federated", "rows"))).numpy()
    assert float(np.abs(sent[0]).max()) > 1e-3
    np.testing.assert_allclose(done.vector.numpy(), start + 3.0 * arrived.mean(0), atol=1e-6)
    assert (done.cohort, done.participations, done.epsilon, done.refused) == (4, 1, None, 0)


def test_the_ledger_reads_what_was_promised(fleet: Fleet, world: World) -> None:
    """Two rounds of a plan for two at ε = 8 spend 8 and not more; half of the fleet takes part in each."""
    spec = Spec(part=SMALL, local=Local(steps=1, batch=2), rounds=2, separation=2, clip=0.1, epsilon=8.0)
    done = federate(world, fleet, spec, 7)
    assert done.epsilon is not None
    assert 7.99 < done.epsilon <= 8.0
    assert (done.cohort, done.participations) == (2, 1)
    assert done.moved == pytest.approx(done.noise_norm, rel=0.15)


def test_what_is_released_is_the_sum_whatever_devices_learn_from(
    world: World, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two rounds with a share of 0: both learn from the first release, and what both learnt adds up. A half is a
    half."""
    seen: list[torch.Tensor] = []
    learn = Crowd.learn

    def spied(crowd: Crowd, release: torch.Tensor, *rest: Any) -> torch.Tensor:
        seen.append(release.clone())
        return learn(crowd, release, *rest)

    monkeypatch.setattr(Crowd, "learn", spied)
    spec = Spec(part=SMALL, local=Local(steps=1, batch=2), rounds=2, clip=100.0, share=0.0)
    released: list[torch.Tensor] = []
    federate(world, fleet, spec, 7, told=lambda done, crowd, vector: released.append(vector))
    start = seen[0]
    assert torch.equal(seen[1], start)
    assert float((released[1] - start).norm()) > 1.2 * float((released[0] - start).norm())
    half = replace(spec, share=0.5)
    federate(world, fleet, half, 7, told=lambda done, crowd, vector: released.append(vector))
    torch.testing.assert_close(seen[3] - start, 0.5 * (released[2] - start))


def test_no_number_of_rounds_or_length_of_clip_buys_quiet() -> None:
    """The release's noise in lengths of the whole path is z·√d/D where all take part in every round, whatever n, C."""
    devices, d = 400, 10_000
    one_step = Spec(rounds=1, clip=1.0, epsilon=8.0)
    for spec in (one_step, replace(one_step, rounds=30), replace(one_step, rounds=30, clip=0.02, rate=7.0)):
        plan = plan_of(spec, devices, d)
        path = spec.rate * spec.clip * spec.rounds
        assert study._noise_norm(plan, spec) / path == pytest.approx(0.65294 * math.sqrt(d) / devices, rel=1e-3)
    turns = replace(one_step, rounds=32, separation=4)
    dearer = study._noise_norm(plan_of(turns, devices, d), turns) / 32 / (0.65294 * math.sqrt(d) / devices)
    assert 1.1 < dearer < 1.25


def test_eight_bits_are_right_on_average(fleet: Fleet) -> None:
    """Largest number 1.27, so a step of .01: 1.27 and 0 stay, −.635 becomes −.64 or −.63, each half of the time."""
    layout = Layout("", "", 1, fleet.vocabulary, (Slot("a.B", (3,)), Slot("b.B", (2,))))
    update = np.array([1.27, -0.635, 0.0, 0.0, 0.0], np.float32)
    spec = Spec(clip=10.0, bits=8)
    rng = named(3, "tests", "bits")
    many = np.stack([study.arrived(update, layout, spec, rng) for _ in range(400)])
    assert {round(float(value), 4) for value in many[:, 1]} == {-0.64, -0.63}
    assert float(many[:, 1].mean()) == pytest.approx(-0.635, abs=0.001)
    np.testing.assert_allclose(many[:, [0, 2, 3, 4]], np.tile([1.27, 0.0, 0.0, 0.0], (400, 1)), atol=1e-6)
    saved = study.bytes_of(layout, Spec()) - study.bytes_of(layout, spec)
    assert saved == 5 - 2 * 4  # a byte a number, less four for the step of each tensor


def test_what_attackers_make_of_their_updates() -> None:
    """Device 1 of three is bad: −5 times, 1000 times, or its own direction at the full length of the clip, 5."""
    updates, bad = np.array([[3.0, 4.0], [0.3, 0.4], [1.0, 0.0]], np.float32), np.array([1])
    expected = {
        "none": [0.3, 0.4],
        "sign flip x5": [-1.5, -2.0],
        "scale x1000": [300.0, 400.0],
        "backdoor": [3.0, 4.0],
    }
    assert set(expected) == set(attacks.ATTACKS)
    for name, theirs in expected.items():
        changed = attacks.attack_of(name, bad, 5.0)(updates, np.arange(3))
        np.testing.assert_allclose(changed, [[3.0, 4.0], theirs, [1.0, 0.0]], rtol=1e-6)


def test_a_tenth_attacks_and_enormous_updates_are_refused(world: World, fleet: Fleet) -> None:
    """Two of 20 are attackers; of 4 updates, one made 1000 times longer does not move the release."""
    assert len(attacks.attackers(replace(fleet, images=np.zeros((20, 1), np.uint8)), 0.1, 0)) == 2
    spec = Spec(part=SMALL, local=Local(steps=1, batch=2), rounds=1, clip=0.01)
    bad = attacks.attack_of("scale x1000", np.array([2]), spec.clip)
    done = federate(world, fleet, spec, 7, bad)
    assert done.refused == 1
    assert done.moved <= 3 / 4 * spec.clip


def test_the_rival_averages_every_weight(world: World, fleet: Fleet) -> None:
    """One round of the whole model: two bytes for each of its numbers and new rows, and other weights than before."""
    spec = Spec(part=SMALL, local=Local(steps=1, batch=2, lr=1e-3), rounds=1)
    module, n_bytes, _ = federate_whole(world, fleet, spec, 7)
    base = sum(p.numel() for p in world.model.parameters())
    rows = sum(fleet.vocabulary.sizes) - sum(world.manifest.vocabulary.sizes)
    assert n_bytes == 2 * (base + rows * world.model.tables[0].weight.shape[1])  # type: ignore[union-attr]
    before = dict(world.model.named_parameters())
    assert any(not torch.equal(p, before[name]) for name, p in module.named_parameters() if name in before)


def test_the_rival_may_have_the_momentum_of_the_fleets_server(world: World, fleet: Fleet) -> None:
    """The second of two rounds moves by what it does without momentum, and by half of the first round's step."""
    spec = Spec(part=SMALL, local=Local(steps=1, batch=2, lr=1e-3), rounds=2)
    found: dict[float, list[torch.Tensor]] = {}
    for momentum in (0.0, 0.5):
        seen = found.setdefault(momentum, [])

        def told(done: int, module: torch.nn.Module, seen: list[torch.Tensor] = seen) -> None:
            seen.append(torch.cat([p.detach().flatten() for p in module.parameters()]))

        federate_whole(world, fleet, replace(spec, momentum=momentum), 7, told)
    (first, plain), (same, moving) = found[0.0], found[0.5]
    start = first - (moving - plain) / 0.5
    assert torch.equal(first, same)
    assert not torch.allclose(first, plain)
    crowd = Crowd(world, narrowed(world, SMALL), layout_of(world, narrowed(world, SMALL), fleet.vocabulary))
    begun = crowd.adapter(crowd.start(torch.Generator().manual_seed(seed_of(7, "federated", "rows"))))
    fused = torch.cat([p.detach().flatten() for p in fuse(world.model, crowd.basis, begun).parameters()])
    torch.testing.assert_close(start, fused, rtol=0.0, atol=1e-6)


def test_the_gate_is_asked_with_the_production_questions(world: World, fleet: Fleet, crowd: Crowd) -> None:
    """New rows by chance gain nothing on pictures of noise and harm nothing known; zeros change nothing."""
    images, codes = fleet.images.reshape(12, *fleet.images.shape[2:]), fleet.codes.reshape(12, -1).copy()
    codes[::2, 0] -= 1
    new = replace(fleet, asked=codes, real=images, new=np.ones(12, np.bool_))
    start = crowd.adapter(crowd.start(torch.Generator().manual_seed(1)))  # new rows by chance, B = 0
    said = reading.gated(world, crowd.basis, start, new)
    assert said.outcome != "accept"
    assert "no gain shown" in said.sentence
    assert "lost" not in said.sentence
    nothing = reading.gated(world, crowd.basis, crowd.adapter(torch.zeros(crowd.layout.n_numbers)), new)
    assert nothing.sentence == "rejected: the candidate changes nothing"
