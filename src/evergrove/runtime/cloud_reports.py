"""What devices say of releases, from the inbox into the rollout: each word once, and only where it changes it."""

from evergrove.adapters.flower.inbox import Inbox
from evergrove.core import cloud_events as ev
from evergrove.rules import rollout
from evergrove.runtime.rollouts import Rollouts

AT_ONCE = 1000


def take(rollouts: Rollouts, inbox: Inbox, now_s: float) -> int:
    """Counts what waits, at most ``AT_ONCE`` words, and gives how many. Logged first; counted again, nothing changes.

    A word on another rollout than the latest, or on one that counts none, only tells that the device is there.
    """
    waiting = inbox.reports(AT_ONCE)
    for _, one in waiting:
        fact = ev.ReleaseReported(one.rollout, one.device, one.mark, one.shadow)
        if (
            rollout.refusal(rollouts.state, fact) is None
            and rollout.apply(rollouts.state, fact, now_s) is not rollouts.state
        ):
            rollouts.feed(fact, now_s)
    if waiting:
        inbox.reported(waiting)
    return len(waiting)
