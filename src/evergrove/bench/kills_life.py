"""A device's whole life in one process, on a clock of its own: what ``bench kills`` kills at every write.

The agent, its ownership, log, vault and versions are the real ones, and so are the files that a worker leaves; only
what it computes is a rehearsal: checkpoints and candidates of fixed bytes, comparisons as they are declared. Everything
that an app was told is remembered, to be held against what is there after a kill.
"""

import asyncio
import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from itertools import count
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from evergrove import bootstrap
from evergrove.adapters.files import Files
from evergrove.adapters.images import encode_png
from evergrove.adapters.keys import FileKey
from evergrove.adapters.log import EventLog
from evergrove.adapters.ownership import Ownership
from evergrove.adapters.release import Release, open_release, read_manifest
from evergrove.adapters.vault import Vault, new_id
from evergrove.adapters.versions import Versions
from evergrove.core import effects as do
from evergrove.core import events as ev
from evergrove.core import jobs
from evergrove.core import messages as msg
from evergrove.core.conditions import Code, Vocabulary, group
from evergrove.core.config import Config
from evergrove.core.errors import EvergroveError, UsageError
from evergrove.core.measures import Choice, Comparison
from evergrove.core.rng import stream
from evergrove.core.telemetry import Telemetry, Value
from evergrove.media.packs import read_pack
from evergrove.rules.carry import renumbering, vocabulary_on
from evergrove.rules.learnt import Learnt, encode
from evergrove.runtime import workers
from evergrove.runtime.agent import Agent
from evergrove.runtime.driver import Driver
from evergrove.runtime.keeper import Keeper
from evergrove.runtime.offload import Fogs
from evergrove.tiers import device as tier

RELEASE = "tiny"
CONFIG = """
[learn]
auto = false
steps = 6
batch = 4
checkpoint_every = 2
attempts_max = 50
[novelty]
capacity_per_condition = 4
golden_every = 2
golden_capacity = 5
[gate]
recheck_every_s = 3600.0
[probation]
seconds = 60.0
[agent]
snapshot_every = 14
events_kept = 10
"""
"""So small that every kind of write comes up within a short life: evictions, snapshots, compaction."""
START_S = 1_700_000_000.0


class Killed(BaseException):
    """A worker that was ended by SIGKILL: nothing catches it, nothing is tidied up."""


class Setting(msgspec.Struct):
    """What the world is like: the clock, the battery, and what candidates are worth. It outlives every kill."""

    now_s: float = START_S
    low_battery: bool = False
    harm: float = 0.0
    """Of a candidate at full scale, to one old condition; nothing of it is left at half."""
    gain: float = 0.5
    alarm: bool = False
    """Whether a re-check finds that something was lost."""


class Told(msgspec.Struct, frozen=True):
    """What apps had been told so far: the records that the device holds, and the versions that its gate accepted."""

    held: frozenset[str] = frozenset()
    accepted: frozenset[str] = frozenset()
    made: bool = False


class Body:
    """A body with a battery, and a lever."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self.share = 0.0

    def read(self) -> Telemetry:
        """On mains, unless the battery is all there is."""
        low = self._setting.low_battery
        return Telemetry(on_mains=Value(0.0 if low else 1.0), battery_share=Value(0.1 if low else 0.9))

    def set_share(self, share: float) -> None:
        """What the worker may use from now on."""
        self.share = share


class Hands:
    """A worker's writes, in the order of ``runtime.tasks`` and ``learn.trainer``, without the arithmetic.

    ``files`` are the worker's own: a kill that they raise ends this worker alone.
    """

    def __init__(self, files: Files, body: Body, setting: Setting, release: Release) -> None:
        self._files, self._body, self._setting, self._release = files, body, setting, release

    async def run(self, folder: Path, job: jobs.Job, files: Files) -> jobs.Outcome | str:
        """What ``workers.run`` does, in this process. ``files`` are the agent's."""
        workers.prepare(folder, job, files)
        outcome: jobs.Outcome
        try:
            try:
                outcome = await self._train(job, folder) if isinstance(job, jobs.Train) else self._look(job)
            except EvergroveError as fault:
                outcome = jobs.Failed(str(fault))
            self._files.write(folder / workers.OUTCOME, msgspec.json.encode(outcome))
        except Killed:
            pass
        return workers.read_outcome(folder, -9)

    async def _train(self, job: jobs.Train, folder: Path) -> jobs.Trained:
        device = Path(job.device)
        held = set(self._vault(device).ids())
        if not held & set(job.fresh):
            raise UsageError("none of the observations to learn is left in the replay buffer")
        task = hashlib.sha256(repr((job.parent, sorted(held & set(job.fresh)), job.learn.steps)).encode()).digest()
        checkpoint, memory = folder / "checkpoint.safetensors", folder / "memory.safetensors"
        if not memory.exists():
            self._files.write(memory, task * 40)
        done = 0
        if checkpoint.exists():
            data = checkpoint.read_bytes()
            if data[:32] != task:
                raise UsageError(f"{folder} holds the checkpoint of another task; use another folder, or delete it")
            done = data[32]
        for step in range(done + job.learn.checkpoint_every, job.learn.steps + 1, job.learn.checkpoint_every):
            await asyncio.sleep(0)
            while self._body.share == 0:
                await asyncio.sleep(0)
            self._files.write(checkpoint, task + bytes([step]) + task * 60)
        candidate = folder / "candidate.safetensors"
        self._files.write(candidate, adapter_of(b"candidate" + task, self._words(device)))
        data = candidate.read_bytes()
        sha256 = Versions(device / "versions", files=self._files).add(data)
        return jobs.Trained(sha256, job.learn.steps, 1.0, 0.1, len(data))

    def _measure(self, job: jobs.Measure) -> jobs.Measured:
        versions, device = Versions(Path(job.device) / "versions", files=self._files), Path(job.device)
        self._files.make_folder(device / "cache")
        self._files.write(device / "cache" / "values.npz", b"what the release scores" * 20)
        name = job.candidate or job.incumbent or "release"
        harm = self._setting.harm if job.candidate or job.source else 5.0 * self._setting.alarm
        if job.source is not None or job.gamma != 1.0:
            data = Path(job.source).read_bytes() if job.source else versions.load(name)
            name = versions.add(adapter_of(data + repr(job.gamma).encode(), self._words(device)))
            harm = harm if job.gamma == 1.0 else 0.0
        return jobs.Measured(name, tuple(self._comparisons(job.learnt, device, harm, self._words(device))), 1.0)

    def _look(self, job: jobs.Measure | jobs.Choose) -> jobs.Measured | jobs.Chosen:
        return self._measure(job) if isinstance(job, jobs.Measure) else self._choose(job)

    def _choose(self, job: jobs.Choose) -> jobs.Chosen:
        """All of what was learnt on the other release, or the release alone; as good as what serves, but for harm."""
        device = Path(job.device)
        versions, words = Versions(device / "versions", files=self._files), self._words(device)
        manifest = read_manifest(Path(job.arriving)).manifest
        after = vocabulary_on(manifest.vocabulary, words)
        found = tuple(self._comparisons((), device, self._setting.harm, after))
        choices = [Choice(0.0, None, None, 0.5, found)]
        if job.incumbent is not None:
            carried = adapter_of(versions.load(job.incumbent) + job.arriving.encode(), after)
            choices.insert(0, Choice(1.0, versions.add(carried), None, 0.2, found))
        return jobs.Chosen(tuple(choices), manifest.known, renumbering(words, after), True, 1.0)

    def _words(self, device: Path) -> Vocabulary:
        return self._vault(device).names() or self._release.manifest.vocabulary

    def _comparisons(
        self, learnt: Sequence[Code], device: Path, harm: float, words: Vocabulary
    ) -> Iterator[Comparison]:
        """As ``learn.evaluate`` gives them: every old condition, and those of the device's own golden set."""
        known = self._release.manifest.known
        released = [(n + 1, *(0 for _ in known[1:])) for n in range(known[0])]
        for condition in released:
            for kind in ("incumbent", "release", "teacher"):
                mean = 0.5 * harm if kind == "teacher" else harm
                yield Comparison(kind, condition, 150, mean if condition is released[0] else 0.001, 0.01)
        counts = {condition: 150 for condition in learnt if all(map(int.__le__, condition, known))}
        old = set(counts)
        for entry in self._vault(device).entries:
            if entry.split == "golden":
                condition = group(words.encode(entry.condition), known)
                counts[condition] = counts.get(condition, 0) + 1
        for condition, n in sorted(counts.items()):
            if condition not in old and condition not in released:
                yield Comparison("incumbent", condition, n, -0.01, 0.001)
            if condition in learnt:
                yield Comparison("gain", condition, n, -self._setting.gain, 0.01)

    def _vault(self, device: Path) -> Vault:
        identity = bootstrap.read_identity(device)
        return Vault(device / "vault", identity.device, FileKey(device / "device.key"), read_only=True)


class HomeAgent(Agent):
    """The agent, with a worker in its own process, and with a keeper whose names are known beforehand."""

    _named: Callable[[], str] = staticmethod(new_id)

    def rehearse(self, hands: Hands, name: Callable[[], str]) -> None:
        """Takes both; before ``start``."""
        self._hands, self._named = hands, name
        self._keeper = self._new_keeper()

    def _new_keeper(self) -> Keeper:
        return Keeper(self._vault, self._release.manifest.known, self._named, lambda: self._vocabulary)

    def _perform(self, order: do.Effect) -> list[ev.Event]:
        """Errands are done as soon as they are ordered: the release lies there, the fog has heard a report, and has
        counted an update, once, however often it is ordered."""
        match order:
            case do.FetchRelease():
                return [ev.ReleaseFetched(order.version, order.release)]
            case do.SendReport():
                return [ev.ReportSent(order.rollout, order.mark, order.shadow)]
            case do.ShareLearnt():
                return [ev.UpdateCounted(order.version, f"token of {order.version}", 1, 0)]
            case _:
                return super()._perform(order)

    async def _work(self, order: workers.Start) -> None:
        if isinstance(order, do.StartTraining):
            self.feed(ev.TrainingStarted(order.job, order.attempt))
        outcome = await self._hands.run(self._root / "jobs" / order.job, self._job(order), self._files)
        self._crew.leave(order.job)
        self.feed(workers.fact_of(order, outcome))


class Life:
    """One device between two starts of its agent. ``files`` announce every write of it, worker's writes included."""

    agent: "HomeAgent"
    driver: Driver
    log: EventLog[ev.Event]
    vault: Vault
    versions: Versions
    config: Config

    def __init__(
        self,
        root: Path,
        setting: Setting,
        files: Files,
        told: Told,
        worker_files: Files | None = None,
        names: str = "life",
    ) -> None:
        """``names`` is what the names of observations are made from: the same life names them alike."""
        self.root, self.setting, self.files, self.told = root, setting, files, told
        self._worker_files = worker_files or files
        self.release, self._pictures = _release(), _pictures()
        self._names = (hashlib.md5(f"{names} {n}".encode()).hexdigest() for n in count())
        self._owner: Ownership | None = None

    def make(self) -> None:
        """A new device where there is none."""
        if not self.told.made:
            if not self.root.exists():
                bootstrap.make_device(self.root, RELEASE, CONFIG, self.files)
            self.told = msgspec.structs.replace(self.told, made=True)

    def boot(self) -> None:
        """The parts as ``bootstrap.own_device`` puts them together, and the agent's start."""
        identity, config = bootstrap.read_identity(self.root), bootstrap.read_config(self.root)
        now_s = lambda: self.setting.now_s  # noqa: E731
        self.config = config
        self._owner = Ownership.acquire(self.root, self.root.parent / "run", files=self.files)
        self.log = EventLog(self.root / "log.sqlite", bootstrap.CODEC, files=self.files)
        every, kept = config.agent.snapshot_every, config.agent.events_kept
        self.driver = Driver(partial(tier.step, config), self.log, now_s, every, kept)
        release = self.release = bootstrap.release_finder(self.root, identity)(self.driver.state.release)
        key = FileKey(self.root / "device.key", files=self.files)
        self.vault = Vault(self.root / "vault", identity.device, key, config.replay, files=self.files)
        self.versions = Versions(self.root / "versions", files=self.files)
        past = [row.event for row in self.log.tail(every)]
        parts = self.root, config, release, self.driver, self.vault, self.versions, self.files, now_s
        body = Body(self.setting)
        hands = Hands(self._worker_files, body, self.setting, release)
        find = bootstrap.release_finder(self.root, identity)
        self.agent = HomeAgent(*parts, body, Fogs(), past, None, find, identity.manifest)
        self.agent.rehearse(hands, lambda: next(self._names))
        self.agent.start()
        self.tell()

    def tell(self) -> None:
        """What apps know by now."""
        state = self.driver.state
        self.told = Told(frozenset(state.keeping.buffer.records()), self.told.accepted | accepted(self.log), True)

    async def settle(self) -> None:
        """Lets the clock run until nothing is under way or waits. Raises ``EvergroveError`` where that never ends."""
        for _ in range(1000):
            if not self.agent.busy and self.driver.state.work is None:
                return self.tell()
            await asyncio.sleep(0)
            self.setting.now_s += 1.0
            self.agent.tick()
        raise EvergroveError(f"not at rest after 1000 ticks: {self.driver.state.work or self.driver.state.waiting}")

    async def pass_time(self, seconds: float) -> None:
        """The clock goes on, and the agent looks at it."""
        self.setting.now_s += seconds
        self.agent.tick()
        await self.settle()

    def observe(self, picture: int, emotion: str) -> None:
        """An app shows picture number ``picture``."""
        media = encode_png(self._pictures[picture])
        self.agent.observe(media, {self.release.manifest.vocabulary.names[0]: emotion})
        self.tell()

    async def ask(self, request: msg.Request) -> None:
        """Any other request of an app, and what comes of it."""
        await self.agent.answer(request)
        await self.settle()

    def end(self) -> None:
        """Lets go of the device, as the end of a process does."""
        if self._owner is not None:
            self.log.close()
            self._owner.release()
            self._owner = None

    async def stop(self) -> None:
        """Ends it properly."""
        await self.agent.stop()
        self.end()


def adapter_of(content: bytes, vocabulary: Vocabulary) -> bytes:
    """An adapter file that nobody loads: what it understands, and numbers made from ``content``."""
    numbers = np.frombuffer(hashlib.sha256(content).digest() * 8, np.uint8).astype(np.float32).reshape(-1, 1)
    return encode(Learnt("0" * 64, "0" * 64, 1, 1.0, vocabulary, {"layer.B": numbers}))


def accepted(log: EventLog[ev.Event]) -> frozenset[str]:
    """The versions whose acceptance by the golden gate the log still holds."""
    candidates: dict[str, str] = {}
    found = set()
    for row in log.replay(log.first_seq - 1):
        match row.event:
            case ev.CandidateMeasured():
                candidates[row.event.job] = row.event.candidate
            case ev.ReleaseMeasured():
                found |= {choice.candidate for choice in row.event.choices if choice.candidate}
            case ev.GateJudged(verdict="accept", job=job) if job in candidates:
                found.add(candidates[job])
            case _:
                pass
    return frozenset(found)


@cache
def _release() -> Release:
    """Verified once: nothing here writes to it."""
    return open_release(RELEASE)


@cache
def _pictures(n: int = 60) -> list[NDArray[np.uint8]]:
    """Pictures that look like nothing the release knows, each with a stripe of its own."""
    release = _release()
    pack = read_pack(release.path_of(release.manifest.rehearsal))
    rng = stream(0, "bench", "kills")
    found = []
    for i in rng.integers(len(pack.images), size=n):
        picture = 255 - pack.images[int(i)]
        row = int(rng.integers(0, picture.shape[0] - 6))
        picture[row : row + 6] = rng.integers(0, 256, size=3)
        found.append(picture)
    return found
