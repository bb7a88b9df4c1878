"""A rollout as people see it: its stages with their counts, and what the stage has left of its time."""

from evergrove.core import cloud_events as ev
from evergrove.core.rollout import Policy, place
from evergrove.rules import rollout_health as health
from evergrove.rules.rollout import State, apply, plan
from evergrove.views import rollout as views

FLEET = [f"device-{i:02d}" for i in range(40)]
POLICY = Policy(shadow=0.0)


def test_before_anything_has_begun() -> None:
    """No stage, no release, no time."""
    found = views.of(State(), 0.0)
    assert (found.stages, found.left_s, found.good_release, found.good_version) == ((), None, "", 0)


def test_stages_pass_with_what_devices_say() -> None:
    """Forty devices: 5 % are two, 25 % are ten in all; both of the first are content, so the second is under way."""
    state = apply(State(), ev.RolloutStarted("r1", "hash", 1, plan(POLICY, "r1", FLEET), POLICY), 0.0)
    found = views.of(state, 60.0)
    assert [(s.name, s.progress, s.members, s.share) for s in found.stages[:2]] == [
        ("5 %", "under way", 2, found.stages[0].share), ("25 %", "to come", 8, found.stages[1].share),
    ]  # fmt: skip
    assert found.stages[0].share < found.stages[1].share < found.stages[2].share == 1.0
    assert (found.status, found.version, found.release) == ("running", 1, "hash")
    assert found.left_s == health.limit_s(POLICY, state.stages[0]) - 60.0
    first = [d for d in FLEET if place("r1", d) < state.stages[0].reach]
    for mark, device in zip(("confirmed", "rejected"), first, strict=True):
        state = apply(state, ev.ReleaseReported("r1", device, mark, False), 1.0)  # type: ignore[arg-type]
    tally = views.of(state, 60.0).stages[0]
    assert (tally.good, tally.bad, tally.on_probation) == (1, 1, 0)
    assert 0 < tally.error_rate[0] < 0.5 < tally.error_rate[1] < 1
    assert views.of(state, 1e9).left_s == 0.0
