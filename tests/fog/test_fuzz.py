"""Hostile updates by the thousand against every check between line and sum: none is counted, nothing crashes."""

import resource
from collections import Counter
from collections.abc import Iterator

import msgspec
import numpy as np
from fogs import LAYOUT, RELEASE, body, head, measure, opened, plan, vector

from evergrove.adapters.release import open_release
from evergrove.core import fog, transport
from evergrove.core.errors import InvalidInput
from evergrove.core.release import sha256_hex
from evergrove.core.transport import HEAD_BYTES_MAX, LENGTH_BYTES, Update
from evergrove.rules import params, tokens

N = 12_000
Hostile = tuple[str, bytes]
"""The device whose certificate it comes with, and what it sends."""


def attempt(made: object, device: str, data: bytes) -> str:
    """What becomes of some bytes, by the same steps as ``web/updates``: a word."""
    n_head = int.from_bytes(data[:LENGTH_BYTES], "little")
    if not 0 < n_head <= HEAD_BYTES_MAX or len(data) < LENGTH_BYTES + n_head:
        return "no update"
    try:
        update = transport.decode(data[LENGTH_BYTES : LENGTH_BYTES + n_head], HEAD_BYTES_MAX)
    except InvalidInput:
        return "head not understood"
    if not isinstance(update, Update):
        return "another message"
    content = data[LENGTH_BYTES + n_head :]
    word = made.submit(device, update, content[: update.n_bytes + 1])  # type: ignore[attr-defined]
    return word.reason if isinstance(word, fog.UpdateRefused) else type(word).__name__


def flipped(data: bytes, rng: np.random.Generator, low: int, high: int) -> bytes:
    """One to eight bits of a range turned over."""
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 9))):
        changed[int(rng.integers(low, high))] ^= 1 << int(rng.integers(0, 8))
    return bytes(changed)


def forged(data: bytes, nonce: int, **changes: object) -> bytes:
    """Content under a head that names it truly, digest and all."""
    update = head("mallory", data, nonce, **changes)
    return len(transport.encode(update)).to_bytes(LENGTH_BYTES, "little") + transport.encode(update) + data


def hostile(rng: np.random.Generator) -> Iterator[tuple[str, Hostile]]:
    """Kinds of attack in turn, each drawn anew. ``mallory`` is enrolled, ``victim``'s update is counted already."""
    good, start = body(1), len(body(1)) - 4 * LAYOUT.n_numbers
    eight = params.encode_rounded(vector(1), LAYOUT, rng.random(LAYOUT.n_numbers))
    scales = len(eight) - LAYOUT.n_numbers - 4 * len(LAYOUT.slots)
    kinds = [
        "flip on the way", "flip in the head", "flip in the header", "NaN", "Inf", "1e30", "shape", "dtype", "names",
        "huge header", "truncated", "longer", "replay by another", "old generation", "other base", "token of another",
        "garbage", "metadata", "offsets", "deep", "stranger", "scale", "level", "flip in eight bits",
    ]  # fmt: skip
    for i in range(N):
        kind, nonce = kinds[i % len(kinds)], i + 1000
        numbers = vector(i)
        at = int(rng.integers(0, LAYOUT.n_numbers))
        match kind:
            case "flip on the way":
                frame = forged(good, nonce)
                yield kind, ("mallory", flipped(frame, rng, len(frame) - len(good), len(frame)))
            case "flip in the head":
                frame = forged(good, nonce)
                yield kind, ("mallory", flipped(frame, rng, 0, len(frame) - len(good)))
            case "flip in the header":
                changed = flipped(good, rng, 0, start)
                if changed != good:
                    yield kind, ("mallory", forged(changed, nonce))
            case "NaN" | "Inf" | "1e30":
                numbers[at] = {"NaN": np.nan, "Inf": -np.inf, "1e30": 1e30}[kind]
                yield kind, ("mallory", forged(good[:start] + numbers.tobytes(), nonce))
            case "shape" | "dtype" | "names" | "metadata" | "offsets" | "deep":
                text = good[8:start]
                old, new = {
                    "shape": (b"[3,2]", b"[2,3]"), "dtype": (b"F32", [b"F64", b"I32", b"F16"][i % 3]),
                    "names": (b"b.B", bytes([int(rng.integers(97, 123))]) + b".Q"),
                    "metadata": (b"update-1", b"adapt-1x"),
                    "offsets": (b"[24,40]", [b"[00,16]", b"[24,41]", b"[9,999]"][i % 3]),
                    "deep": (b"[3,2]", b"[" * 200 + b"]" * 200),
                }[kind]  # fmt: skip
                changed = text.replace(old, new, 1)
                assert changed != text
                yield kind, ("mallory", forged(len(changed).to_bytes(8, "little") + changed + good[start:], nonce))
            case "huge header":
                size = int(rng.integers(1 << 16, 1 << 62))
                yield kind, ("mallory", forged(size.to_bytes(8, "little") + good[8:], nonce))
            case "truncated":
                frame = forged(good, nonce)
                yield kind, ("mallory", frame[: int(rng.integers(0, len(frame)))])
            case "longer":
                extra = bytes(int(rng.integers(1, 64)))
                yield kind, ("mallory", forged(good, nonce) + extra)
                yield kind, ("mallory", forged(good + extra, nonce))
            case "replay by another":
                yield kind, ("mallory", transport.frame(head("victim", good, 0), good))
            case "old generation":
                token = tokens.token_of("mallory", 0, nonce.to_bytes(16, "big"))
                yield kind, ("mallory", forged(good, nonce, generation=0, token=token))
                yield kind, ("mallory", forged(good, nonce, generation=int(rng.integers(2, 2**31))))
            case "other base":
                field = ["base", "basis", "release"][i % 3]
                yield kind, ("mallory", forged(good, nonce, **{field: sha256_hex(bytes([i % 256]))}))
            case "token of another":
                other = head("victim", good, nonce).token
                yield kind, ("mallory", forged(good, nonce, token=other))
                yield kind, ("mallory", forged(good, nonce, token=rng.bytes(32).hex()))
            case "garbage":
                yield kind, ("mallory", rng.bytes(int(rng.integers(0, 3000))))
                noise = rng.bytes(len(good))
                yield kind, ("mallory", forged(noise, nonce))
            case "scale":
                odd = np.array([np.nan, np.inf, -1.0, -0.0, 3e38][i % 5], "<f4").tobytes()
                yield kind, ("mallory", forged(eight[:scales] + odd + eight[scales + 4 :], nonce))
            case "level":
                place = len(eight) - 1 - at
                yield kind, ("mallory", forged(eight[:place] + b"\x80" + eight[place + 1 :], nonce))
            case "flip in eight bits":
                changed = flipped(eight, rng, 0, scales)
                if changed != eight:
                    yield kind, ("mallory", forged(changed, nonce))
            case "stranger":
                yield kind, ("nobody", transport.frame(head("nobody", good, nonce), good))


def test_twelve_thousand_hostile_updates() -> None:
    """0 counted, 0 crashes, memory bounded; each kind is refused by the check that is meant for it."""
    made = opened("mallory", "victim", cohort=50, cohort_min=50, participations=10**6, separation=1, norm_max=1e6,
                  n_bytes=LAYOUT.sizes)  # fmt: skip
    assert attempt(made, "victim", transport.frame(head("victim", body(1), 0), body(1))) == "UpdateCounted"
    rng = np.random.default_rng(4)
    words: dict[str, Counter[str]] = {}
    before, n_tried = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0
    for kind, (device, data) in hostile(rng):
        word = attempt(made, device, data)
        words.setdefault(kind, Counter())[word] += 1
        n_tried += 1
        assert word not in ("UpdateCounted", "UpdateRepeated"), f"{kind}: {data[:200]!r}"
        made.log.clear()
    grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert n_tried >= N
    assert made.state.n_updates == 1
    assert grown_mb < 64
    expected = {
        "flip on the way": {"wrong digest"}, "NaN": {"not finite"}, "Inf": {"not finite"}, "1e30": {"enormous norm"},
        "shape": {"wrong shape"}, "names": {"wrong names"}, "metadata": {"wrong format"},
        "stranger": {"unknown device"},
        "replay by another": {"token of another"}, "token of another": {"token of another"},
        "old generation": {"wrong generation"}, "other base": {"wrong base"}, "huge header": {"malformed"},
        "deep": {"too large"}, "scale": {"malformed", "not finite"}, "level": {"malformed"},
    }  # fmt: skip
    for kind, reasons in expected.items():
        assert set(words[kind]) <= reasons, (kind, words[kind])
    assert isinstance(made.submit("mallory", head("mallory", body(2)), body(2)), fog.UpdateCounted), "the fog goes on"


def test_hostile_updates_of_a_real_release() -> None:
    """The same for the shipped model's 138,240 numbers: bits flipped anywhere in 553 kB, forged heads included."""
    release = open_release("avatars")
    layout = params.layout_of(
        release.manifest, release.read(release.manifest.base), release.read(release.manifest.basis)
    )
    numbers = np.random.default_rng(0).normal(size=layout.n_numbers).astype(np.float32)
    rng, refused = np.random.default_rng(1), 0
    eight = params.encode_rounded(numbers, layout, rng.random(layout.n_numbers))
    bodies = {dtype: params.encode(numbers, layout, dtype) for dtype in ("float16", "float32")} | {"int8": eight}
    for dtype, good in bodies.items():
        assert np.isfinite(params.decode(good, layout)).all()
        for i in range(100):
            numbers_from = {"float16": 2 * layout.n_numbers, "float32": 4 * layout.n_numbers,
                            "int8": layout.n_numbers + 4 * len(layout.slots)}[dtype]  # fmt: skip
            changed = flipped(good, rng, 0, len(good) - numbers_from)
            if i % 4 == 1:
                changed = good[: int(rng.integers(0, len(good)))]
            if i % 4 == 2:
                changed = good[:-4] + np.array([np.nan if i % 8 else np.inf], "<f4").tobytes()
            if i % 4 == 2 and dtype == "int8":
                changed = good[:-1] + b"\x80"
            if changed == good or (i % 4 == 2 and dtype == "float16"):
                continue
            try:
                params.decode(changed, layout)
            except InvalidInput:
                refused += 1
            else:
                raise AssertionError(f"{dtype}: change {i} was taken")
    assert refused > 250


def test_what_measuring_says_is_what_deciding_believes() -> None:
    """A driver that forgot to look at the numbers cannot get a NaN norm past the reducer."""
    made = opened("a")
    for norm in (float("nan"), float("inf"), 100.1):
        sound = measure("a", head("a", body(1)), body(1))
        (word,) = made.feed(msgspec.structs.replace(sound, norm=norm))
        assert isinstance(word, fog.UpdateRefused)
        assert word.reason == "enormous norm"
    assert plan().releases == (RELEASE,)
