"""Real learning in virtual time: pictures, an encrypted vault, versions on disk and torch, for a few devices.

What is learnt and what the golden gate measures is what a device's own worker would compute; only when it is done is
the simulator's to say (``trainer.step_s``). These devices learn without a fog: its assist would have to be real, too.
"""

import hashlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import msgspec
import numpy as np

from evergrove.adapters.images import encode_png
from evergrove.adapters.keys import FileKey
from evergrove.adapters.release import Release
from evergrove.adapters.vault import Vault
from evergrove.core import effects as do
from evergrove.core import events as ev
from evergrove.core.config import Config
from evergrove.core.errors import EvergroveError, UsageError
from evergrove.core.jobs import Chosen, Failed, Measure, Measured, Refused, Train, Trained
from evergrove.core.measures import Facts
from evergrove.core.rng import seed_of
from evergrove.media.packs import read_pack
from evergrove.runtime.keeper import Keeper
from evergrove.runtime.pacing import Pace
from evergrove.sim.disk import Picture
from evergrove.sim.scenario import Trainer as Spec
from evergrove.sim.worker import Order
from evergrove.tiers.device import Pending

PICTURES = "demo.npz"
"""The pack of a release with pictures of conditions that it does not know."""


class Gallery:
    """The pictures that devices of a release are shown. Raises ``UsageError`` for a release that brings none."""

    def __init__(self, release: Release) -> None:
        path = release.folder / PICTURES
        if not path.is_file():
            raise UsageError(
                f"{path}: no such file; the real trainer needs a release with pictures to show, such as tiny"
            )
        pack = read_pack(path)
        self.release = release
        self.images = pack.images
        self.codes = [tuple(int(n) for n in code) for code in pack.codes]
        self.known = release.manifest.known
        first = pack.codes[:, 0]
        self._of_value = {int(v): np.flatnonzero(first == v).tolist() for v in np.unique(first) if v > self.known[0]}
        if not self._of_value:
            raise UsageError(f"{path}: shows nothing that the release does not know; choose another release")

    def shown(
        self, pictures: Iterator[tuple[float, Picture]], rng: np.random.Generator
    ) -> Iterator[tuple[float, Picture]]:
        """The same moments with real pictures: a copy shows again what was shown before."""
        values, last = sorted(self._of_value), dict[int, int]()
        for when_s, picture in pictures:
            value = values[(picture.code[0] - 1) % len(values)]
            choice = int(rng.integers(len(self._of_value[value])))
            image = self._of_value[value][choice]
            if picture.facts.exact_duplicate:
                image = last.get(value, image)
            last[value] = image
            yield when_s, msgspec.structs.replace(picture, code=self.codes[image], image=image)

    def condition(self, code: tuple[int, ...]) -> dict[str, str]:
        """The words of a code; what is beyond the release's vocabulary is named by its number."""
        factors = self.release.manifest.vocabulary.factors
        return {
            factor.name: factor.values[n - 1] if n <= len(factor.values) else f"{factor.name}-{n}"
            for factor, n in zip(factors, code, strict=True)
            if n
        }


class Cabinet:
    """The records of a device with pictures: the production keeper and vault, with names that a seed gives."""

    def __init__(self, folder: Path, gallery: Gallery, device: str, seed: int) -> None:
        self._folder, self._gallery, self._device, self._seed = folder, gallery, device, seed
        self._n_named = 0
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "identity.json").write_bytes(msgspec.json.encode({"device": device}))
        self._open()

    @property
    def records(self) -> Mapping[str, str]:
        """The records on disk and their splits."""
        return {entry.id: entry.split for entry in self._vault.entries}

    def receive(self, picture: Picture) -> tuple[str, Facts]:
        """Takes a picture in, measured as on a device; a value that is new gets a name first."""
        pixels, condition = self._gallery.images[picture.image], self._gallery.condition(picture.code)
        known = self._vault.names() or self._gallery.release.manifest.vocabulary
        grown = known
        for factor, size in zip(known.factors, known.sizes, strict=True):
            index = known.names.index(factor.name)
            for number in range(size + 1, picture.code[index] + 1):
                grown = grown.extend({factor.name: f"{factor.name}-{number}"})
        if grown != known:
            self._vault.save_names(grown)
        return self._keeper.receive(encode_png(pixels), pixels, condition, picture.code, float(self._n_named))

    def store(self, observation: str, split: str, reason: str) -> ev.Event:
        """Writes what was chosen."""
        return self._keeper.store(observation, split, reason)

    def drop(self, observation: str) -> None:
        """Forgets what was not chosen."""
        self._keeper.drop(observation)

    def evict(self, records: Collection[str]) -> None:
        """Deletes what the reservoir gave up."""
        self._keeper.evict(records)

    def destroy(self, records: Collection[str] | None) -> None:
        """Deletes records, all of them for None, with the key that could open a leftover of them."""
        self._keeper.destroy(records, None)

    def reconcile(self, known: set[str], pending: Mapping[str, Pending]) -> list[ev.Event]:
        """After a start: no record without its event, no event without its record."""
        return self._keeper.reconcile(known, pending)

    def lose_power(self) -> None:
        """What had not been written is gone: the vault is opened anew."""
        self._open()

    def _open(self) -> None:
        self._vault = Vault(self._folder / "vault", self._device, FileKey(self._folder / "device.key"))
        self._keeper = Keeper(self._vault, self._gallery.known, self._name)

    def _name(self) -> str:
        self._n_named += 1
        text = f"{self._seed}/{self._device}/{self._n_named}"
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


class Unpaced(Pace):
    """A pace that waits for nobody: in virtual time there are no frames to give way to."""

    def __init__(self) -> None:
        """Has no gate to ask."""

    def micro_batch(self, rows: int) -> int:
        """All of them, at once."""
        return rows

    def within(self) -> None:
        """Goes on."""

    def aside(self) -> None:
        """Goes on."""


class Learner:
    """The worker's own tasks, run when their virtual time has passed; costs are declared."""

    def __init__(self, folder: Path, release: Release, spec: Spec, config: Config, seed: int) -> None:
        self._folder, self._release, self._spec, self._config, self._seed = folder, release, spec, config, seed

    def cost_s(self, order: Order) -> float:
        """Declared core-seconds."""
        return order.steps * self._spec.step_s if isinstance(order, do.StartTraining) else self._spec.measure_s

    def power_w(self) -> float:
        """A step's joules over its seconds."""
        return self._spec.step_j / self._spec.step_s

    def train(self, order: do.StartTraining | do.SendTrusted) -> Trained | Failed:
        """Trains with torch, on one thread. What a worker raises is its outcome, as in its own process."""
        from evergrove.runtime import tasks

        learn = msgspec.structs.replace(self._config.learn, steps=order.steps)
        job = Train(*self._places(), order.parent, order.fresh, learn, seed_of(self._seed, "train", order.job))
        folder = self._folder / "jobs" / order.job
        folder.mkdir(parents=True, exist_ok=True)
        try:
            outcome = tasks.train(job, folder, Unpaced(), lambda step, steps, loss, eta_s: None)
        except EvergroveError as fault:
            return Failed(str(fault))
        return msgspec.structs.replace(outcome, seconds=order.steps * self._spec.step_s)

    def measure(self, order: do.StartMeasuring) -> Measured | Refused | Failed:
        """Measures with torch, on one thread."""
        from evergrove.runtime import tasks

        learn = self._config.learn
        job = Measure(*self._places(), order.candidate, order.source, order.incumbent, order.learnt, order.gamma, learn)
        folder = self._folder / "jobs" / order.job
        folder.mkdir(parents=True, exist_ok=True)
        try:
            outcome = tasks.measure(job, folder, Unpaced())
        except EvergroveError as fault:
            return Failed(str(fault))
        return msgspec.structs.replace(outcome, seconds=self._spec.measure_s)

    def choose(self, order: do.StartChoosing) -> Chosen | Refused | Failed:
        """Such a device has no fog, so no release comes."""
        return Refused("a device without a fog takes no releases")

    def _places(self) -> tuple[str, str]:
        return str(self._folder), str(self._release.folder)
