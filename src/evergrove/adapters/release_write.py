"""Makes the next release of a generation out of one that there is: the same base and A, with what was learnt on top.

A release and an adapter (its bytes, or no more than the names of what the fleet is to learn) come in; out goes a folder
that opens as a release, whole or not at all. numpy alone: a cloud writes one without torch.
"""

import contextlib
import secrets
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from evergrove.adapters.files import Files
from evergrove.adapters.release import MANIFEST, Release, open_release
from evergrove.core.conditions import Condition, Vocabulary
from evergrove.core.errors import UsageError
from evergrove.core.release import FileRef, Manifest, sha256_hex
from evergrove.rules.learnt import Array, Learnt, decode, encode, first_row
from evergrove.rules.params import layout_of

ADAPTER = "adapter.safetensors"
NAME_LENGTH_MAX = 64


def write_release(
    source: Release,
    adapter: bytes,
    folder: Path,
    version: int,
    *,
    rehearsal: bytes | None = None,
    files: Files | None = None,
) -> Release:
    """The release ``source`` with another released adapter, in a new ``folder``; its vocabulary is the adapter's.

    Base, A, golden set and teacher stay, the ``rehearsal`` pack as well unless its bytes are given (public pictures of
    what the fleet learns, say, which devices otherwise draw themselves); a Fisher was the former model's and does not.
    Values that the source did not know are the fleet's: its golden set does not judge them. Raises ``InvalidArtefact``
    for an adapter that does not belong here, ``UsageError`` for a folder that is taken or a version that does not grow.
    """
    files, old = files or Files(), source.manifest
    if version <= old.version:
        raise UsageError(f"version {version} does not follow {old.version}, that of '{source.folder}'")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder}: not an empty folder; choose another one for the new release")
    learnt = decode(adapter)
    if any(
        mine.name != theirs.name or mine.values[: len(theirs.values)] != theirs.values
        for mine, theirs in zip(learnt.vocabulary.factors, old.vocabulary.factors, strict=False)
    ):
        raise UsageError("the adapter's conditions do not extend the release's: a value keeps its number for ever")
    fresh = {ADAPTER: adapter} | ({} if rehearsal is None else {old.rehearsal.name: rehearsal})
    refs = {name: FileRef(name, sha256_hex(data), len(data)) for name, data in fresh.items()}
    manifest = msgspec.structs.replace(
        old,
        version=version,
        vocabulary=learnt.vocabulary,
        adapter=refs[ADAPTER],
        rehearsal=refs.get(old.rehearsal.name, old.rehearsal),
        judged=old.known,
        fisher=None,
    )
    made = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.incoming")
    try:
        files.make_folder(made)
        for ref in manifest.files():
            files.write(made / ref.name, fresh[ref.name] if ref.name in fresh else source.read(ref), mode=0o644)
        files.write(made / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=1), mode=0o644)
        open_release(made)
        if folder.exists():
            files.step("unlink", folder)
            folder.rmdir()
        files.move(made, folder)
    except BaseException:
        with contextlib.suppress(Exception):
            files.remove_tree(made)
        raise
    return open_release(folder)


def grow(
    source: Release,
    folder: Path,
    additions: Sequence[Condition],
    version: int | None = None,
    *,
    files: Files | None = None,
) -> Release:
    """The release ``source`` for a fleet that is to learn ``additions`` (new values, such as ``emotion=love``).

    B is the source's (0 where it has no adapter). Each new value gets the row that every device starts from
    (``learnt.first_row``). ``version`` None is the next one. Raises ``UsageError`` for a value that is known already.
    """
    old = source.manifest
    vocabulary = _extended(old.vocabulary, additions)
    wider = msgspec.structs.replace(old, vocabulary=vocabulary)
    start = blank(wider, source.read(old.base), source.read(old.basis))
    tensors = dict(start.tensors)
    rank = start.rank
    if old.adapter is not None:
        held = decode(source.read(old.adapter))
        tensors, rank = {**tensors, **held.tensors}, held.rank
    for f, n in vocabulary.added(old.vocabulary):
        name, factor = f"row.{f}:{n}", vocabulary.factors[f]
        tensors[name] = first_row(factor.name, factor.values[n - 1], tensors[name].size)
    adapter = encode(Learnt(start.base, start.basis, rank, start.scale, vocabulary, tensors))
    return write_release(source, adapter, folder, old.version + 1 if version is None else version, files=files)


def blank(manifest: Manifest, base: bytes, basis: bytes) -> Learnt:
    """The adapter of a release that changes nothing: zeros, of the rank of A."""
    slots = layout_of(manifest, base, basis).slots
    tensors: dict[str, Array] = {slot.name: np.zeros(slot.shape, np.float32) for slot in slots}
    hashes = manifest.base.sha256, manifest.basis.sha256
    return Learnt(*hashes, manifest.rank, manifest.scale, manifest.vocabulary, tensors)


def _extended(vocabulary: Vocabulary, additions: Sequence[Condition]) -> Vocabulary:
    if not additions:
        raise UsageError("nothing to add: name what the fleet is to learn, for instance emotion=love")
    for condition in additions:
        for factor, value in condition.items():
            wider = vocabulary.extend({factor: value})
            if wider == vocabulary:
                raise UsageError(f"the release knows {factor}={value} already")
            if len(value) > NAME_LENGTH_MAX or not value.isprintable():
                raise UsageError(f"{factor}={value[:NAME_LENGTH_MAX]!r}: a name has 1 to {NAME_LENGTH_MAX} characters")
            vocabulary = wider
    return vocabulary
