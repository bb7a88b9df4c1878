"""A fog of a simulated grove: the production service, store, noise and follower, in a process that can be killed.

What the web service does around them is here in virtual time: updates come in as frames, cohorts are summed a little
later than they close, and the clock is looked at now and then.
"""

from collections.abc import Callable
from pathlib import Path

from evergrove.adapters.flower import loopback
from evergrove.adapters.flower.port import Answer, Question
from evergrove.adapters.fog_store import FogStore
from evergrove.core import fog, transport
from evergrove.core.errors import InvalidInput, UpdateRefused
from evergrove.core.fog import Receipt
from evergrove.core.release import sha256_hex
from evergrove.core.rollout import DeviceReport
from evergrove.core.sections import Gathering
from evergrove.core.sums import NoisedSum
from evergrove.core.transport import LENGTH_BYTES, Update
from evergrove.runtime.fog_noise import FogNoise
from evergrove.runtime.fog_service import FogService
from evergrove.runtime.following import Follower, client_of
from evergrove.sim.engine import Engine
from evergrove.sim.grove.process import Process
from evergrove.sim.grove.witness import Witness

HEAD = "metadata/timestamp.json"
SUM_S = 2.0
"""From the close of a cohort until its sum is made."""


class FogProcess(Process):
    """One fog with its ``members``, which follows the repository in a folder."""

    kind = "fog"

    def __init__(
        self, engine: Engine, name: str, down_s: float, folder: Path, repository: Path, root: Path,
        gathering: Gathering, noise: Callable[[str], FogNoise], now_s: Callable[[], float], look_s: float,
        witness: Witness,
    ) -> None:  # fmt: skip
        """``root`` is the file of the signed root that it believes releases by, ``noise`` makes its noise anew."""
        super().__init__(engine, name, down_s)
        self.folder, self._repository, self._root = folder, repository, root
        self._gathering, self._noise, self._now_s, self._look_s = gathering, noise, now_s, look_s
        self._witness = witness
        self.members: list[str] = []
        self.service: FogService
        self.store: FogStore

    def _open(self) -> None:
        self.store = FogStore(self.folder / "fog", files=self.files)
        self.service = FogService(self.name, self.store, self._now_s, self._noise(self.name))
        self.service.start()
        for member in self.members:
            self.service.feed(fog.DeviceEnrolled(member))
        client = client_of(self.folder / "releases", self._repository, self._root, self.files, self._now_s)
        self._follower = Follower(self.service, self._repository, self._gathering, client)
        self._witness.stands(self.name)
        self._look()
        self.every(self._look_s, self._look)

    def _close(self) -> None:
        if hasattr(self, "store"):
            self.store.close()

    def _look(self) -> None:
        self._follower.look(self.tag)
        self.service.tick()
        self._mind_work()

    def _mind_work(self) -> None:
        if self.service.busy:
            self.later(SUM_S, self.service.work)

    # ---- for devices -------------------------------------------------------------------------------------------------

    @property
    def tag(self) -> str:
        """The newest releases' tag, as ``web/news`` gives it."""
        try:
            return sha256_hex((self._repository / HEAD).read_bytes())
        except FileNotFoundError:
            return ""

    def terms(self) -> fog.Terms:
        """What a device is told before it takes part. Raises ``UpdateRefused``."""
        terms = self.service.terms()
        if terms is None:
            raise UpdateRefused("closed", "this fog gathers no updates now")
        return terms

    def take(self, device: str, frame: bytes) -> Receipt:
        """A whole update: offered by its head, stored, measured, decided. Raises ``UpdateRefused``."""
        n_head = int.from_bytes(frame[:LENGTH_BYTES], "little")
        head = transport.decode(frame[LENGTH_BYTES : LENGTH_BYTES + n_head])
        if not isinstance(head, Update):
            raise InvalidInput(f"a {head.category} was sent to where updates are taken")
        if self.service.offer(device, head):
            upload = self.store.bodies.begin(head.digest, head.n_bytes)
            upload.write(frame[LENGTH_BYTES + n_head :])
            measured, name = self.service.measure(device, head, upload)
            (answer,) = self.service.decide([(measured, name)])
        else:
            (answer,) = self.service.decide([(fog.UpdateOffered(device, head), "")])
        self._mind_work()
        if isinstance(answer, UpdateRefused):
            raise answer
        return answer

    def hear(self, device: str, report: transport.Report) -> None:
        """A device's word on a rollout."""
        self.store.reports.add(device, report.rollout, report.mark, report.shadow)

    # ---- for the cloud -----------------------------------------------------------------------------------------------

    def answer(self, question: Question) -> Answer:
        """As the ClientApp beside it answers."""
        return loopback.answer(question, _Door(self), self.name, lambda: self.engine.now_s, _never)


class _Door:
    """The fog's own door without HTTP."""

    def __init__(self, process: FogProcess) -> None:
        self._process = process

    def cohorts(self, after: str) -> list[NoisedSum]:
        return self._process.service.sums(after)

    def reports(self, after: int) -> list[DeviceReport]:
        return self._process.store.reports.after(after)

    def acknowledge(self, id: str) -> None:
        self._process.service.acknowledge(id)


def _never(seconds: float) -> None:
    raise AssertionError("in virtual time nobody waits at a door: ask with wait_s = 0")
