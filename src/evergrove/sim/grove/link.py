"""The link between fogs and cloud: a SuperLink that keeps messages, in place of Flower's, and the collector beside it.

The collector, its checkpoint and its inbox are production's; only what carries the messages is a model: a question
or an answer may be lost, come twice, late, or be cut off while it is pulled, and the SuperLink can be killed, which
loses what it had not written and often the run with it (as seen in real ones, ``tests/grove``).
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from evergrove.adapters.flower.checkpoint import CheckpointFile
from evergrove.adapters.flower.collector import Collector, Settings
from evergrove.adapters.flower.inbox import NAME, Inbox
from evergrove.adapters.flower.port import Answer, Failed, Question, Reply
from evergrove.core.errors import EvergroveError, Unreachable
from evergrove.sim.engine import Courier, Engine
from evergrove.sim.grove.fog import FogProcess
from evergrove.sim.grove.process import Down, Process
from evergrove.sim.grove.witness import Witness

ASKING = Settings(wait_s=0.0, ttl_s=7200.0, patience_s=900.0, rest_s=60.0, rest_s_max=900.0)
FAILURES_MAX = 5
"""Steps in a row that may fail, as in ``adapters/flower/server_app``."""
CUT_OFF_SHARE = 0.25
"""Part of the answers on a bad link that are lost while they are pulled, in parts of the drops."""


class SuperLink(Process):
    """Carries questions and answers: ``adapters.flower.port.Fogs``. It knows fogs by the names of their keys."""

    kind = "superlink"

    def __init__(
        self, engine: Engine, down_s: float, fogs: Mapping[str, FogProcess], courier: Courier,
        rng: np.random.Generator, witness: Witness,
    ) -> None:  # fmt: skip
        super().__init__(engine, "superlink", down_s)
        self._fogs, self._courier, self._rng, self._witness = fogs, courier, rng, witness
        self._kept: dict[str, Reply] = {}
        self._pulled: set[str] = set()
        self._n_asked = 0
        self.calm = False

    def _open(self) -> None:
        pass

    def _close(self) -> None:
        kept = self._rng.random(len(self._kept)) < 0.5
        self._kept = {name: reply for (name, reply), is_kept in zip(self._kept.items(), kept, strict=True) if is_kept}

    # ---- the cloud's side --------------------------------------------------------------------------------------------

    def online(self) -> Sequence[str]:
        """The fogs that are up."""
        self._need()
        return [name for name, fog in self._fogs.items() if fog.up]

    def ask(self, fog: str, question: Question, ttl_s: float) -> str:
        """Sends a question, as bytes."""
        self._need()
        self._n_asked += 1
        name, data = f"q{self._n_asked}", msgspec.msgpack.encode(question)
        self._courier.send(lambda: self._deliver(name, fog, data))
        return name

    def replies(self, asked: Collection[str]) -> Sequence[Reply]:
        """What has come back; now and then an answer is lost over it."""
        self._need()
        found = [self._kept.pop(name) for name in sorted(asked) if name in self._kept]
        self._pulled.update(reply.asked for reply in found)
        cut_off = 0.0 if self.calm else CUT_OFF_SHARE
        return [reply for reply in found if float(self._rng.random()) >= cut_off]

    def _need(self) -> None:
        if not self.up:
            raise Unreachable("the SuperLink does not answer")

    # ---- the fogs' side ----------------------------------------------------------------------------------------------

    def _deliver(self, name: str, fog: str, data: bytes) -> None:
        if not self.up:
            return
        process, question = self._fogs[fog], msgspec.msgpack.decode(data, type=Question)
        try:
            answer = process.run(lambda: process.answer(question))
            self._witness.left(fog, answer)
            sent = msgspec.msgpack.encode(answer)
        except Down:
            return  # its SuperNode is gone with it: silence
        except EvergroveError as fault:
            failed = Reply(name, fog, Failed(str(fault)))
            self._courier.send(lambda: self._arrive(failed))
            return
        self._courier.send(lambda: self._arrive(Reply(name, fog, msgspec.msgpack.decode(sent, type=Answer))))

    def _arrive(self, reply: Reply) -> None:
        if self.up and reply.asked not in self._pulled:
            self._kept[reply.asked] = reply


class CollectorProcess(Process):
    """The ServerApp: collects into the inbox in ``folder``, step by step."""

    kind = "cloud"

    def __init__(self, engine: Engine, down_s: float, folder: Path, link: SuperLink, poll_s: float) -> None:
        super().__init__(engine, "collector", down_s)
        self._folder, self._link, self._poll_s = folder, link, poll_s
        self._checkpoint: CheckpointFile | None = None
        self._inbox: Inbox | None = None
        self._failures = 0

    def _open(self) -> None:
        self._failures = 0
        self._checkpoint = CheckpointFile(self._folder, self.files)
        self._checkpoint.acquire()
        self._inbox = Inbox(self._folder / NAME, self.files)
        collector = Collector(self._link, self._inbox, self._checkpoint, ASKING, lambda: self.engine.now_s)
        self.every(self._poll_s, lambda: self._step(collector))

    def _close(self) -> None:
        if self._inbox is not None:
            self._inbox.close()
        if self._checkpoint is not None:
            self._checkpoint.release()
        self._inbox = self._checkpoint = None

    def _step(self, collector: Collector) -> None:
        try:
            collector.step()
            self._failures = 0
        except Unreachable:
            self._failures += 1
            if self._failures == FAILURES_MAX:
                self.restart()

    def restart(self) -> None:
        """The run ends by itself, or with its SuperLink; another one is begun."""
        self.end()
        self.engine.after(self._down_s, self.boot)
