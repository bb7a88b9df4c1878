"""Local inference: the generator in the app's own process, with two slots and one pointer (``learn.slots``).

``generate`` leases what is live for the length of one call; ``refresh``, called off that path, fuses a newly promoted
version into the idle slot and swaps. What cannot be served is reported, and the last good version goes on.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from evergrove.adapters.release import Release
from evergrove.adapters.versions import Versions
from evergrove.core.conditions import Condition
from evergrove.core.errors import EvergroveError, InvalidArtefact
from evergrove.core.release import Manifest
from evergrove.core.rng import stream
from evergrove.learn import flow
from evergrove.learn.adapter_file import adapter_of_bytes
from evergrove.learn.generator import to_uint8
from evergrove.learn.slots import LiveModel
from evergrove.runtime.assembly import Parts, open_parts

RELEASE_ALONE = ""
"""In place of a version's name, where a report says what failed."""


@dataclass(frozen=True)
class Serving:
    """One release, opened: what pictures are made of until another one takes its place. ``name`` as in the pointer."""

    name: str
    manifest: Manifest
    parts: Parts
    live: LiveModel


class LocalStudio:
    """Makes pictures of the release and the version that a device's pointer names."""

    def __init__(
        self, release: Release, versions: Versions, threads: int, find: Callable[[str], Release] | None = None
    ) -> None:
        """Loads the release that serves now. ``release`` is the device's first one, ``find`` opens another one by its
        manifest's SHA-256. ``threads`` is torch's number of threads in this whole process.
        """
        torch.set_num_threads(threads)
        self._first, self._find, self._versions = release, find, versions
        self._refreshing = threading.Lock()
        self._refused: set[str] = set()
        self._broken: str | None = None
        pointer = versions.read_pointer()
        try:
            self._serving = self._open(pointer.release)
        except InvalidArtefact:
            if pointer.release == pointer.previous_release:
                raise
            self._serving = self._open(pointer.previous_release)  # ``refresh`` says what is wrong with the other one

    def generate(
        self, condition: Condition, seed: int, steps: int | None, guidance: float | None
    ) -> tuple[NDArray[np.uint8], dict[str, str], str | None]:
        """A picture uint8 (H, W, 3), its whole condition, and the version that made it (None: the release alone).

        What ``condition`` leaves open is drawn from the seed among what the release is judged on: a sampler of few
        steps would otherwise settle 'any hair' patch by patch.

        Raises ``UnknownCondition``, and ``EvergroveError`` where the network gives what is not finite.
        """
        serving = self._serving  # one for the whole call, whatever is put live meanwhile
        sampler, n_px = serving.manifest.sampler, serving.manifest.image_px
        noise = torch.randn((1, 3, n_px, n_px), generator=torch.Generator().manual_seed(seed))
        with serving.live.lease() as live, torch.inference_mode():
            live.vocabulary.encode(condition)
            whole = _whole(serving.manifest, condition, seed)
            code = torch.tensor([live.vocabulary.encode(whole)])
            method: flow.Method = "heun" if sampler.method == "heun" else "euler"
            strength = sampler.guidance if guidance is None else guidance
            x = flow.sample(live.module, code, noise, steps or sampler.steps, method, strength)
            version = live.version or None
        if not torch.isfinite(x).all():
            self._broken = version or RELEASE_ALONE
            raise EvergroveError(f"version {version or 'release'} made a picture that is not finite; it is reported")
        return to_uint8(x)[0], whole, version

    def refresh(self) -> str | None:
        """Puts the newest version live, if it is another one; what is wrong with it, as ``SHA-256: reason``."""
        with self._refreshing:
            if self._broken is not None:
                broken, self._broken = self._broken, None
                return f"{broken}: it made a picture that is not finite"
            pointer, serving = self._versions.read_pointer(), self._serving
            live = serving.live.current.version or None
            wanted, former = f"{pointer.release} {pointer.current}", (pointer.previous_release, pointer.previous)
            if (pointer.release, pointer.current) == (serving.name, live):
                return None
            if wanted in self._refused and (serving.name, live) == former:
                return None
            active = self._versions.active()
            if active.problem is not None and pointer.current is not None:
                self._put(active.release, active.sha256, active.data)
                return self._refuse(wanted, pointer.current, active.problem)
            try:
                self._put(active.release, active.sha256, active.data)
            except InvalidArtefact as fault:
                return self._refuse(wanted, active.sha256, str(fault))
        return None

    def _open(self, name: str) -> Serving:
        """A release by its name in the pointer. Raises ``InvalidArtefact``."""
        if name and self._find is None:
            raise InvalidArtefact(f"release {name[:12]} is not the one that this device was made with")
        release = self._find(name) if name and self._find is not None else self._first
        parts, manifest = open_parts(release), release.manifest
        live = LiveModel(parts.model, parts.basis, manifest.vocabulary, parts.adapter)
        return Serving(name, manifest, parts, live)

    def _put(self, release: str, sha256: str | None, data: bytes | None) -> None:
        """Puts a version live, with its release where that is another one: by one assignment, between two calls."""
        serving = self._serving if release == self._serving.name else self._open(release)
        if (serving.live.current.version or None) != sha256:
            serving.live.await_gap()
            adapter = None if data is None else adapter_of_bytes(data, f"version {(sha256 or '')[:12]}")
            serving.live.stage(serving.parts.serving(adapter), sha256 or "")
            serving.live.swap()
        self._serving = serving

    def _refuse(self, wanted: str, sha256: str | None, reason: str) -> str:
        self._refused.add(wanted)
        return f"{sha256 or RELEASE_ALONE}: {reason}"


def _whole(manifest: Manifest, condition: Condition, seed: int) -> dict[str, str]:
    """The condition with a value for every factor."""
    rng = stream(seed, "generate", "left open")
    factors = zip(manifest.vocabulary.factors, manifest.known, strict=True)
    drawn = {f.name: f.values[int(rng.integers(n))] for f, n in factors if n}
    return {**drawn, **condition}
