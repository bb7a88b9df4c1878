"""Assists: what a fog computes of a *released* model so that devices need not (DESIGN §6); no user's data is in one.

A release's networks and settings come in; out comes one safetensors body, named by its SHA-256: the Fisher sketch over
the model's own pictures, trajectories of its teacher, and those pictures, labelled, as rehearsal. Devices read it with
every check before anything is used. On one machine equal (release, settings) give equal bytes; elsewhere the last bits
of the arithmetic may differ, so a fog computes an assist once and keeps it.

Small on the line: of a trajectory only the x̂'s travel, 8 bits a number. Their noise is the stream of SHAKE-256 under
the release's name, and every x_t follows from both (``teacher.walk``): a third of the bytes of ``teacher.Points``.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec
import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from evergrove.core.conditions import Vocabulary
from evergrove.core.errors import InvalidArtefact, UsageError
from evergrove.core.release import Sampler, sha256_hex
from evergrove.core.rng import seed_of
from evergrove.learn.adapter import Adapter, Basis, attach, blank_adapter, fuse
from evergrove.learn.adapter_file import read_header
from evergrove.learn.fisher import Fisher, estimate_fisher
from evergrove.learn.flow import Denoiser
from evergrove.learn.generator import FlowGenerator, to_condition, to_uint8
from evergrove.learn.strategies import Samples, even
from evergrove.learn.teacher import Points, join_points, walk
from evergrove.learn.tensor_file import tensor_bytes

FORMAT = "evergrove-assist-1"
N_BYTES_MAX = 64 << 20
RANGE = 1.25
"""x̂ is kept in 8 bits between -1.25 and 1.25: in steps of .0098, a noise of 8e-6 where teachers differ by 1e-3."""
UNIT_WITHIN = 2e-2
"""How far from orthonormal the Fisher's directions may be, which travel in fp16."""
BATCH = 32


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much an assist holds: the numbers that a device would choose for itself, so that learning is the same.

    ``n_trajectories`` of ``steps`` points each, a Fisher of ``n_fisher`` draws and ``k`` directions a layer,
    ``n_rehearsal`` pictures, drawn in ``draw_steps`` steps.
    """

    n_trajectories: int = 128
    steps: int = 4
    n_fisher: int = 192
    k: int = 4
    n_rehearsal: int = 96
    draw_steps: int = 8
    seed: int = 0

    def check(self) -> None:
        """Raise ``UsageError`` where a number is out of its range."""
        if min(self.n_trajectories, self.steps, self.n_fisher, self.k, self.n_rehearsal, self.draw_steps) < 1:
            raise UsageError("every number of an assist's settings is at least 1")
        if max(self.n_trajectories, self.n_fisher, self.n_rehearsal) > 4096 or max(self.steps, self.draw_steps) > 32:
            raise UsageError("an assist holds at most 4096 of each, in at most 32 steps")


@dataclass(frozen=True)
class Released:
    """A release as an assist needs it. ``name`` is its manifest's SHA-256, ``codes`` (N, F) those of its public pack
    and of what the fleet has learnt, ``teacher`` its larger network, which knows them (None: it has none), ``shape``
    (C, H, W) that of a picture, ``adapter`` the released one (None: the release is its base)."""

    name: str
    model: nn.Module
    basis: Basis
    vocabulary: Vocabulary
    codes: NDArray[np.int16]
    shape: tuple[int, int, int]
    teacher: nn.Module | None = None
    sampler: Sampler = field(default_factory=Sampler)
    adapter: Adapter | None = None


@dataclass(frozen=True)
class Assist:
    """What a device takes from an assist. ``fisher`` is that of B at the release; ``points`` and ``rehearsal`` are of
    the release's conditions only. ``name`` is the SHA-256 of its body."""

    name: str
    settings: Settings
    fisher: Fisher
    points: Points
    rehearsal: Samples


def recipe(release: str, settings: Settings) -> str:
    """The name of what ``compute`` would make, before it is made: SHA-256 over release and settings."""
    return sha256_hex(msgspec.json.encode([FORMAT, release, settings]))


def compute(released: Released, settings: Settings | None = None) -> bytes:
    """The body of the assist of a release. The conditions are all of the release's, as its public pack mixes them."""
    settings = settings or Settings()
    settings.check()
    best = cast(Denoiser, released.teacher or fuse(released.model, released.basis, released.adapter))
    # 1. Pictures of what the release knows, drawn from its best network: the rehearsal.
    codes = _codes(released, settings.n_rehearsal, "rehearsal", settings)
    pictures = _draw(released, best, codes, settings)
    # 2. The Fisher of the released model over them.
    start = released.adapter or blank_adapter(released.model, released.basis, released.vocabulary)
    attached = attach(released.model, released.basis, start)
    samples = Samples(pictures, codes)
    fisher = estimate_fisher(
        attached, *samples.pick(), _rng(released, settings, "fisher"), settings.n_fisher, settings.k
    )
    # 3. Trajectories of the best network.
    walked = _codes(released, settings.n_trajectories, "trajectories", settings)
    shift = torch.rand(len(walked), generator=_rng(released, settings, "shift"))
    x_hats = _follow(released, best, walked, shift, settings)
    tensors = {
        "points.x_hat": x_hats,
        "points.shift": shift,
        "points.code": torch.from_numpy(walked),
        "rehearsal.images": torch.from_numpy(pictures),
        "rehearsal.codes": torch.from_numpy(codes),
        **_packed(fisher),
    }
    metadata = {
        "format": FORMAT,
        "release": released.name,
        "vocabulary": msgspec.json.encode(released.vocabulary).decode(),
        "settings": msgspec.json.encode(settings).decode(),
    }
    return tensor_bytes(tensors, metadata)


def read(data: bytes, released: Released, where: str = "the assist") -> Assist:
    """The assist in a body that was signed (``rules/trust``) and named by its hash, checked against the release.

    Size, format, release, vocabulary, names, dtypes, shapes, finite numbers and ranges: raises ``InvalidArtefact``
    that names ``where``, the fault and the way out.
    """
    if len(data) > N_BYTES_MAX:
        raise InvalidArtefact(f"{where}: {len(data)} bytes, more than the {N_BYTES_MAX} an assist may have")
    settings = _settings(data, released, where)
    header = read_header(data, where)
    header.pop("__metadata__")
    wanted = _layout(released, settings)
    if set(header) != set(wanted):
        odd = min(set(header) ^ set(wanted))
        raise InvalidArtefact(f"{where}: '{odd}' is missing or unknown; ask the fog for an assist of this release")
    for name, (dtype, shape) in wanted.items():
        entry = header[name] if isinstance(header[name], dict) else {}
        if entry.get("dtype") != dtype or not _fits(entry.get("shape"), shape):
            raise InvalidArtefact(
                f"{where}: '{name}' is {entry.get('dtype')} {entry.get('shape')}, this release needs {dtype} {shape}"
            )
    try:
        tensors = safetensors.torch.load(data)
    except (safetensors.SafetensorError, ValueError) as fault:
        raise InvalidArtefact(f"{where}: damaged safetensors file ({fault}); fetch it again") from fault
    _check_numbers(tensors, released, where)
    x_hats, shift = tensors["points.x_hat"], tensors["points.shift"]
    rehearsal = Samples(tensors["rehearsal.images"].numpy(), tensors["rehearsal.codes"].numpy())
    points = _points(released, x_hats, shift, tensors["points.code"].numpy(), settings)
    return Assist(sha256_hex(data), settings, _unpacked(tensors, settings.n_fisher), points, rehearsal)


# ---- making ----------------------------------------------------------------------------------------------------------


def _codes(released: Released, n: int, use: str, settings: Settings) -> NDArray[np.int16]:
    """``n`` of the release's codes, the values of the first factor equally often on average."""
    if not len(released.codes):
        raise UsageError("an assist is drawn over the conditions of the release's rehearsal pack, and that is empty")
    picked = even(released.codes, 0, n, _rng(released, settings, use)).numpy()
    return cast(NDArray[np.int16], released.codes[picked])


def _draw(released: Released, best: Denoiser, codes: NDArray[np.int16], settings: Settings) -> NDArray[np.uint8]:
    """One picture uint8 (H, W, C) for every code."""
    generator = FlowGenerator(cast(nn.Module, best), released.shape, released.sampler)
    rng = _rng(released, settings, "draw")
    parts = [
        to_uint8(generator.sample(code, rng, settings.draw_steps)) for code in torch.split(to_condition(codes), BATCH)
    ]
    return np.concatenate(parts)


@torch.no_grad()
def _follow(released: Released, best: Denoiser, codes: NDArray[np.int16], shift: Tensor, settings: Settings) -> Tensor:
    """The x̂'s uint8 (steps, n, C, H, W) along the teacher's trajectories; what is rounded is what is walked on."""
    noise = _noise(released, settings)
    x_hats = torch.zeros((settings.steps, *noise.shape), dtype=torch.uint8)
    for rows in torch.split(torch.arange(len(noise)), BATCH):

        def estimate(i: int, x: Tensor, t: Tensor, code: Tensor, rows: Tensor = rows) -> Tensor:
            x_hats[i, rows] = _rounded(best(x, t, code))
            return _restored(x_hats[i, rows])

        walk(noise[rows], shift[rows], to_condition(codes)[rows], settings.steps, estimate)
    return x_hats


def _points(released: Released, x_hats: Tensor, shift: Tensor, codes: NDArray[np.int16], settings: Settings) -> Points:
    """The trajectories' points, from the x̂'s and the noise that follows from the release's name."""
    noise = _noise(released, settings)
    parts: list[Points] = []
    for rows in torch.split(torch.arange(len(noise)), BATCH):
        parts += walk(
            noise[rows],
            shift[rows],
            to_condition(codes)[rows],
            settings.steps,
            lambda i, x, t, code, rows=rows: _restored(x_hats[i, rows]),  # type: ignore[misc]
        )
    return join_points(parts)


def _noise(released: Released, settings: Settings) -> Tensor:
    """N(0, 1) fp32 (n, C, H, W) from 16 bits each of SHAKE-256, which are the same on every machine."""
    shape = (settings.n_trajectories, *released.shape)
    text = f"evergrove.assist.noise.1\0{released.name}\0{settings.seed}"
    bits = np.frombuffer(hashlib.shake_256(text.encode()).digest(2 * int(np.prod(shape))), "<u2")
    uniform = (torch.from_numpy(bits.astype(np.float64)) + 0.5) / 65536
    return cast(Tensor, torch.special.ndtri(uniform)).float().reshape(shape)


def _rounded(x_hat: Tensor) -> Tensor:
    return ((x_hat.clamp(-RANGE, RANGE) / RANGE + 1.0) * 127.5).round().to(torch.uint8)


def _restored(x_hat: Tensor) -> Tensor:
    return (x_hat.float() / 127.5 - 1.0) * RANGE


def _packed(fisher: Fisher) -> dict[str, Tensor]:
    """The Fisher as it travels: directions in fp16, the diagonal in bf16, whose range is that of fp32."""
    tensors = {f"fisher.u:{name}": u.half().contiguous() for name, u in fisher.u.items()}
    tensors |= {f"fisher.c:{name}": c.float().contiguous() for name, c in fisher.c.items()}
    return tensors | {f"fisher.rest:{name}": rest.bfloat16().contiguous() for name, rest in fisher.rest.items()}


def _unpacked(tensors: Mapping[str, Tensor], n: int) -> Fisher:
    def part(kind: str) -> dict[str, Tensor]:
        prefix = f"fisher.{kind}:"
        return {name.removeprefix(prefix): t.float() for name, t in tensors.items() if name.startswith(prefix)}

    return Fisher(part("u"), part("c"), part("rest"), n)


def _rng(released: Released, settings: Settings, name: str) -> torch.Generator:
    return torch.Generator().manual_seed(seed_of(settings.seed, "assist", released.name, name))


# ---- checking --------------------------------------------------------------------------------------------------------


def _settings(data: bytes, released: Released, where: str) -> Settings:
    """The settings of an assist that belongs to this release."""
    metadata = read_header(data, where).get("__metadata__")
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise InvalidArtefact(f"{where}: a safetensors file, but no assist of format {FORMAT}")
    if metadata.get("release") != released.name:
        raise InvalidArtefact(f"{where}: it is of another release; ask the fog for {released.name[:12]}…'s")
    try:
        vocabulary = msgspec.json.decode(metadata["vocabulary"], type=Vocabulary)
        settings = msgspec.json.decode(metadata["settings"], type=Settings)
        settings.check()
    except (KeyError, TypeError, msgspec.MsgspecError, UsageError) as fault:
        raise InvalidArtefact(f"{where}: its settings or vocabulary are not understood ({fault})") from fault
    if vocabulary != released.vocabulary:
        raise InvalidArtefact(f"{where}: its vocabulary is not the release's; ask the fog for it again")
    return settings


def _layout(released: Released, settings: Settings) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The dtype and shape of every tensor. -1: up to ``settings.k`` directions, fewer where the Fisher has none."""
    n_factors, (channels, height, width) = len(released.vocabulary.factors), released.shape
    layout: dict[str, tuple[str, tuple[int, ...]]] = {
        "points.x_hat": ("U8", (settings.steps, settings.n_trajectories, channels, height, width)),
        "points.shift": ("F32", (settings.n_trajectories,)),
        "points.code": ("I16", (settings.n_trajectories, n_factors)),
        "rehearsal.images": ("U8", (settings.n_rehearsal, height, width, channels)),
        "rehearsal.codes": ("I16", (settings.n_rehearsal, n_factors)),
    }
    for name, b in blank_adapter(released.model, released.basis, released.vocabulary).b.items():
        layout[f"fisher.u:{name}"] = ("F16", (-settings.k, b.numel()))
        layout[f"fisher.c:{name}"] = ("F32", (-settings.k,))
        layout[f"fisher.rest:{name}"] = ("BF16", tuple(b.shape))
    return layout


def _fits(shape: Any, wanted: Iterable[int]) -> bool:
    """Whether a shape is the wanted one, in which a negative number is a greatest."""
    wanted = tuple(wanted)
    if not isinstance(shape, list) or len(shape) != len(wanted) or not all(isinstance(n, int) for n in shape):
        return False
    return all(n == w if w >= 0 else 0 <= n <= -w for n, w in zip(shape, wanted, strict=True))


def _check_numbers(tensors: Mapping[str, Tensor], released: Released, where: str) -> None:
    """Finite, and where they must be: codes in the vocabulary, shifts in [0, 1], the Fisher a quadratic form."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise InvalidArtefact(f"{where}: '{name}' holds NaN or infinite numbers; it is unusable")
        if name.startswith(("fisher.c:", "fisher.rest:")) and (tensor < 0).any():
            raise InvalidArtefact(f"{where}: '{name}' holds a negative curvature, which no Fisher has")
    sizes = torch.tensor(released.vocabulary.sizes)
    for name in ("points.code", "rehearsal.codes"):
        if ((tensors[name] < 0) | (tensors[name] > sizes)).any():
            raise InvalidArtefact(f"{where}: '{name}' holds a condition outside of the release's vocabulary")
    if ((tensors["points.shift"] < 0) | (tensors["points.shift"] > 1)).any():
        raise InvalidArtefact(f"{where}: 'points.shift' is not between 0 and 1")
    for name in [name for name in tensors if name.startswith("fisher.u:")]:
        u = tensors[name].float()
        if len(u) != len(tensors[name.replace(".u:", ".c:")]):
            raise InvalidArtefact(f"{where}: '{name}' has {len(u)} directions, its curvatures are of another number")
        if len(u) and (u @ u.T - torch.eye(len(u))).abs().max() > UNIT_WITHIN:
            raise InvalidArtefact(f"{where}: the directions of '{name}' are not orthonormal")
