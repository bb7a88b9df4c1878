"""The published rivals, each with its paper, and ours beside them: what ``evergrove bench forgetting`` races.

Each is the adapter recipe of DESIGN §4 with one thing done as its paper does it, so that what differs is the method:
base, pictures, steps and bytes are the same for all. Rates, shares and weights are the best of eight trials each, on
a stream that no test uses (``bench/forgetting/tuning``, docs/adr/0023).
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from evergrove.core.errors import UsageError
from evergrove.learn.branches import BRANCHES
from evergrove.learn.objective import Anchor, Weights
from evergrove.learn.rivals import elastic, generative, sequence
from evergrove.learn.rivals.sequence import Carried, Rival
from evergrove.learn.strategies import (
    EVERGROVE,
    FULL,
    LORA,
    NAIVE,
    REPLAY,
    Memory,
    Shares,
    Strategy,
    Task,
    draw_rows,
    init_adapter,
    remember_old,
)

__all__ = ["ABLATIONS", "RIVALS", "Carried", "Rival", "rival_named"]

GENERATED = 4 * generative.N_PICTURES
DISTILLED = (2 + 2) * generative.N_PICTURES
FISHER = 3 * sequence.N_FISHER


def remember_fisher(task: Task, strategy: Strategy) -> Memory:
    """The Fisher that the stream's earlier tasks left, around the incumbent's B."""
    return Memory(anchor=None if task.fisher is None else Anchor(dict(task.incumbent().b), task.fisher))


def remember_delta(task: Task, strategy: Strategy) -> Memory:
    """The same around the incumbent's B·A."""
    if task.fisher is None:
        return Memory()
    start = task.incumbent()
    star = {name: b @ (start.a[name] if start.a is not None else task.basis.a[name]) for name, b in start.b.items()}
    return Memory(anchor=Anchor(star, task.fisher))


def remember_directions(task: Task, strategy: Strategy) -> Memory:
    """Earlier tasks' A, as directions to stay out of."""
    return Memory(anchor=None if task.fisher is None else Anchor({}, task.fisher))


TRAINED = partial(init_adapter, train_a=True)
DGR = Strategy(
    "dgr",
    init_adapter,
    generative.remember_drawn,
    generative.draw_replayed,
    lr=2e-2,
    weights=Weights(teacher=1.0),
    shares=Shares(teacher=0.5),
)
GD = replace(
    DGR,
    name="gd",
    remember=generative.remember_distilled,
    draw=generative.draw_distilled,
    shares=Shares(teacher=0.375),
)
EWC_DIAGONAL = Strategy("ewc-diagonal", init_adapter, remember_fisher, draw_rows, lr=3e-2, weights=Weights(ewc=1.0))
EWC_RANK1 = replace(EWC_DIAGONAL, name="ewc-rank1", lr=2e-2, hold=elastic.rank_one_loss, weights=Weights(ewc=1e3))
RANK1_GD = replace(
    GD, name="rank1+gd", hold=elastic.rank_one_loss, weights=Weights(teacher=1.0, ewc=30.0), shares=Shares(teacher=0.5)
)
EWC_LORA = Strategy(
    "ewc-lora", TRAINED, remember_delta, draw_rows, lr=2e-2, weights=Weights(ewc=30.0), hold=elastic.delta_loss
)
O_LORA = Strategy(
    "o-lora",
    TRAINED,
    remember_directions,
    draw_rows,
    lr=2e-2,
    weights=Weights(ewc=0.5),
    hold=elastic.orthogonal_loss,
)
ISOLATED = replace(NAIVE, name="isolated", init=TRAINED, lr=3e-2)
JOINT = replace(NAIVE, name="joint", lr=3e-2)
OURS = replace(EVERGROVE, lr=3e-2)
REHEARSED = replace(
    EVERGROVE,
    name="replay+teacher",
    lr=2e-2,
    shares=Shares(replay=0.5, teacher=0.125),
    weights=replace(EVERGROVE.weights, ewc=0.0),
)


def _shared(name: str, paper: str, strategy: Strategy, prepare_rows: int = 0, observations: bool = False) -> Rival:
    """One frozen A and one B for the whole stream."""
    return Rival(
        name,
        paper,
        strategy,
        sequence.begin_frozen,
        sequence.after_adapter,
        sequence.network_of_all,
        observations,
        prepare_rows,
    )


_OWN = replace(
    _shared("isolated-b", "one B a task on the release's frozen A", replace(NAIVE, lr=8e-2)),
    begin=sequence.begin_parts,
    after=sequence.after_isolated,
    network=sequence.network_of_task,
)
_BRANCHES = _shared("branches-fast", "a B for each condition, at a rate for few steps", replace(BRANCHES, lr=1e-1))
_ALL = (
    _shared("naive", "the adapter alone", replace(NAIVE, lr=1.5e-2)),
    replace(_shared("full", "full fine-tuning", replace(FULL, lr=3e-4)), after=sequence.after_full),
    _shared(
        "replay",
        "experience replay (Chaudhry et al. 2019, arXiv 1902.10486), byte-matched",
        replace(REPLAY, lr=3e-2, shares=Shares(replay=0.625)),
        0,
        True,
    ),
    _shared("dgr", "deep generative replay (Shin et al. 2017, arXiv 1705.08690)", DGR, GENERATED),
    _shared("gd", "generative distillation (Masip et al. 2023, arXiv 2311.14028)", GD, DISTILLED),
    replace(
        _shared("ewc-diagonal", "EWC (arXiv 1612.00796), online (arXiv 1805.06370)", EWC_DIAGONAL, FISHER),
        after=sequence.after_diagonal,
        prior=sequence.prior_diagonal,
    ),
    replace(_shared("ewc-rank1", "rank-1 EWC (arXiv 2509.23593)", EWC_RANK1, FISHER), after=sequence.after_direction),
    replace(
        _shared("rank1+gd", "rank-1 EWC and GD (arXiv 2509.23593)", RANK1_GD, FISHER + DISTILLED),
        after=sequence.after_direction,
        prior=sequence.prior_direction,
    ),
    replace(
        _shared("ewc-lora", "EWC-LoRA (arXiv 2602.17559)", EWC_LORA, FISHER),
        begin=sequence.begin_trained,
        after=sequence.after_weights,
        prior=sequence.prior_weights,
    ),
    replace(
        _shared("o-lora", "O-LoRA (Wang et al. 2023, arXiv 2310.14152)", O_LORA),
        begin=sequence.begin_random,
        after=sequence.after_merged,
    ),
    replace(
        _shared("isolated", "one adapter a task (after FunLoRA, arXiv 2510.02631)", ISOLATED),
        begin=sequence.begin_growing,
        after=sequence.after_isolated,
        network=sequence.network_of_task,
    ),
    replace(
        _shared(
            "lora",
            "the shared form with A trained too",
            replace(LORA, lr=2e-2, shares=Shares(replay=0.5, teacher=0.125)),
            GENERATED,
            True,
        ),
        begin=sequence.begin_trained,
    ),
    replace(
        _shared("evergrove", "ours: a B for each that stands alone, else the next", REHEARSED, GENERATED, True),
        alone=_BRANCHES,
    ),
    _shared("replay+teacher", "one B, old observations and a teacher", REHEARSED, GENERATED, True),
    _shared("shared", "one B, with the Fisher's term too: ours as it was at first", OURS, GENERATED + FISHER, True),
    replace(
        _shared("recombined", "the shared form, with combinations nobody showed", OURS, GENERATED + FISHER, True),
        recombines=True,
    ),
    _OWN,
    replace(_shared("joint", "all tasks at once: the bound", JOINT), joint=True),
)
RIVALS: Mapping[str, Rival] = {rival.name: rival for rival in _ALL}
"""Every rival by its name, in the order of a table."""

_OURS = RIVALS["shared"]
_DEVICE = replace(_OURS, name="device", paper="the shared form at a device's own rate", strategy=EVERGROVE)
CUT = "on the first {} rows of A, and with more observations for it: bytes are equal"
SCALED = "of which {} goes on after each lesson, as if the gate had rescaled it"


def _but(name: str, paper: str, **changes: Any) -> Rival:
    """A device's recipe with one thing changed."""
    return replace(_DEVICE, name=f"device-{name}", paper=f"the same, {paper}", **changes)


_ABLATIONS = (
    replace(
        _OURS,
        name="no-ewc",
        paper="the shared form without the Fisher's term",
        strategy=replace(OURS, weights=replace(OURS.weights, ewc=0.0)),
        prepare_rows=GENERATED,
    ),
    replace(
        _OURS,
        name="no-teacher",
        paper="the shared form without a teacher, replay in its place",
        strategy=replace(OURS, shares=Shares(replay=0.5), weights=replace(OURS.weights, teacher=0.0)),
        prepare_rows=FISHER,
    ),
    replace(
        _OURS,
        name="no-replay",
        paper="the shared form without observations, and so without a Fisher: the teacher in their place",
        strategy=replace(OURS, shares=Shares(teacher=0.5), weights=replace(OURS.weights, ewc=0.0)),
        keeps_observations=False,
        prepare_rows=GENERATED,
    ),
    _DEVICE,
    _but(
        "no-ewc",
        "without the Fisher's term",
        strategy=replace(EVERGROVE, weights=replace(EVERGROVE.weights, ewc=0.0)),
        prepare_rows=GENERATED,
    ),
    *(
        _but(
            f"k{k}",
            f"with {k} directions of the Fisher a layer instead of 4",
            strategy=replace(EVERGROVE, remember=partial(remember_old, k=k)),
        )
        for k in (0, 1, 16)
    ),
    _but(
        "once",
        "with the release's Fisher all along, as an assist brings it; on streams with a rehearsal pack",
        prior=sequence.prior_sketch,
        prepare_rows=GENERATED,
    ),
    _but("rank3", CUT.format(3), begin=partial(sequence.begin_cut, rank=3)),
    _but("rank6", CUT.format(6), begin=partial(sequence.begin_cut, rank=6)),
    _but("x0.9", SCALED.format(0.9), after=partial(sequence.after_scaled, gamma=0.9)),
    _but("x0.5", SCALED.format(0.5), after=partial(sequence.after_scaled, gamma=0.5)),
    _but(
        "two-speed",
        "with a fast B that learns, and a slow one that goes half the way (Lookahead, arXiv 1907.08610)",
        after=partial(sequence.after_slowed, share=0.5),
    ),
    _BRANCHES,
    _shared("branches", "a B for each condition, by the recipe of a device whose base knows one factor", BRANCHES),
    *(
        replace(
            RIVALS[name],
            name=f"{name}-gentle",
            paper=f"{RIVALS[name].paper}, at a device's rate",
            strategy=replace(RIVALS[name].strategy, lr=EVERGROVE.lr),
        )
        for name in ("replay", "rank1+gd")
    ),
    replace(
        RIVALS["joint"],
        name="joint-gentle",
        paper="the bound at a rate for a larger network and long training",
        strategy=replace(JOINT, lr=5e-3),
    ),
)
ABLATIONS: Mapping[str, Rival] = {rival.name: rival for rival in _ABLATIONS}
"""The shared form less one term each, and at other rates; a device's recipe, changed in one thing each, and its
branches, at its rate and at the bench's. Raced only when they are named."""


def rival_named(name: str) -> Rival:
    """The rival of that name. Raises ``UsageError`` that lists those there are."""
    known = {**RIVALS, **ABLATIONS}
    if name not in known:
        raise UsageError(f"unknown strategy '{name}'; known: {', '.join(known)}")
    return known[name]
