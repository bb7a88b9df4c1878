"""Local inference: the generator in the app's own process, with two slots and one pointer (``learn.slots``).

``generate`` leases what is live for the length of one call; ``refresh``, called off that path, fuses a newly promoted
version into the idle slot and swaps. What cannot be served is reported, and the last good version goes on.
"""

import threading

import numpy as np
import torch
from numpy.typing import NDArray

from evergrove.adapters.release import Release
from evergrove.adapters.versions import Versions
from evergrove.core.conditions import Condition
from evergrove.core.errors import EvergroveError, InvalidArtefact
from evergrove.core.rng import stream
from evergrove.learn import flow
from evergrove.learn.adapter_file import adapter_of_bytes
from evergrove.learn.generator import to_uint8
from evergrove.learn.slots import LiveModel
from evergrove.runtime.assembly import open_parts


class LocalStudio:
    """Makes pictures of a release and the version that a device's pointer names."""

    def __init__(self, release: Release, versions: Versions, threads: int) -> None:
        """Loads the release. ``threads`` is torch's number of threads in this whole process."""
        torch.set_num_threads(threads)
        self._manifest = release.manifest
        self._versions = versions
        self._parts = parts = open_parts(release)
        self._live = LiveModel(parts.model, parts.basis, self._manifest.vocabulary, parts.adapter)
        self._refreshing = threading.Lock()
        self._refused: set[str] = set()
        self._broken: str | None = None

    def generate(
        self, condition: Condition, seed: int, steps: int | None, guidance: float | None
    ) -> tuple[NDArray[np.uint8], dict[str, str], str | None]:
        """A picture uint8 (H, W, 3), its whole condition, and the version that made it (None: the release alone).

        What ``condition`` leaves open is drawn from the seed among what the release is judged on: a sampler of few
        steps would otherwise settle 'any hair' patch by patch.

        Raises ``UnknownCondition``, and ``EvergroveError`` where the network gives what is not finite.
        """
        sampler, n_px = self._manifest.sampler, self._manifest.image_px
        noise = torch.randn((1, 3, n_px, n_px), generator=torch.Generator().manual_seed(seed))
        with self._live.lease() as live, torch.inference_mode():
            live.vocabulary.encode(condition)
            whole = self._whole(condition, seed)
            code = torch.tensor([live.vocabulary.encode(whole)])
            method: flow.Method = "heun" if sampler.method == "heun" else "euler"
            strength = sampler.guidance if guidance is None else guidance
            x = flow.sample(live.module, code, noise, steps or sampler.steps, method, strength)
            version = live.version or None
        if not torch.isfinite(x).all():
            self._broken = version
            raise EvergroveError(f"version {version or 'release'} made a picture that is not finite; it is reported")
        return to_uint8(x)[0], whole, version

    def _whole(self, condition: Condition, seed: int) -> dict[str, str]:
        """The condition with a value for every factor."""
        rng = stream(seed, "generate", "left open")
        factors = zip(self._manifest.vocabulary.factors, self._manifest.known, strict=True)
        drawn = {f.name: f.values[int(rng.integers(n))] for f, n in factors if n}
        return {**drawn, **condition}

    def refresh(self) -> str | None:
        """Puts the newest version live, if it is another one; what is wrong with it, as ``SHA-256: reason``."""
        with self._refreshing:
            if self._broken is not None:
                broken, self._broken = self._broken, None
                return f"{broken}: it made a picture that is not finite"
            pointer = self._versions.read_pointer()
            live = self._live.current.version or None
            if pointer.current == live or (pointer.current in self._refused and live == pointer.previous):
                return None
            active = self._versions.active()
            if active.problem is not None and pointer.current is not None:
                self._put(active.sha256, active.data)
                return self._refuse(pointer.current, active.problem)
            try:
                self._put(active.sha256, active.data)
            except InvalidArtefact as fault:
                return self._refuse(active.sha256 or "", str(fault))
        return None

    def _put(self, sha256: str | None, data: bytes | None) -> None:
        if (self._live.current.version or None) == sha256:
            return
        self._live.await_gap()
        adapter = None if data is None else adapter_of_bytes(data, f"version {(sha256 or '')[:12]}")
        self._live.stage(self._parts.serving(adapter), sha256 or "")
        self._live.swap()

    def _refuse(self, sha256: str, reason: str) -> str:
        self._refused.add(sha256)
        return f"{sha256}: {reason}"
