"""When a stage of a rollout is passed, and when the whole is stopped (DESIGN §8).

``judge`` states the rule, ``due`` gives the fact that it asks for next. For a stage that adds m devices, of which n
have an outcome and e of these failed:

1. *stop*, for any stage so far, when e > share·m (the share is past whatever else comes), or when the lower bound on
   the error rate is above the share;
2. *pass* when n ≥ reports_min (or all m) and the upper bound is below the share even if all that are still on
   probation had failed (a dead device does not report, so the first to report are not the typical ones); or when the
   share would hold even if all that are silent had failed, e + (m − n) ≤ share·m, which is what small stages pass by;
3. *time-out*: then those that took the release and never came back count as failures for the lower bound; if that does
   not stop the rollout, it pauses for a person.

The bounds are beta-binomial mixture martingales (Robbins 1970; Howard et al. 2021, arXiv 1810.08240): valid at every
look at once, so the rule may be asked after each report. A release whose error rate is the share or more passes a stage
on its upper bound with probability of at most ``alpha``.
"""

import math
from typing import Literal, assert_never

import msgspec

from evergrove.core import cloud_events as ev
from evergrove.core.rollout import Policy, Stage
from evergrove.rules.rollout import State, Tally

Outcome = Literal["wait", "advance", "complete", "stop", "time-out"]

UPPER_PRIOR, LOWER_PRIOR = (1.0, 100.0), (1.0, 3.0)
"""Beta priors of the two mixtures: what is expected decides how soon a bound gets tight, never whether it holds."""


class Verdict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the rule says, and why, for people."""

    outcome: Outcome
    sentence: str


def due(state: State, now_s: float) -> ev.RolloutEvent | None:
    """The fact that the rule asks for now; None while it waits. Ask again after it was applied."""
    verdict = judge(state, now_s)
    match verdict.outcome:
        case "wait":
            return None
        case "stop":
            return ev.RolloutStopped(state.rollout, verdict.sentence)
        case "time-out":
            return ev.RolloutPaused(state.rollout, "time-out", verdict.sentence)
        case "advance":
            return ev.StageEntered(state.rollout, state.stage + 1, verdict.sentence)
        case "complete":
            return ev.RolloutCompleted(state.rollout, verdict.sentence)
        case _:
            assert_never(verdict.outcome)


def judge(state: State, now_s: float) -> Verdict:
    """Wait, advance, complete, stop, or time out: the rule at the head of this module."""
    if state.status not in ("running", "paused"):
        return Verdict("wait", state.sentence)
    policy, stage, tally = state.policy, state.stages[state.stage], state.tallies[state.stage]
    # 1. What speaks against the release, in every stage so far, also while it is paused.
    for one, said in zip(state.stages[: state.stage + 1], state.tallies, strict=False):
        why = _past_the_share(policy, one, said)
        if why:
            return Verdict("stop", why)
    if state.status == "paused":
        return Verdict("wait", state.sentence)
    # 2. What speaks for it.
    last = state.stage == len(state.stages) - 1
    why = _within_the_share(policy, stage, tally)
    if why:
        return Verdict("complete" if last else "advance", why)
    # 3. Time.
    longest_s = limit_s(policy, stage)
    if state.spent_s + max(now_s - state.since_s, 0.0) < longest_s:
        return Verdict("wait", f"{stage.name}: {_words(tally, stage)}")
    silent = msgspec.structs.replace(tally, bad=tally.bad + tally.pending, pending=0)
    low, _ = bounds(silent.bad, silent.settled, policy.alpha)
    if low > _share(policy):
        return Verdict("stop", f"{stage.name}: {tally.pending} took it and never came back; {_words(tally, stage)}")
    return Verdict("time-out", f"{stage.name}: no verdict after {longest_s:g} s; {_words(tally, stage)}")


def limit_s(policy: Policy, stage: Stage) -> float:
    """How long a stage may take, in seconds."""
    return policy.stage_s if stage.serves or policy.shadow_s is None else policy.shadow_s


def _past_the_share(policy: Policy, stage: Stage, tally: Tally) -> str:
    share, members = _share(policy), max(stage.members, tally.settled)
    low, _ = bounds(tally.bad, tally.settled, policy.alpha)
    if low > share:
        return f"{stage.name}: {_words(tally, stage)}: the error rate is above {low:.1%}, {share:.1%} is allowed"
    # Turned bits say nothing certain about a share, so that part of the rule needs exact reports.
    if not policy.flip and tally.bad > share * members:
        return f"{stage.name}: {_words(tally, stage)}: more than {share:.1%} of the stage"
    return ""


def _within_the_share(policy: Policy, stage: Stage, tally: Tally) -> str:
    share, members = _share(policy), max(stage.members, tally.settled)
    if tally.settled < min(policy.reports_min, members):
        return ""
    _, high = bounds(tally.bad + tally.pending, tally.settled + tally.pending, policy.alpha)
    if high < share:
        return f"{stage.name}: {_words(tally, stage)}: the error rate is below {high:.1%}"
    if not policy.flip and tally.settled and tally.bad + members - tally.settled <= share * members:
        return f"{stage.name}: {_words(tally, stage)}"
    return ""


def _share(policy: Policy) -> float:
    """The share of bad *reports* that a share of bad devices gives where bits are turned round."""
    return policy.flip + (1 - 2 * policy.flip) * policy.errors_share


def _words(tally: Tally, stage: Stage) -> str:
    on_probation = f", {tally.pending} on probation" if tally.pending else ""
    of = max(stage.members, tally.settled)
    return f"{tally.bad} failed, {tally.good} good{on_probation}, of {of}"


def bounds(errors: int, n: int, alpha: float) -> tuple[float, float]:
    """One-sided 1 − ``alpha`` bounds on an error rate, below and above, after ``errors`` in ``n`` reports.

    Each holds at all n at once with probability 1 − ``alpha`` or more (Ville's inequality on the mixture likelihood
    ratio). ``(0, 1)`` before the first report.
    """
    if not 0 <= errors <= n:
        raise ValueError(f"{errors} errors in {n} reports")
    if n == 0:
        return 0.0, 1.0
    need, rate = -math.log(alpha), errors / n
    low = _cross(errors, n, LOWER_PRIOR, need, 0.0, rate) if errors else 0.0
    high = _cross(errors, n, UPPER_PRIOR, need, 1.0, rate) if errors < n else 1.0
    return low, high


def _cross(errors: int, n: int, prior: tuple[float, float], need: float, outside: float, inside: float) -> float:
    """The rate between ``outside`` (ruled out) and ``inside`` (the observed rate) where the evidence falls to need."""
    a, b = prior
    mixture = _log_beta(a + errors, b + n - errors) - _log_beta(a, b)

    def evidence(rate: float) -> float:
        if not 0 < rate < 1:  # the middle of two neighbouring floats
            return math.inf
        return mixture - errors * math.log(rate) - (n - errors) * math.log1p(-rate)

    for _ in range(60):
        at = (outside + inside) / 2
        if evidence(at) >= need:
            outside = at
        else:
            inside = at
    return outside


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def turned(bad: bool, flip: float, chance: float) -> bool:
    """A device's health bit under randomised response: turned round with probability ``flip``; ``chance`` in [0, 1)."""
    return bad != (chance < flip)


def epsilon(flip: float) -> float:
    """What one health bit costs: ln((1 − flip) / flip); infinite for exact ones."""
    return math.log((1 - flip) / flip) if flip > 0 else math.inf
