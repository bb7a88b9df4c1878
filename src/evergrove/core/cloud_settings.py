"""The settings of a cloud, from ``cloud.toml`` in its folder: what it takes, when it consolidates, by which rule.

Every limit with its unit in its name and its range in its type, as in ``core/sections``; unknown keys are refused and
the nearest named. The file may be missing: then these are the defaults.
"""

import math
import tomllib
from typing import Any, get_type_hints

import msgspec

from evergrove.core.config import check_keys
from evergrove.core.errors import ConfigError
from evergrove.core.rollout import Policy
from evergrove.core.sections import NATURAL, Count, Positive, Range, Section, Share

OPTIMISERS = ("fedavg", "fedavgm", "fedadam")
RULES = ("mean", "trimmed mean", "median")


class Gather(Section, frozen=True):
    """What the cloud's own copy of the fogs' plan says; a sum of another plan is refused, whatever it says of itself.

    So no fog can give its sum more weight, or hide a larger one behind noise that it claims.
    """

    cohort: Count = 100
    """K, the fixed denominator of every cohort: the fogs' ``cohort``."""
    clip: Positive = 1.0
    """C, to which every update is clipped: the fogs' ``clip``. A generation that is signed with a clip has that one."""
    quantile: Share = 0.5
    """γ, the part of updates that is to lie below the next generation's clip, by the fogs' private counts of norms."""
    epsilon: float = 0.0
    """The fogs' ε of a generation: a sum without noise, or with a plan for another ε, is refused. 0: any is taken."""
    delta: float = 1e-6
    """The largest δ of that ε."""

    def signed(self, clip: float | None) -> "Gather":
        """As it holds for a generation whose releases are signed with ``clip`` (None: with none)."""
        return self if clip is None else msgspec.structs.replace(self, clip=clip)


class Consolidation(Section, frozen=True):
    """When sums become a candidate, and how."""

    cohorts: Count = 8
    """Cohorts that are enough."""
    cohorts_min: Count = 1
    """Enough once ``wait_s`` have passed since the first of them."""
    wait_s: Positive = 86_400.0
    optimiser: str = "fedavg"
    """fedavg, fedavgm or fedadam (Reddi et al. 2021)."""
    rate: Positive = 1.0
    momentum: Share = 0.9
    second: Share = 0.99
    """β₂ of fedadam."""
    adaptivity: Positive = 1e-3
    """τ of fedadam."""
    rule: str = "mean"
    """Across fogs: mean, trimmed mean or median. Fewer than five sound fogs are always averaged."""
    trim: Share = 0.2
    fisher_precision: float = 0.0
    """π of the Fisher-weighted merge (``rules/consolidate.fisher_merge``); 0: the step as it is."""
    fisher_samples: Count = 128
    reconcile_steps: int = 400
    """Steps by which the cloud reconciles what was gathered with what the base knew (ADR 0030); 0: none."""
    reconcile_lr: Positive = 4e-3


class FleetGate(Section, frozen=True):
    """Margins of the fleet's golden gate, in units of what a condition is worth (ADR 0005)."""

    delta: Positive = 0.15
    """Harm of a candidate on what the base knows, against the release before."""
    cumulative: Positive = 0.30
    """The same against the first release of the generation."""
    tau: Positive = 0.20
    """How much further from the teacher than the first release of the generation."""
    own: Positive = 0.25
    """Harm on a condition that the fleet learns, against the release before."""
    items_min: Count = 4
    alpha: Share = 0.05
    candidates_max: Count = 50
    """Candidates that one golden set may judge; α is spread over them."""
    needs_gain: bool = True
    """Whether a candidate must be better on what the fleet learns (needs a golden set of it); else only not worse."""
    probes: Count = 64
    """Combinations of conditions that are looked at for triggers."""
    probe_max: Positive = 1.0
    """How far a combination's pictures may move, over what its conditions' pictures moved: more is a trigger."""


class Stages(Section, frozen=True):
    """The rule of the rollouts that the cloud starts (``core/rollout.Policy``)."""

    percents: tuple[float, ...] = (5.0, 25.0, 100.0)
    shadow: float = 5.0
    errors_share: Share = 0.05
    alpha: Share = 0.05
    reports_min: Count = 10
    stage_s: Positive = 172_800.0
    shadow_s: float = 0.0
    """0: the same as ``stage_s``."""
    flip: Share = 0.0

    def policy(self) -> Policy:
        """As the rule reads it."""
        shadow_s = self.shadow_s or None
        return Policy(
            self.percents, self.shadow, self.errors_share, self.alpha, self.reports_min, self.stage_s, shadow_s,
            self.flip,
        )  # fmt: skip


class Work(Section, frozen=True):
    """Bounds of the cloud's jobs and of its loop."""

    attempts_max: Count = 3
    compute_s: Positive = 3600.0
    measure_s: Positive = 3600.0
    threads: Count = 1
    tick_s: Positive = 1.0
    rehearse_each: int = 24
    """Pictures of each value that the fleet learns, drawn by the candidate for its rehearsal pack; 0: none."""
    basis_tasks: Count = 40
    """Pseudo-tasks that the next generation's A is learnt on, ``basis_steps`` each."""
    basis_steps: Count = 60


class CloudSettings(Section, frozen=True):
    """The whole of ``cloud.toml``."""

    gather: Gather = Gather()
    consolidate: Consolidation = Consolidation()
    gate: FleetGate = FleetGate()
    rollout: Stages = Stages()
    work: Work = Work()


def load(text: str = "", where: str = "cloud.toml") -> CloudSettings:
    """The settings in some TOML. Raises ``ConfigError`` that names the key, and the nearest right one or its range."""
    try:
        tree: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as fault:
        raise ConfigError(f"{where}: not valid TOML: {fault}") from fault
    check_keys(tree, CloudSettings, where)
    try:
        settings = msgspec.convert(tree, CloudSettings)
    except msgspec.ValidationError as fault:
        raise ConfigError(f"{where}: {fault}") from fault
    for name in settings.__struct_fields__:
        _check(getattr(settings, name), name, where)
    plan = settings.consolidate
    for key, value, allowed in (("optimiser", plan.optimiser, OPTIMISERS), ("rule", plan.rule, RULES)):
        if value not in allowed:
            raise ConfigError(f"{where}: consolidate.{key} = '{value}', must be one of: {', '.join(allowed)}")
    if not plan.cohorts_min <= plan.cohorts:
        raise ConfigError(
            f"{where}: consolidate.cohorts_min = {plan.cohorts_min} is more than cohorts = {plan.cohorts}"
        )
    if not 0 < settings.gather.quantile < 1:
        raise ConfigError(f"{where}: gather.quantile = {settings.gather.quantile:g}, must be above 0 and below 1")
    return settings


def _check(section: Section, name: str, where: str) -> None:
    for key, kind in get_type_hints(type(section), include_extras=True).items():
        value = getattr(section, key)
        if isinstance(value, bool | str | tuple):
            continue
        allowed = next((said for said in getattr(kind, "__metadata__", ()) if isinstance(said, Range)), NATURAL)
        if not allowed.holds(value) or not math.isfinite(value):
            raise ConfigError(f"{where}: {name}.{key} = {value}, must be {allowed.words}")
