"""Hostile manifests by the thousand against what reads a release: none is believed, nothing crashes."""

import json
import resource
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from groves import NOW_S
from groves import grow as grow_grove

from evergrove.adapters.release import MANIFEST, MANIFEST_BYTES_MAX, Release, open_release, read_manifest
from evergrove.adapters.release_write import grow
from evergrove.bootstrap import Identity, read_release
from evergrove.core.errors import CorruptState, InvalidArtefact
from evergrove.core.release import Manifest, sha256_hex

N = 12_000
SIGNED_EVERY = 101
"""One hostile manifest in so many is also served by a repository: a look at its signatures takes 20 ms."""
Place = tuple[str | int, ...]
"""Where in a manifest: the keys and indices on the way there."""
MARK = "\x01here\x01"

WRONG = ["null", "true", '"4"', "[]", "{}", "[1,2]", '{"name":"x"}', '""']
NUMBERS = ["NaN", "Infinity", "-Infinity", "1e30", "-1e30", "1e400", "-1", "0", "2.5", str(2**63), "9" * 5000, "1e-400"]
NAMES = [
    "../x", "/etc/passwd", "a/../../x", "..", ".", "", "a\\b", "C:\\x", "base\0.bin", "\0", "~", "~/x", "x" * 5000,
    "./base.safetensors", "base.safetensors/", MANIFEST, "\u202egpj.exe", "base.safetensors ", "base\n.bin", "missing",
]  # fmt: skip


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """The tiny release with an adapter, and every field that a manifest may have but a teacher."""
    grown = grow(open_release("tiny"), tmp_path_factory.mktemp("fuzzed") / "grown", [{"emotion": "love"}])
    manifest = msgspec.structs.replace(grown.manifest, teacher=None, fisher=grown.manifest.golden, clip=4.0)
    (grown.folder / MANIFEST).write_bytes(msgspec.json.encode(manifest))
    return open_release(grown.folder)


def places(tree: object, at: Place = ()) -> Iterator[Place]:
    """Every value of a manifest, the containers too."""
    if at:
        yield at
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from places(value, (*at, key))
    elif isinstance(tree, list):
        for i, value in enumerate(tree):
            yield from places(value, (*at, i))


def put(tree: object, at: Place, raw: str | None) -> bytes:
    """The manifest with ``raw`` for the value at a place (None: without it); no JSON that ``raw`` could not be."""
    twin = json.loads(json.dumps(tree))
    holder = twin
    for key in at[:-1]:
        holder = holder[key]
    if raw is None:
        del holder[at[-1]]
        return json.dumps(twin).encode()
    holder[at[-1]] = MARK
    return json.dumps(twin).replace(json.dumps(MARK), raw).encode()


def value(tree: object, at: Place) -> object:
    """What stands at a place."""
    for key in at:
        tree = tree[key]  # type: ignore[index]
    return tree


def flipped(data: bytes, rng: np.random.Generator) -> bytes:
    """One to eight bits turned over."""
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 9))):
        changed[int(rng.integers(0, len(data)))] ^= 1 << int(rng.integers(0, 8))
    return bytes(changed)


def hostile(good: bytes, rng: np.random.Generator) -> Iterator[tuple[str, bytes]]:
    """Kinds of attack in turn, each drawn anew."""
    tree = json.loads(good)
    everywhere = list(places(tree))
    keys = [at for at in everywhere if isinstance(at[-1], str)]
    numbers = [at for at in everywhere if isinstance(value(tree, at), int | float)]
    texts = [at for at in everywhere if isinstance(value(tree, at), str)]
    files = [at[:-1] for at in everywhere if at[-1] == "sha256"]
    kinds = [
        "flip", "truncated", "longer", "spliced", "garbage", "deleted", "duplicated", "unknown key", "wrong type",
        "number", "huge string", "huge list", "deep", "name", "hash", "size", "generation", "another file", "respelt",
        "not text",
    ]  # fmt: skip

    def one_of(these: list[Place]) -> Place:
        return these[int(rng.integers(0, len(these)))]

    for i in range(N):
        kind, turn = kinds[i % len(kinds)], i // len(kinds)
        match kind:
            case "flip":
                data = flipped(good, rng)
            case "truncated":
                data = good[: int(rng.integers(0, len(good)))]
            case "longer":
                data = good + [rng.bytes(int(rng.integers(1, 64))), good, b"{}", b"\0", b"]"][turn % 5]
            case "spliced":
                start, n = (int(rng.integers(0, len(good))) for _ in range(2))
                data = good[:start] + good[n : n + 40] + good[start + int(rng.integers(0, 40)) :]
            case "garbage":
                data = rng.bytes(int(rng.integers(0, 3000)))
            case "deleted":
                data = put(tree, one_of(everywhere), None)
            case "duplicated":
                at = one_of(keys)
                old, new = json.dumps(value(tree, at)), [*WRONG, *NUMBERS, json.dumps(value(tree, at))][turn % 21]
                data = put(tree, at, f"{old}, {json.dumps(at[-1])}: {new}")
            case "unknown key":
                at = one_of(keys)
                data = put(tree, at, f'{json.dumps(value(tree, at))}, "{rng.bytes(4).hex()}": 1')
            case "wrong type":
                data = put(tree, one_of(everywhere), WRONG[turn % len(WRONG)])
            case "number":
                data = put(tree, one_of(numbers), NUMBERS[turn % len(NUMBERS)])
            case "huge string":
                data = put(tree, one_of(texts), json.dumps("x" * int(10 ** rng.uniform(2, 5))))
                data = data if turn % 50 else data + b" " * MANIFEST_BYTES_MAX
            case "huge list":
                item = ["1", '"x"', "[]", '{"name":"x","values":["y"]}'][turn % 4]
                data = put(tree, one_of(everywhere), f"[{','.join([item] * int(10 ** rng.uniform(1, 4)))}]")
            case "deep":
                n = int(10 ** rng.uniform(2, 5))
                data = put(
                    tree, one_of(everywhere), ["[" * n + "]" * n, '{"a":' * n + "1" + "}" * n, "[" * n][turn % 3]
                )
            case "name":
                data = put(tree, (*one_of(files), "name"), json.dumps(NAMES[turn % len(NAMES)]))
            case "hash":
                digest = value(tree, (*one_of(files), "sha256"))
                wrong = [rng.bytes(32).hex(), "", str(digest), str(digest).upper(), str(digest)[:-1], "../" * 8, "\0"]
                data = put(tree, (*one_of(files), "sha256"), json.dumps(wrong[turn % len(wrong)]))
            case "size":
                size = int(rng.integers(-(2**62), 2**62)) if turn % 2 else int(rng.integers(0, 1 << 20))
                data = put(tree, (*one_of(files), "n_bytes"), str(size))
            case "generation":
                field = ["generation", "version", "schema", "rank", "image_px"][turn % 5]
                data = put(tree, (field,), str(int(rng.integers(-3, 2**31))))
            case "another file":
                data = put(tree, one_of(files), json.dumps(value(tree, one_of(files))))
            case "respelt":
                items = list(tree.items())
                data = json.dumps(dict(items[n] for n in rng.permutation(len(items))), indent=turn % 4).encode()
            case _:
                raw = [b"\xff\xfe", b"\xc0\x80", b"\\ud800", b"\\x00", b"\0", b"\xed\xa0\x80"][turn % 6]
                data = put(tree, one_of(texts), json.dumps(MARK)).replace(json.dumps(MARK)[1:-1].encode(), raw)
        yield kind, data


def write_over(place: Path, data: bytes) -> None:
    """In place: a file that is emptied first waits for the disk, 3 ms each time."""
    with place.open("r+b") as file:
        file.write(data)
        file.truncate()


def test_twelve_thousand_hostile_manifests(release: Release) -> None:
    """What opens at all is another release by its name, which no device that was made with this one takes: 0 believed.

    Only what says the very same, spelt otherwise, opens as an equal manifest. 0 crashes, memory bounded.
    """
    place, good = release.folder / MANIFEST, (release.folder / MANIFEST).read_bytes()
    identity = Identity("a", str(release.folder), release.manifest_hash)
    words: dict[str, Counter[str]] = {}
    before, n_tried = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0
    try:
        for kind, data in hostile(good, np.random.default_rng(4)):
            if data == good:
                continue
            n_tried += 1
            write_over(place, data)
            word = attempt(identity, release.manifest)
            words.setdefault(kind, Counter())[word] += 1
            assert word != "believed", f"{kind}: {data[:400]!r}"
    finally:
        place.write_bytes(good)
    grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert n_tried >= 10_000
    assert grown_mb < 64
    refused = {"truncated", "garbage", "longer", "name", "hash", "size", "unknown key", "deep", "not text"}
    for kind in refused:
        assert set(words[kind]) <= {"refused", "the same"}, (kind, words[kind])
    assert set(words["respelt"]) == {"the same"}, "what is only spelt otherwise is understood"
    assert words["generation"]["another"] > 100, "what only a hash can tell was tried too"
    assert read_release(Path(), identity).manifest == release.manifest, "and the true one is taken again"


def attempt(identity: Identity, true: Manifest) -> str:
    """What becomes of the manifest that lies there now, for a device that knows the release by its hash: a word."""
    try:
        read_release(Path(), identity)
    except InvalidArtefact:
        return "refused"
    except CorruptState:  # it opened, and is another by its hash
        return "the same" if read_manifest(Path(identity.release)).manifest == true else "another"
    return "believed"


def test_hostile_manifests_from_whoever_answers_for_the_repository(release: Release, tmp_path: Path) -> None:
    """A device's fetch and a fog's survey of a signed release: every one is refused, and leaves no release behind."""
    grove = grow_grove(tmp_path / "grove")
    grove.repository().publish(release.folder, grove.signers, NOW_S, version=2, epsilon=0.0)
    device, fog = grove.device("device"), grove.device("fog")
    good = (release.folder / MANIFEST).read_bytes()
    served = grove.home / "repository" / "targets" / "releases" / "2" / f"{sha256_hex(good)}.{MANIFEST}"
    assert served.read_bytes() == good
    n_tried = 0
    for n, (kind, data) in enumerate(hostile(good, np.random.default_rng(5))):
        if n % SIGNED_EVERY or data == good:  # prime to the number of kinds: all come up
            continue
        n_tried += 1
        write_over(served, data)
        with pytest.raises(InvalidArtefact, match="refused"):
            (device.fetch(2) if n_tried % 2 else fog.survey(1))
        assert not list((device.folder / "releases").glob("[!.]*")), kind
    assert n_tried >= 100
    served.write_bytes(good)
    assert device.fetch(2).release.manifest == release.manifest
    assert fog.survey(1).manifests[release.manifest_hash] == release.manifest
