"""Assists: made from a release alone, the same every time, checked before use, and as good as what a device makes."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evergrove.core.errors import InvalidArtefact, UsageError
from evergrove.core.release import sha256_hex
from evergrove.learn import assist
from evergrove.learn.adapter_file import load_adapter
from evergrove.learn.strategies import STRATEGIES, Recipe, Samples, Task
from evergrove.learn.trainer import fingerprint, train

World = Any  # the one of conftest.py
NAME = "ab" * 32
SMALL = assist.Settings(n_trajectories=24, steps=3, n_fisher=32, k=3, n_rehearsal=12, draw_steps=3, seed=5)


def released(world: World, **changes: Any) -> assist.Released:
    """The small world as a release without a teacher."""
    own = assist.Released(NAME, world.model, world.basis, world.known, world.old.codes, (3, 8, 8))
    return replace(own, **changes)


@pytest.fixture(scope="session")
def body(world: World) -> bytes:
    """An assist of the small world."""
    return assist.compute(released(world), SMALL)


def changed(body: bytes, tensor: str, value: float, at: int = 0) -> bytes:
    """The body with one number of one tensor overwritten."""
    n_header = int.from_bytes(body[:8], "little")
    entry = json.loads(body[8 : 8 + n_header])[tensor]
    kinds = {"F16": torch.float16, "F32": torch.float32, "BF16": torch.bfloat16, "U8": torch.uint8, "I16": torch.int16}
    raw = torch.tensor([value], dtype=kinds[entry["dtype"]]).view(torch.uint8).numpy().tobytes()
    start = 8 + n_header + entry["data_offsets"][0] + at * len(raw)
    return body[:start] + raw + body[start + len(raw) :]


def with_header(body: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    """The body with a changed header."""
    n_header = int.from_bytes(body[:8], "little")
    header = json.loads(body[8 : 8 + n_header])
    change(header)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + body[8 + n_header :]


def test_equal_releases_and_settings_give_equal_bytes(world: World, body: bytes) -> None:
    """The body is a function of (release, settings, seed); each of them counts, and so does its recipe."""
    assert assist.compute(released(world), SMALL) == body
    other = msgspec.structs.replace(SMALL, seed=6)
    assert assist.compute(released(world), other) != body
    assert assist.compute(released(world, name="cd" * 32), SMALL) != body
    names = {assist.recipe(NAME, SMALL), assist.recipe(NAME, other), assist.recipe("cd" * 32, SMALL)}
    assert len(names) == 3


def test_what_is_read_is_what_was_computed(world: World, body: bytes) -> None:
    """All counts as set, codes of the release only, the Fisher a form over every layer's B."""
    found = assist.read(body, released(world))
    assert found.name == sha256_hex(body)
    assert (len(found.points), len(found.rehearsal), found.fisher.n) == (24 * 3, 12, 32)
    assert found.rehearsal.images.shape == (12, 8, 8, 3)
    known = {tuple(code) for code in world.old.codes.tolist()}
    assert {tuple(code) for code in found.points.code.tolist()} <= known
    assert set(found.fisher.rest) == set(world.basis.a)
    for name, rest in found.fisher.rest.items():
        assert found.fisher.u[name].shape == (3, rest.numel())
        assert (found.fisher.c[name] > 0).all()


def test_the_points_are_the_teacher_s(world: World, body: bytes) -> None:
    """At every x_t that a device works out for itself, the teacher says what the assist says, but for 8-bit rounding.

    A step is 2.5/255: half of it is .0049, and fp16 and the last bits of x_t add a little.
    """
    points = assist.read(body, released(world)).points
    with torch.no_grad():
        said = world.model(points.x_t.float(), points.t, points.code).clamp(-assist.RANGE, assist.RANGE)
    assert float((said - points.x_hat.float()).abs().max()) < 0.0075
    assert float(points.t[:24].max()) == 0.0
    assert float(points.t.max()) < 1.0


def test_the_noise_is_normal_and_known_everywhere(world: World) -> None:
    """16 bits of SHAKE-256 a number: mean 0, deviation 1, and the first numbers as on every machine."""
    noise = assist._noise(released(world), SMALL)
    assert noise.shape == (24, 3, 8, 8)
    assert float(noise.mean()) == pytest.approx(0.0, abs=0.05)
    assert float(noise.std()) == pytest.approx(1.0, abs=0.03)
    assert noise.flatten()[:3].tolist() == pytest.approx(FIRST, abs=1e-6)


def test_the_pictures_show_what_they_are_labelled(world: World, body: bytes) -> None:
    """Each drawn picture is nearer to the mean picture of its own pattern and colour than to most others."""
    rehearsal = assist.read(body, released(world)).rehearsal
    kinds = sorted({tuple(code) for code in world.old.codes.tolist()})
    means = [world.old.images[(world.old.codes == kind).all(axis=1)].mean(axis=0) for kind in kinds]
    right = 0
    for image, code in zip(rehearsal.images, rehearsal.codes, strict=True):
        distances = [float(((image - mean) ** 2).mean()) for mean in means]
        right += kinds[int(np.argmin(distances))] == tuple(code.tolist())
    assert right >= 9


def test_a_device_learns_with_it_as_well_as_with_its_own(world: World, body: bytes, tmp_path: Path) -> None:
    """The same job with and without: new and old losses are alike, and nothing is prepared but the anchor."""
    from evergrove.learn.adapter import fuse
    from evergrove.learn.evaluate import Golden, Probe, item_values

    found = assist.read(body, released(world))
    strategy = STRATEGIES["evergrove"]
    alone = Task(world.model, world.basis, world.wider, world.new, world.old, strategy, Recipe(steps=60))
    assisted = replace(alone, fisher=found.fisher, points=found.points)
    losses = {}
    for name, task in (("alone", alone), ("assisted", assisted)):
        outcome = train(task, tmp_path / name)
        assert outcome.candidate is not None
        network = fuse(world.model, world.basis, load_adapter(outcome.candidate, world.model, world.basis))
        losses[name] = [
            float(item_values(network, Golden(s, (), 1), Probe(draws=2)).loss.mean()) for s in (world.own, world.golden)
        ]
    assert losses["assisted"][0] < 1.25 * losses["alone"][0]
    assert losses["assisted"][1] < 1.25 * losses["alone"][1]


def test_what_is_given_is_not_made_again(world: World, body: bytes) -> None:
    """With points and Fisher no network is asked for anything, not even old samples are needed; b* is the incumbent."""
    found = assist.read(body, released(world))
    strategy = STRATEGIES["evergrove"]
    nothing = Samples(world.old.images[:0], world.old.codes[:0])

    class Silent(torch.nn.Module):
        """A teacher that must not be asked."""

        def forward(self, *_: object) -> Any:
            pytest.fail("the teacher was asked although its points were given")

    task = Task(world.model, world.basis, world.wider, world.new, nothing, strategy, teacher=Silent())
    incumbent = replace(task.incumbent(), b={name: b + 1.0 for name, b in task.incumbent().b.items()})
    task = replace(task, start=incumbent, fisher=found.fisher, points=found.points)
    memory = strategy.remember(task, strategy)
    assert memory.points is found.points
    assert memory.anchor is not None
    assert memory.anchor.fisher is found.fisher
    assert all(bool((star == 1.0).all()) for star in memory.anchor.star.values())
    with pytest.raises(UsageError, match="rehearsal pack"):
        strategy.remember(replace(task, points=None), strategy)
    with pytest.raises(UsageError, match="rehearsal pack"):
        strategy.remember(replace(task, fisher=None), strategy)
    assert STRATEGIES["ewc"].remember(task, STRATEGIES["ewc"]).points is None


def test_a_checkpoint_belongs_to_its_assist(world: World, body: bytes) -> None:
    """Another Fisher or other points are another task."""
    found = assist.read(body, released(world))
    other = assist.read(assist.compute(released(world), msgspec.structs.replace(SMALL, seed=9)), released(world))
    task = Task(world.model, world.basis, world.wider, world.new, world.old, STRATEGIES["evergrove"])
    names = {
        fingerprint(task),
        fingerprint(replace(task, fisher=found.fisher)),
        fingerprint(replace(task, points=found.points)),
        fingerprint(replace(task, fisher=other.fisher)),
        fingerprint(replace(task, points=other.points)),
    }
    assert len(names) == 5


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (lambda b: changed(b, "points.shift", float("nan")), "NaN"),
        (lambda b: changed(b, "points.shift", 1.5), "between 0 and 1"),
        (lambda b: changed(b, "fisher.c:blocks.0.qkv", float("inf")), "infinite"),
        (lambda b: changed(b, "fisher.c:blocks.0.qkv", -1.0), "negative curvature"),
        (lambda b: changed(b, "fisher.rest:blocks.1.proj", -1e-3), "negative curvature"),
        (lambda b: changed(b, "fisher.u:blocks.0.qkv", 3.0), "not orthonormal"),
        (lambda b: changed(b, "points.code", 4), "outside of the release's vocabulary"),
        (lambda b: changed(b, "rehearsal.codes", -1, 3), "outside of the release's vocabulary"),
        (lambda b: b[:-9], "damaged safetensors"),
        (lambda b: b + bytes(8), "damaged safetensors"),
        (lambda b: b"\x80\x04" + b, "pickle"),
        (lambda b: b[:7], "not a safetensors"),
        (lambda b: with_header(b, lambda h: h.pop("points.shift")), "'points.shift' is missing or unknown"),
        (lambda b: with_header(b, lambda h: h.update(more=h["points.shift"])), "'more' is missing or unknown"),
        (lambda b: with_header(b, lambda h: h["points.shift"].update(dtype="I32")), "needs F32"),
        (lambda b: with_header(b, lambda h: h["points.code"].update(shape=[48])), "needs I16"),
        (lambda b: with_header(b, lambda h: h.update({"points.code": 5})), "needs I16"),
        (lambda b: with_header(b, lambda h: h["__metadata__"].update(format="x")), "no assist of format"),
        (lambda b: with_header(b, lambda h: h["__metadata__"].update(release="cd" * 32)), "another release"),
        (lambda b: with_header(b, lambda h: h["__metadata__"].update(settings="{}x")), "not understood"),
        (lambda b: with_header(b, lambda h: h["__metadata__"].update(settings='{"steps":99}')), "at most 4096"),
        (lambda b: with_header(b, lambda h: h["__metadata__"].pop("vocabulary")), "not understood"),
        (
            lambda b: with_header(b, lambda h: h["__metadata__"].update(vocabulary='{"factors":[]}')),
            "not the release's",
        ),
    ],
)
def test_a_bad_body_is_refused(world: World, body: bytes, bad: Callable[[bytes], bytes], reason: str) -> None:
    """Every check at the trust boundary, each with a body that only it can catch."""
    with pytest.raises(InvalidArtefact, match=reason):
        assist.read(bad(body), released(world), "it")


def test_a_body_beyond_the_limit_is_not_looked_at(world: World) -> None:
    """64 MiB at most, whatever is in it."""
    with pytest.raises(InvalidArtefact, match="may have"):
        assist.read(bytes(assist.N_BYTES_MAX + 1), released(world))


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_no_damage_leads_to_anything_but_a_refusal(data: st.DataObject, world: World, body: bytes) -> None:
    """Some bytes overwritten or cut off: it is read, with other numbers, or refused; never another error."""
    at = data.draw(st.integers(0, len(body) - 1))
    torn = body[:at] + data.draw(st.binary(max_size=8)) + body[at + data.draw(st.integers(0, 16)) :]
    try:
        assist.read(torn, released(world))
    except InvalidArtefact:
        return
    assert len(torn) == len(body)


def test_settings_have_bounds(world: World) -> None:
    """Nothing is drawn zero times, and nobody is asked for a million pictures; a release without a pack gives none."""
    for wrong in ({"k": 0}, {"n_fisher": 5000}, {"steps": 40}):
        with pytest.raises(UsageError, match="an assist"):
            assist.compute(released(world), msgspec.structs.replace(SMALL, **wrong))
    with pytest.raises(UsageError, match="that is empty"):
        assist.compute(released(world, codes=world.old.codes[:0]), SMALL)


FIRST = [0.456422, -1.1765, -0.6707731]
"""From an implementation of its own: statistics.NormalDist().inv_cdf((bits + 0.5) / 65536)."""
