"""What a virtual device asks of a fog, over a channel that may lose, double and delay: requests, answers, giving up."""

from collections.abc import Callable

from evergrove.core import effects as do
from evergrove.core import events as ev
from evergrove.core.jobs import Failed, Trained
from evergrove.sim.disk import Disk
from evergrove.sim.engine import Action, Engine
from evergrove.sim.parts import Parts

ASK_BYTES = 200
"""A request for an assist: a release's hash and headers."""
UPDATE_BYTES = 250_000
PEER = "fog"


class Errands:
    """Requests under way. ``asked`` says by job what is waited for: assisted, trusted, or a worker's outcome."""

    def __init__(
        self, engine: Engine, parts: Parts, here: Callable[[Action], Action], feed: Callable[[ev.Event], None]
    ) -> None:
        """``here`` ties an action to the device's present life, ``feed`` takes the answers."""
        self.asked: dict[str, str] = {}
        self._sharing = 0  # which attempt is on its way; 0: none
        self._n_shared = 0
        self._engine, self._parts, self._here, self._feed = engine, parts, here, feed

    def fetch(self, order: do.FetchAssist, linked: bool) -> list[ev.Event]:
        """Asks for an assist; the answer is as large as the scenario says."""
        gateway, fog = self._parts.gateway, self._parts.fog
        if gateway is None or not linked:
            return [self._unreachable(order.job, "assisted")]
        answer = ev.AssistReceived(order.job, f"assist-of-{order.release}", fog.assist_bytes)
        carry_s = fog.assist_bytes / self._parts.fleet.network.bytes_per_s
        self._ask(order.job, "assisted", lambda: gateway.assist(order.release), lambda: answer, carry_s)
        return [ev.BytesSent("assist request", ASK_BYTES, PEER)]

    def hand_over(self, order: do.SendTrusted, linked: bool) -> list[ev.Event]:
        """Sends observations and the adapter to the owner's fog, which trains in its own time."""
        gateway, fog, mind = self._parts.gateway, self._parts.fog, self._parts.mind
        if gateway is None or not linked:
            return [self._unreachable(order.job, "trusted")]
        n_bytes = fog.record_bytes * len(order.fresh) + self._parts.fleet.trainer.candidate_bytes
        carry_s = n_bytes / self._parts.fleet.network.bytes_per_s

        def answer() -> ev.Event:
            outcome = mind.trainer.train(order)
            if isinstance(outcome, Failed):
                return ev.OffloadFailed(order.job, "trusted", outcome.reason)
            return finished(order.job, outcome)

        self._ask(order.job, "trusted", lambda: gateway.work(order.steps * fog.step_s), answer, carry_s)
        return [ev.BytesSent("observations and adapter", n_bytes, PEER)]

    def share(self, order: do.ShareLearnt, disk: Disk, linked: bool) -> list[ev.Event]:
        """Sends an update by way of the outbox; one that waits there goes first, under the token that it has."""
        gateway = self._parts.gateway
        if gateway is None or not linked:
            return [
                ev.UpdateDelayed(order.version, disk.update, "there is no fog" if gateway is None else "no network")
            ]
        if disk.fate is not None and disk.fate[0] != order.heard:
            return [ev.UpdateCounted(order.version, disk.fate[0], 1, disk.fate[1])]
        if not disk.update:
            disk.n_updates += 1
            disk.update = f"u{disk.n_updates:04d}"
        token, self._n_shared = disk.update, self._n_shared + 1
        self._sharing = attempt = self._n_shared

        def answer(number: int) -> None:
            if self._sharing == attempt:
                self._sharing, disk.update, disk.fate = 0, "", (token, number)
                self._feed(ev.UpdateCounted(order.version, token, 1, number))

        def arrive() -> None:
            number = gateway.update(self._parts.name, token)
            if number is not None:
                self._parts.to_fog.send(self._here(lambda: answer(number)))

        def give_up() -> None:
            if self._sharing == attempt:
                self._sharing = 0
                self._feed(ev.UpdateDelayed(order.version, token, f"no answer within {wait_s:g} s"))

        wait_s = self._parts.fog.timeout_s
        self._parts.to_fog.send(arrive, UPDATE_BYTES / self._parts.fleet.network.bytes_per_s)
        self._engine.after(wait_s, self._here(give_up))
        return [ev.BytesSent("update", UPDATE_BYTES, PEER)]

    def forget(self) -> None:
        """The power has failed: nobody waits for anything any more."""
        self.asked.clear()
        self._sharing = 0

    def withdraw(self, disk: Disk) -> None:
        """Something is to be forgotten: what waits is deleted, and an answer that still comes means nothing."""
        self._sharing, disk.update, disk.fate = 0, "", None

    def hear(self, job: str, fact: ev.Event) -> None:
        """An answer, or a worker's outcome, is here."""
        self.asked.pop(job, None)
        self._feed(fact)

    def _unreachable(self, job: str, choice: str) -> ev.OffloadFailed:
        return ev.OffloadFailed(job, choice, "there is no fog" if self._parts.gateway is None else "no network")

    def _ask(
        self, job: str, choice: str, ask: Callable[[], float | None], answer: Callable[[], ev.Event], carry_s: float
    ) -> None:
        """A request there, an answer back, both over the channel; whoever hears nothing gives up after a time."""
        self.asked[job] = choice
        back = self._here(lambda: self.hear(job, answer()))

        def arrive() -> None:
            takes_s = ask()
            if takes_s is not None:
                self._parts.to_fog.send(back, takes_s + carry_s)

        def give_up() -> None:
            if self.asked.get(job) == choice:
                self.hear(job, ev.OffloadFailed(job, choice, f"no answer within {wait_s:g} s"))

        wait_s = self._parts.fog.timeout_s
        self._parts.to_fog.send(arrive)
        self._engine.after(wait_s + carry_s, self._here(give_up))


def finished(job: str, outcome: Trained) -> ev.TrainingFinished:
    """A training that came to its end, as the log has it."""
    return ev.TrainingFinished(job, outcome.candidate, outcome.steps, outcome.seconds, outcome.loss, outcome.n_bytes)
