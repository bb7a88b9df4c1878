"""What a virtual device asks of a fog, over a channel that may lose, double and delay: requests, answers, giving up."""

from collections.abc import Callable

from evergrove.core import effects as do
from evergrove.core import events as ev
from evergrove.core.jobs import Failed, Trained
from evergrove.sim.engine import Action, Engine
from evergrove.sim.parts import Parts

ASK_BYTES = 200
"""A request for an assist: a release's hash and headers."""
PEER = "fog"


class Errands:
    """Requests under way. ``asked`` says by job what is waited for: assisted, trusted, or a worker's outcome."""

    def __init__(
        self, engine: Engine, parts: Parts, here: Callable[[Action], Action], feed: Callable[[ev.Event], None]
    ) -> None:
        """``here`` ties an action to the device's present life, ``feed`` takes the answers."""
        self.asked: dict[str, str] = {}
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
