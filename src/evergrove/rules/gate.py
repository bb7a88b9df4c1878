"""The golden gate: may a candidate replace the incumbent? (DESIGN §5.)

In come sufficient statistics per condition of paired differences in denoising loss on the golden set, harm positive;
out goes a verdict: accept, rescale, reject, or ask for a fresh golden set. Every question must be answered with a pass
(intersection-union: no correction over conditions); each answer is a one-sided, studentised non-inferiority test.

One golden set serves many updates, so α is spent: every look (each update at each γ) tests at
``alpha / (updates_max · len(gammas))``, the same at the first look and at the last. By the union bound this holds the
family false accept at harm of the margin or more to ``alpha`` whatever the looks have in common, which on one fixed set
is much. The bound is for candidates that do not adapt to the gate: hand the trainer ``Verdict.outcome`` and
``Verdict.gamma`` only, never a bound or a mean. The gain test guards against useless updates, not against harm; it
tests at ``alpha_gain`` each time and no family claim is made for it.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal, assert_never

import msgspec

from evergrove.core import config
from evergrove.core.conditions import Code
from evergrove.core.measures import Comparison, Kind
from evergrove.rules.student import quantile

SKEW_ITEMS_MIN = 48
"""Golden items of a condition from which on the bound on harm is corrected for skew."""
NO_GAIN = "no golden picture here could show a gain"
Outcome = Literal["accept", "rescale", "reject", "refresh", "alarm"]


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Margins, in units of what a condition is worth (.15: fifteen per cent of the way to not knowing it; ADR 0005).

    ``delta`` bounds one update against the incumbent, ``cumulative`` all updates against the signed release, ``tau``
    the distance to the teacher against the release's own distance, ``own`` one update on a condition that the device
    learnt earlier, of which only few golden items exist. ``n_min`` is the least number of items that is looked at.
    """

    delta: float
    cumulative: float
    tau: float
    own: float
    alpha: float = 0.05
    alpha_gain: float = 0.05
    updates_max: int = 200
    gammas: tuple[float, ...] = (1.0, 0.9, 0.5)
    n_min: int = 4

    @classmethod
    def of(cls, gate: config.Gate) -> "Policy":
        """The policy that a device's configuration asks for."""
        return cls(
            delta=gate.delta,
            cumulative=gate.cumulative,
            tau=gate.tau,
            own=gate.own,
            alpha=gate.alpha,
            updates_max=gate.looks_max,
            n_min=gate.items_min,
        )

    @property
    def looks_max(self) -> int:
        """Looks that one golden set is good for: every update may be looked at once at each γ."""
        return self.updates_max * len(self.gammas)

    @property
    def alpha_look(self) -> float:
        """The level of every single test: ``alpha`` spread evenly over ``looks_max`` looks."""
        return self.alpha / self.looks_max

    def margin(self, question: "Question") -> float:
        """The harm that a pass rules out; 0 for a gain, which must be shown."""
        match question.kind:
            case "incumbent":
                return self.own if question.own else self.delta
            case "release":
                return self.cumulative
            case "teacher":
                return self.tau
            case "gain":
                return 0.0
            case _:
                assert_never(question.kind)


class State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one golden set has been used for. A fresh, signed set starts with ``State()`` again."""

    n_updates: int = 0
    n_looks: int = 0


class Question(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One thing that a candidate must be shown not to do (or, for a gain, to do).

    ``own`` marks a condition that the device learnt itself, whose few golden items ask for a wider margin.
    """

    kind: Kind
    condition: Code
    own: bool = False


class Failure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A question without a pass: the mean harm and the upper confidence bound on it.

    Both are None if nothing could be measured.
    """

    kind: Kind
    condition: Code
    mean: float | None
    bound: float | None
    margin: float
    why: str


class Verdict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What became of one look.

    ``gamma`` is the scale that was accepted or rejected, or, for ``rescale``, the one to measure next. ``failed`` is
    sorted worst first and stays on the device. ``sentence`` is for people.
    """

    outcome: Outcome
    gamma: float
    failed: tuple[Failure, ...]
    sentence: str


def code_words(condition: Code) -> str:
    """A condition without its names: ``7.0.0``. Views, which know the vocabulary, pass a better ``name``."""
    return ".".join(map(str, condition))


def questions(
    known: Sequence[Code], own: Sequence[Code], learnt: Sequence[Code], *, teacher: bool = True
) -> tuple[Question, ...]:
    """What a candidate must answer.

    ``known``: conditions of the release's golden set; ``own``: those that the device learnt in earlier updates;
    ``learnt``: those that this update is for, which must show a gain (one that is also in ``own`` must do both).
    """
    kinds: tuple[Kind, ...] = ("incumbent", "release", "teacher") if teacher else ("incumbent", "release")
    return (
        *(Question(kind, condition) for condition in known for kind in kinds),
        *(Question("incumbent", condition, own=True) for condition in own),
        *(Question("gain", condition) for condition in learnt),
    )


def of_release(known: Code, learnt: Sequence[Code], *, teacher: bool) -> tuple[Question, ...]:
    """What a way to run another release must answer: it may harm nothing, and need gain nothing.

    ``known`` is how many values of each factor the release's golden set answers for, ``learnt`` what the device has
    learnt, in the release's numbers; what the golden set answers for is not asked twice.
    """
    conditions = tuple((n + 1, *(0 for _ in known[1:])) for n in range(known[0]))
    own = tuple(code for code in learnt if any(n > size for n, size in zip(code, known, strict=True)))
    return questions(conditions, own, (), teacher=teacher)


def judge(
    state: State,
    policy: Policy,
    comparisons: Sequence[Comparison],
    expected: Sequence[Question],
    gamma: float,
    name: Callable[[Code], str] = code_words,
    needs_gain: bool = True,
) -> tuple[State, Verdict]:
    """One look at a candidate scaled by ``gamma`` (one of ``policy.gammas``, the largest first).

    Every question in ``expected`` needs a comparison; a missing, double, not finite or too small one is a failure, and
    so is an empty list or one without a gain: what was not measured does not pass. A candidate that fails is sent back
    at the next γ, after the last one it is rejected; what rescaling cannot mend (nothing measurable, nothing changed, a
    harm so large that even the smallest γ would leave more than the margin of it) is rejected at once.
    ``needs_gain`` is False only where nothing is to be learnt: an adapter that is merged into its base.
    """
    # 1. Is this golden set still good for a look?
    first = gamma == policy.gammas[0]
    if state.n_looks >= policy.looks_max or (first and is_spent(state, policy)):
        return state, Verdict("refresh", gamma, (), refresh_sentence(policy))
    state = State(state.n_updates + first, state.n_looks + 1)

    # 2. Answer every question.
    failed = examine(policy, comparisons, expected)
    if needs_gain and expected and not any(q.kind == "gain" for q in expected):
        failed = (Failure("gain", (), None, None, 0.0, NO_GAIN), *failed)
    if not failed:
        return state, Verdict("accept", gamma, (), _accept_sentence(expected, gamma))

    # 3. Rescale, or give up.
    after = [g for g in policy.gammas if g < gamma]
    hopeless = _unchanged(comparisons) or any(_beyond_repair(policy, f, gamma) for f in failed)
    if after and not hopeless:
        return state, Verdict("rescale", after[0], failed, "rescaled to " + f"{after[0]:g}: " + _blame(failed, name))
    if expected and _unchanged(comparisons):
        return state, Verdict("reject", gamma, failed, "rejected: the candidate changes nothing")
    return state, Verdict("reject", gamma, failed, "rejected: " + _blame(failed, name))


def is_spent(state: State, policy: Policy) -> bool:
    """Whether this golden set may judge no further update: what would be learnt now could not be judged."""
    return state.n_updates >= policy.updates_max or state.n_looks >= policy.looks_max


def recheck(
    policy: Policy,
    comparisons: Sequence[Comparison],
    expected: Sequence[Question],
    name: Callable[[Code], str] = code_words,
) -> Verdict:
    """The scheduled look without an update: the incumbent as candidate against the release; ``accept`` or ``alarm``.

    It promotes nothing, so it spends no α. On an unchanged device the same file gives the same numbers as when it was
    accepted; an alarm means that the file, the golden set or the arithmetic of this device is no longer what it was.
    """
    failed = examine(policy, comparisons, [q for q in expected if q.kind != "gain"])
    if failed:
        return Verdict("alarm", 1.0, failed, "alarm at the scheduled re-check: " + _blame(failed, name))
    return Verdict("accept", 1.0, (), "the scheduled re-check passed")


def examine(policy: Policy, comparisons: Sequence[Comparison], expected: Sequence[Question]) -> tuple[Failure, ...]:
    """Every question that is not answered with a pass, worst first (what could not be measured before all else)."""
    answers: dict[tuple[Kind, Code], list[Comparison]] = {}
    for comparison in comparisons:
        answers.setdefault((comparison.kind, comparison.condition), []).append(comparison)
    failed = [f for q in expected for f in _answer(policy, q, answers.get((q.kind, q.condition), []))]
    if not expected:
        failed = [Failure("release", (), None, None, policy.cumulative, "there was no question to answer")]
    return tuple(sorted(failed, key=lambda f: -math.inf if f.bound is None else f.margin - f.bound))


def bound_on_harm(mean: float, std: float, n: int, alpha: float, skew: float = 0.0) -> float:
    """Upper confidence bound on the mean harm at one-sided level ``alpha``.

    Student's bound mean + t(1−α; n−1)·std/√n, or, where it is larger, its correction for ``skew`` by the monotone
    cubic of Hall (1992, J. R. Stat. Soc. B 54:221). Far out in the tail this matters: harm that is concentrated in a
    few items is skewed to the right, and Student's bound at α = .05/600 then errs 11 times too often (exponential
    differences, 150 items; 1.4 times with the correction).
    """
    far = quantile(alpha, n - 1) / math.sqrt(n)
    bound = mean + far * std
    if abs(skew) < 1e-6:
        return bound
    inverse = 3 / skew * (math.cbrt(1 - skew * (far + skew / (6 * n))) - 1)
    return max(bound, mean - std * inverse)


def _answer(policy: Policy, question: Question, found: list[Comparison]) -> list[Failure]:
    """The failure of one question, or nothing."""
    margin = policy.margin(question)

    def failure(bound: float | None, why: str, mean: float | None = None) -> list[Failure]:
        return [Failure(question.kind, question.condition, mean, bound, margin, why)]

    if len(found) != 1:
        return failure(None, "not measured" if not found else f"measured {len(found)} times")
    c = found[0]
    if not (math.isfinite(c.mean) and math.isfinite(c.std) and math.isfinite(c.skew) and c.std >= 0):
        return failure(None, "not a number")
    if c.n < max(policy.n_min, 2):
        return failure(None, f"only {c.n} golden items, {max(policy.n_min, 2)} needed")
    gain = question.kind == "gain"
    # Of a device's own few items the skew is not known well enough to correct by, and no error rate is promised there.
    skew = 0.0 if gain or c.n < SKEW_ITEMS_MIN else c.skew
    bound = bound_on_harm(c.mean, c.std, c.n, policy.alpha_gain if gain else policy.alpha_look, skew)
    if gain:
        return [] if bound < 0 else failure(bound, "no gain shown", c.mean)
    return [] if bound <= margin else failure(bound, "lost" if c.mean > margin else "not shown to be kept", c.mean)


def _beyond_repair(policy: Policy, failure: Failure, gamma: float) -> bool:
    """Whether no smaller γ is worth a look: harm on what the base knows falls with γ² (ADR 0031)."""
    if failure.mean is None:
        return True
    return failure.kind != "gain" and failure.mean * (policy.gammas[-1] / gamma) ** 2 > failure.margin


def _unchanged(comparisons: Sequence[Comparison]) -> bool:
    """Whether the candidate gives the incumbent's very numbers: a no-op, which no scale makes useful."""
    against = [c for c in comparisons if c.kind in ("incumbent", "gain")]
    return bool(against) and all(c.mean == 0 and c.std == 0 for c in against)


def _blame(failed: Sequence[Failure], name: Callable[[Code], str]) -> str:
    """The failures in words: each condition once, under the worst that can be said of it."""
    reasons: dict[str, list[str]] = {}
    named: set[Code] = set()
    for f in failed:
        if f.condition not in named:
            named.add(f.condition)
            reasons.setdefault(f.why, []).append(name(f.condition))
    return "; ".join(
        f"{why}: {', '.join(c for c in conditions if c)}".rstrip(": ") for why, conditions in reasons.items()
    )


def _accept_sentence(expected: Sequence[Question], gamma: float) -> str:
    harm = sum(q.kind != "gain" for q in expected)
    gain = len(expected) - harm
    scale = "" if gamma == 1 else f" at scale {gamma:g}"
    return f"accepted{scale}: {harm} questions about harm passed, gain shown on {gain} conditions"


def refresh_sentence(policy: Policy) -> str:
    """Why a golden set that is spent judges nothing more, and the way out."""
    return (
        f"not looked at: this golden set has served its {policy.updates_max} updates and more would break its "
        "error bound; install a release with a fresh golden set"
    )
