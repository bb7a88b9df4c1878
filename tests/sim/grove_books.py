"""A bystander's own books of a simulated grove: what was on the wires, who was told what, and what that cost.

Nothing here is asked of the code under test: bytes are read by hand, sums are taken apart by linear algebra, ε comes
from the definition of sensitivity over every pattern of taking part, signatures from the keys that the world was made
with.
"""

import hashlib
import itertools
import json
import math
from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr
from tuf.api.metadata import Metadata, Root, Targets

from evergrove.adapters.flower.port import Answer
from evergrove.adapters.fog_books import Kept
from evergrove.adapters.log import EventLog
from evergrove.core import cloud_events as ev
from evergrove.core.cloud_jobs import ConsolidateJob, Made
from evergrove.core.fog import Cohort, Receipt
from evergrove.core.sums import NoisedSum
from evergrove.rules.aggregate import CohortSum
from evergrove.runtime.cloud_folder import CloudFolder
from evergrove.runtime.fog_noise import FogNoise, Noised
from evergrove.runtime.rollouts import CODEC, Rollouts
from evergrove.sim.grove.witness import Witness
from evergrove.sim.grove.world import GroveWorld

Vector = NDArray[np.float64]
Round = tuple[str, int]
"""A fog and the number of its cohort."""


class Books(Witness):
    """Everything seen of one world, which is given once it is made."""

    def __init__(self) -> None:
        self.world: GroveWorld
        self.bodies: dict[str, Vector] = {}
        """What was sent, by token."""
        self.home: dict[str, str] = {}
        self.receipts: dict[str, Cohort] = {}
        self.sums: dict[Round, NoisedSum] = {}
        """What left a fog."""
        self.exact: dict[Round, list[tuple[Vector, bytes]]] = defaultdict(list)
        """What was inside of a fog's noise: the exact sum, and the vector that it became."""
        self.jobs: dict[str, ConsolidateJob] = {}
        self.candidates: dict[str, tuple[str, Vector]] = {}
        """By job: the candidate's name, and what it has more than its release."""
        self.served: list[tuple[str, str]] = []
        self.n_checked = 0

    # ---- what is seen ------------------------------------------------------------------------------------------------

    def sent(self, device: str, fog: str, frame: bytes) -> None:
        """One participation is always the same bytes, to the same fog."""
        n_head = int.from_bytes(frame[:4], "little")
        token, body = msgspec.msgpack.decode(frame[4 : 4 + n_head])["token"], numbers_of(frame[4 + n_head :])
        assert np.array_equal(self.bodies.setdefault(token, body), body)
        assert self.home.setdefault(token, fog) == fog

    def told(self, device: str, fog: str, receipt: Receipt) -> None:
        """An update is counted in one cohort, however often its device is told so."""
        assert self.receipts.setdefault(receipt.token, receipt.cohort) == receipt.cohort

    def left(self, fog: str, answer: Answer) -> None:
        """A round is always the same bytes, and was in the fog's ledger before it left."""
        for one in answer.sums:
            assert self.sums.setdefault((fog, one.number), one) == one, "two noises of one round"
        self.check_fog(fog)

    def stands(self, fog: str) -> None:
        """After any kill the fog's ledger still knows what left."""
        self.check_fog(fog)

    def made(self, name: str, job: ConsolidateJob, made: Made) -> None:
        """A job is always of the same sums, and its ε was booked before anything was made of them."""
        self.check_cloud(job)
        assert [c.id for c in self.jobs.setdefault(name, job).cohorts] == [c.id for c in job.cohorts]
        after = numbers_of(CloudFolder(Path(job.cloud)).get(made.candidate))
        self.candidates[name] = made.candidate, after - adapter_of(Path(job.release), len(after))

    def serves(self, device: str, release: str, version: int) -> None:
        """Signed by the keys of this world, judged in the cloud's log, and byte by byte what was signed."""
        self.served.append((device, release))
        self.check_release(device, release, version)

    def noise(self, fog: str) -> FogNoise:
        """The world's own noise for a fog, with a look inside."""
        inner = self.world.own_noise(fog)
        return Tapped(inner, fog, self)

    # ---- the three laws, at every instant ----------------------------------------------------------------------------

    def check_fog(self, fog: str) -> None:
        """ε of what left is in the ledger: as many rounds, and as much."""
        left = [number for name, number in self.sums if name == fog]
        ledger = self.world.fogs[fog].store.ledger()
        spent = ledger.find(1, fog)
        booked = spent.rounds if spent is not None else 0
        assert booked >= max(left, default=-1) + 1, f"{fog}: {booked} rounds are booked, {sorted(left)} left"
        if left:
            self.costs(fog, max(left) + 1, ledger.epsilon_generation(1))

    def check_cloud(self, job: ConsolidateJob) -> None:
        """What a job's sums have cost was booked when it began."""
        rollouts = Rollouts(self.world.cloud.folder)
        spent = rollouts.cloud.spent
        rollouts.close()
        for cohort in job.cohorts:
            booked = spent.get(cohort.fog, 0.0)
            self.costs(cohort.fog, cohort.number + 1, math.inf if booked is None else booked)

    def costs(self, fog: str, rounds: int, booked: float) -> None:
        """What the first rounds of a fog's noise are worth is not more than what is booked for them."""
        self.n_checked += 1
        words = self.sums[fog, rounds - 1].noise
        true = math.inf if words is None else epsilon_of(tuple(words.items()), rounds)
        assert booked >= true, f"{fog}: ε = {booked} is booked for {rounds} rounds worth {true}"

    def check_release(self, device: str, release: str, version: int) -> None:
        """The first release was the person's; every other one has its verdict and its signature."""
        world = self.world
        # 1. Signed, by enough of the keys that the world began with.
        metadata = world.repository.folder / "metadata"
        newest = max(metadata.glob("*.targets.json"), key=lambda path: int(path.name.split(".")[0]))
        root, targets = Metadata[Root].from_bytes(world.root), Metadata[Targets].from_bytes(newest.read_bytes())
        root.verify_delegate("targets", targets)
        signed = [t for t in targets.signed.targets.values() if t.hashes["sha256"] == release]
        assert f"releases/{version}/manifest.json" in {t.path for t in signed}
        facts = log_of(world)
        assert any(isinstance(f, ev.RolloutStarted) and (f.release, f.version) == (release, version) for f in facts)
        if release == world.release.manifest_hash:
            return
        # 2. Every byte of it.
        folder = world.home / "devices" / device / "fleet" / "releases" / "releases" / release
        manifest = (folder / "manifest.json").read_bytes()
        assert hashlib.sha256(manifest).hexdigest() == release
        for ref in json.loads(manifest).values():
            if isinstance(ref, dict) and "sha256" in ref:
                assert hashlib.sha256((folder / ref["name"]).read_bytes()).hexdigest() == ref["sha256"]
        # 3. Judged before it was signed, and by the right word.
        (job, *_) = [f.job for f in facts if isinstance(f, ev.ReleaseSigned) and f.release == release]
        verdicts = [f.verdict for f in facts if isinstance(f, ev.FleetJudged) and f.job == job]
        name, moved = self.candidates[job]
        assert verdicts[-1] == "accept"
        assert name not in world.workers.harmful
        # 4. What it says it cost.
        for target in signed:
            for cohort in self.jobs[job].cohorts:
                self.costs(cohort.fog, cohort.number + 1, float(target.unrecognized_fields["custom"]["epsilon"]))
        # 5. It is that candidate.
        before = adapter_of(Path(self.jobs[job].release), len(moved), world)
        np.testing.assert_allclose(adapter_of(folder, len(moved)) - before, moved, atol=1e-6)

    # ---- the first law, at the end -----------------------------------------------------------------------------------

    def check_counted(self) -> None:
        """Every update that was accepted is in one sum, every sum in one candidate."""
        tokens = list(self.bodies)
        clip = self.world.grove.gathering.clip
        matrix = np.stack([self.bodies[t] * min(1.0, clip / np.linalg.norm(self.bodies[t])) for t in tokens], axis=1)
        rounds = list(self.sums)
        parts = parts_of(matrix, [self._exact(one) for one in rounds])
        counted: dict[str, list[Round]] = defaultdict(list)
        for (fog, number), column in zip(rounds, parts.T, strict=True):
            inside = [token for token, part in zip(tokens, column, strict=True) if round(part)]
            np.testing.assert_allclose(column, np.round(column), atol=1e-3)
            assert len(inside) == self.sums[fog, number].n_updates
            for token in inside:
                assert self.home[token] == fog
                counted[token].append((fog, number))
        assert {t: [(self.home[t], c.number)] for t, c in self.receipts.items()} == {
            t: counted[t] for t in self.receipts
        }
        assert set(counted) == set(self.receipts), "whoever is in a sum has been told so by now"
        assert all(len(found) == 1 for found in counted.values())
        vectors = np.stack([self.sums[one].values.astype(np.float64) for one in rounds], axis=1)
        shares = parts_of(vectors, [moved for _, moved in self.candidates.values()])
        for (name, _), column in zip(self.candidates.items(), shares.T, strict=True):
            mine = {(c.fog, c.number) for c in self.jobs[name].cohorts}
            share = 1 / (self.world.grove.gathering.cohort * len(mine))
            expected = [share if one in mine else 0.0 for one in rounds]
            np.testing.assert_allclose(column, expected, atol=share / 20)
        used = [(c.fog, c.number) for job in self.jobs.values() for c in job.cohorts]
        assert sorted(used) == sorted(rounds), "each sum in one job, and none left"

    def _exact(self, one: Round) -> Vector:
        """What is inside of a sum's noise: the one that left, of those that were made for its round."""
        (found,) = {digest: exact for exact, digest in self.exact[one] if digest == self.sums[one].vector}.values()
        return found


class Tapped(FogNoise):
    """A fog's noise with a look inside; it changes nothing."""

    def __init__(self, inner: FogNoise, fog: str, books: Books) -> None:
        super().__init__(fog, inner.budget, inner._key, inner._chance)
        self._name, self._books = fog, books

    def close(self, kept: Kept, cohort: Cohort, total: CohortSum, withheld: bool = False) -> Noised:
        noised = super().close(kept, cohort, total, withheld)
        vector = np.asarray(noised.values, "<f4").tobytes()
        self._books.exact[self._name, cohort.number].append((total.values, vector))
        return noised


# ---- by hand -------------------------------------------------------------------------------------------------------


def numbers_of(data: bytes) -> Vector:
    """The numbers in a safetensors file of fp16, in order."""
    n_header = int.from_bytes(data[:8], "little")
    return np.frombuffer(data[8 + n_header :], "<f2").astype(np.float64)


def adapter_of(folder: Path, n: int, world: GroveWorld | None = None) -> Vector:
    """What a release has learnt; zeros for the first one. One that the cloud has swept is read where it is signed."""
    if world is not None and not folder.exists():
        target = next((world.repository.folder / "targets" / "releases").glob(f"*/{folder.name}.manifest.json"))
        ref = json.loads(target.read_bytes()).get("adapter")
        name = ref and f"{ref['sha256']}.{ref['sha256']}"
        return numbers_of((world.repository.folder / "targets" / "files" / name).read_bytes()) if ref else np.zeros(n)
    ref = json.loads((folder / "manifest.json").read_bytes()).get("adapter")
    return numbers_of((folder / ref["name"]).read_bytes()) if ref else np.zeros(n)


def parts_of(matrix: Vector, targets: Sequence[Vector]) -> Vector:
    """How much of each column is in each target, by least squares; the columns are far from parallel."""
    found: Vector = np.linalg.lstsq(matrix, np.stack(targets, axis=1), rcond=None)[0]
    return found


def log_of(world: GroveWorld) -> list[ev.CloudEvent]:
    """The cloud's log as it is on its disk now."""
    log = EventLog(world.cloud.folder / "log", CODEC, read_only=True)
    facts = [row.event for row in log.replay(0)]
    log.close()
    return facts


@cache
def epsilon_of(noise: tuple[tuple[str, object], ...], rounds: int) -> float:
    """ε of the first rounds of a stream, from its public words: the most that any pattern of taking part can move.

    C's coefficients are c_0 = 1, c_i = Σ ω θ^(i−1); δ(ε) of a Gaussian query is Balle & Wang's.
    """
    words = dict(noise)
    n, b, k, z = (words[name] for name in ("rounds", "separation", "participations", "multiplier"))
    pairs = [(words[f"theta{j}"], words[f"omega{j}"]) for j in range(2) if f"theta{j}" in words]
    c = np.array([1.0, *(sum(w * t ** (i - 1) for t, w in pairs) for i in range(1, n))])

    def moved(length: int) -> float:
        most = 0.0
        for size in range(1, k + 1):
            for when in itertools.combinations(range(length), size):
                if all(later - earlier >= b for earlier, later in itertools.pairwise(when)):
                    shifted = sum(np.concatenate((np.zeros(at), c[: length - at])) for at in when)
                    most = max(most, float(np.linalg.norm(shifted)))
        return most

    mu, delta = moved(rounds) / (moved(n) * z), words["delta"]

    def enough(guess: float) -> bool:
        first, second = float(log_ndtr(mu / 2 - guess / mu)), guess + float(log_ndtr(-mu / 2 - guess / mu))
        return math.exp(first) - math.exp(min(second, 700.0)) <= delta

    low, high = 0.0, 1000.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return low
