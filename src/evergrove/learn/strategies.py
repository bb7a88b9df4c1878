"""Strategies: ours and the rivals, as values behind one small protocol, so that all run in the same harness.

A ``Strategy`` says what is trained and from where (``init``), what is remembered of the old (``remember``), and which
rows of work a step takes (``draw``); the trainer does the rest, the same for all. A rival is one more value, or one
more function for the part in which it differs. Names and weights stand at the end.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from evergrove.core.conditions import Vocabulary
from evergrove.core.errors import UsageError
from evergrove.core.rng import seed_of
from evergrove.core.sections import OURS, SHARED
from evergrove.learn.adapter import Adapter, Attached, Basis, attach, blank_adapter, extend_rows, fuse, read_adapter
from evergrove.learn.adapter_file import adapter_bytes
from evergrove.learn.fisher import Fisher, estimate_fisher
from evergrove.learn.generator import to_condition, to_float
from evergrove.learn.objective import Anchor, Batch, Weights, ewc_loss, flow_rows, join, teacher_rows
from evergrove.learn.place import to_cpu
from evergrove.learn.teacher import Points, trajectories


@dataclass(frozen=True)
class Samples:
    """Pictures and what they are of: ``images`` uint8 (N, H, W, C), ``codes`` integers (N, F)."""

    images: NDArray[np.uint8]
    codes: NDArray[np.int16]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one picture as a tensor."""
        _, height, width, channels = self.images.shape
        return channels, height, width

    def pick(self, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The ``rows`` (None: all) as fp32 (n, C, H, W) in [-1, 1] and int64 (n, F)."""
        index = slice(None) if rows is None else rows.numpy()
        return to_float(self.images[index]).contiguous(), to_condition(self.codes[index])


@dataclass(frozen=True)
class Recipe:
    """How a step is taken (DESIGN §4). ``lr`` None is the strategy's own; ``row_std`` is how far from the mean row an
    untrained row starts, and ``t_shift`` the mean of the logit of t (0: as the base was trained)."""

    steps: int = 250
    batch: int = 16
    lr: float | None = None
    warm_up: int = 20
    clip: float = 1.0
    label_drop: float = 0.05
    row_std: float = 1.0
    t_shift: float = 0.0
    micro_batch: int = 16
    checkpoint_every: int = 25


@dataclass(frozen=True)
class Task:
    """One learning job, from arrays and networks only; nothing in it is ever written to.

    ``model`` is the release's base, ``start`` the incumbent's adapter (None: the base alone), ``vocabulary`` what
    the candidate must understand. ``new`` are the observations to learn, ``replay`` those of old conditions.
    ``teacher`` is a larger network for the old conditions (None: the incumbent). ``fisher`` and ``points`` are an
    assist's, of the *released* model (None: made here, see ``remember_old``). ``balance`` is the factor over whose
    values new and replay are drawn evenly. ``made_of`` names ``new`` and ``replay`` where some of them may be lost
    before a resumption, which then goes on with the rest (empty: their very bytes name them). ``known`` (N, F) are the
    old conditions to ask a teacher about (None: those of ``replay``): who keeps no observations still knows what they
    were called.
    """

    model: nn.Module
    basis: Basis
    vocabulary: Vocabulary
    new: Samples
    replay: Samples
    strategy: "Strategy"
    recipe: Recipe = Recipe()
    seed: int = 0
    start: Adapter | None = None
    teacher: nn.Module | None = None
    fisher: Fisher | None = None
    points: Points | None = None
    balance: int = 0
    made_of: str = ""
    known: NDArray[np.int16] | None = None

    def rng(self, *names: str | int) -> torch.Generator:
        """The task's own random stream of that name."""
        return torch.Generator().manual_seed(seed_of(self.seed, "learn", *names))

    def incumbent(self) -> Adapter:
        """What training starts from: the incumbent's adapter, widened to the new vocabulary."""
        if self.start is None:
            return blank_adapter(self.model, self.basis, self.vocabulary)
        return extend_rows(self.model, self.start, self.vocabulary)

    def old_codes(self) -> NDArray[np.int16]:
        """The old conditions that a teacher is asked about (N, F); empty where nothing is known of any."""
        return self.replay.codes if self.known is None else self.known


@dataclass(frozen=True)
class Learner:
    """What is trained: a network, its trained parameters by name, and the candidate's bytes as they stand."""

    module: nn.Module
    parameters: Mapping[str, nn.Parameter]
    candidate: Callable[[], bytes]


@dataclass(frozen=True)
class Memory:
    """What is remembered of the old, prepared once before the first step; either part may be None."""

    points: Points | None = None
    anchor: Anchor | None = None


@dataclass(frozen=True)
class Shares:
    """Which part of a batch is new, replay and teacher points; the rest of the division goes to new."""

    replay: float = 0.0
    teacher: float = 0.0


@dataclass(frozen=True)
class Strategy:
    """One way to learn. See the module's docstring; ``draw`` takes (task, memory, strategy, step).

    ``hold`` is the part of the objective that is about the parameters alone, from (parameters, anchor, λe).
    """

    name: str
    init: Callable[[Task], Learner]
    remember: Callable[[Task, "Strategy"], Memory]
    draw: Callable[[Task, Memory, "Strategy", int], Batch]
    lr: float = 1e-2
    weights: Weights = field(default_factory=Weights)
    shares: Shares = field(default_factory=Shares)
    hold: Callable[[Mapping[str, Tensor], Anchor, float], Tensor] = ewc_loss


def init_adapter(task: Task, train_a: bool = False) -> Learner:
    """Trains B and the new rows from the incumbent's; with ``train_a`` it is ordinary LoRA."""
    start = task.incumbent()
    rows = {key: start_of(task, key, row) for key, row in start.rows.items()}
    attached = attach(task.model, task.basis, replace(start, rows=rows), train_a)
    return Learner(attached.module, attached.parameters, lambda: adapter_bytes(read_adapter(attached)))


def init_full(task: Task) -> Learner:
    """Trains every weight, from the incumbent's fused network."""
    module = fuse(task.model, task.basis, task.incumbent()).requires_grad_(True)
    return Learner(module, dict(module.named_parameters()), lambda: full_bytes(module))


def remember_nothing(task: Task, strategy: Strategy) -> Memory:
    """For strategies without a teacher and without EWC."""
    return Memory()


def remember_old(
    task: Task, strategy: Strategy, n_trajectories: int = 128, steps: int = 4, n_fisher: int = 192, k: int = 4
) -> Memory:
    """Teacher points and Fisher, each where its weight is not zero: the task's own, else made from ``task.replay``.

    b* is the incumbent, also under a Fisher that is given, which is the release's. Its curvature is the release's own,
    but around the release (B = 0) it would pull out of B what the device has learnt since, which replay alone defends:
    measured over two jobs in a row (3 pseudo-tasks, avatars), the loss on what the first had learnt rose by a third
    with b* = release, by 7 % with b* = incumbent, against a Fisher made here; old conditions kept the same within a
    tenth of a thousandth. What is lost to the release over many jobs is the teacher's and the gate's to notice
    (cumulative margin): both look at the release itself.
    """
    points, anchor = task.points, None
    wants_points = bool(strategy.weights.teacher and strategy.shares.teacher)
    makes_points, makes_fisher = wants_points and points is None, bool(strategy.weights.ewc) and task.fisher is None
    if (makes_points and not len(task.old_codes())) or (makes_fisher and not len(task.replay)):
        raise UsageError(f"strategy '{strategy.name}' needs samples of old conditions; give it the rehearsal pack")
    if makes_points:
        teacher = task.teacher or fuse(task.model, task.basis, task.incumbent())
        known = task.old_codes()[_known_to(teacher, task.old_codes())]
        picked = even(known, task.balance, n_trajectories, task.rng("teacher"))
        chosen = to_condition(known)[picked]
        points = trajectories(teacher, chosen, task.new.shape, task.rng("trajectories"), steps)
    if strategy.weights.ewc:
        incumbent = attach(task.model, task.basis, task.incumbent())
        star, fisher = _star(incumbent), task.fisher
        if fisher is None:
            picked = even(task.replay.codes, task.balance, n_fisher, task.rng("fisher-samples"))
            fisher = estimate_fisher(incumbent, *task.replay.pick(picked), task.rng("fisher"), n_fisher, k)
        anchor = Anchor(star, fisher)
    return Memory(points if wants_points else None, anchor)


def draw_rows(task: Task, memory: Memory, strategy: Strategy, step: int) -> Batch:
    """The rows of one step: new, replay and teacher points by the strategy's shares. The same step, the same rows."""
    rng = task.rng("step", step)
    recipe, shares, weights = task.recipe, strategy.shares, strategy.weights
    n_replay = int(shares.replay * recipe.batch) if len(task.replay) else 0
    n_teacher = int(shares.teacher * recipe.batch) if memory.points is not None else 0
    n_new = recipe.batch - n_replay - n_teacher
    new = task.new.pick(even(task.new.codes, task.balance, n_new, rng))
    parts = [flow_rows(*new, 1.0, rng, recipe.label_drop, recipe.t_shift)]
    if n_replay:
        replay = task.replay.pick(even(task.replay.codes, task.balance, n_replay, rng))
        parts.append(flow_rows(*replay, weights.replay, rng, recipe.label_drop, recipe.t_shift))
    if n_teacher and memory.points is not None:
        picked = torch.randint(len(memory.points), (n_teacher,), generator=rng)
        parts.append(teacher_rows(memory.points, picked, weights.teacher))
    return join(parts)


def full_bytes(module: nn.Module) -> bytes:
    """All weights of a fully fine-tuned network as safetensors, fp32."""
    return safetensors.torch.save({name: t.cpu().contiguous() for name, t in module.state_dict().items()})


def full_of_bytes(data: bytes, model: nn.Module, basis: Basis, vocabulary: Vocabulary) -> nn.Module:
    """The way back from ``full_bytes``, for measuring: a network of the base's kind with those weights."""
    module = fuse(model, basis, blank_adapter(model, basis, vocabulary))
    module.load_state_dict(safetensors.torch.load(data))
    return module.requires_grad_(False)


def even(codes: NDArray[np.int16], factor: int, n: int, rng: torch.Generator) -> Tensor:
    """``n`` row numbers drawn with replacement, every value of ``factor`` equally often on average."""
    _, value, count = np.unique(codes[:, factor], return_inverse=True, return_counts=True)
    return torch.multinomial(torch.from_numpy(1.0 / count[value]), n, replacement=True, generator=rng)


def start_of(task: Task, key: str, row: Tensor) -> Tensor:
    """Where the training of a row starts: a row that was never trained, off the mean row by the recipe's deviation."""
    if row.any():
        return row
    return task.recipe.row_std * torch.randn(row.shape, generator=task.rng("row", key))


def _known_to(teacher: nn.Module, codes: NDArray[np.int16]) -> NDArray[np.bool_]:
    """Which codes the teacher has rows for: a larger one knows the release's conditions and no later ones."""
    tables = getattr(teacher, "tables", None)
    if tables is None:
        return np.ones(len(codes), np.bool_)
    return np.asarray((codes < np.array([len(table.weight) for table in tables])).all(axis=1))


def _star(attached: Attached) -> dict[str, Tensor]:
    return {name.removesuffix(".B"): to_cpu(p) for name, p in attached.parameters.items() if ".B" in name}


NAIVE = Strategy("naive", init_adapter, remember_nothing, draw_rows)
FULL = Strategy("full", init_full, remember_nothing, draw_rows, lr=1e-3)
REPLAY = Strategy("replay", init_adapter, remember_nothing, draw_rows, shares=Shares(replay=0.5))
EWC = Strategy("ewc", init_adapter, remember_old, draw_rows, weights=Weights(ewc=30.0))
EVERGROVE = Strategy(
    OURS,
    init_adapter,
    remember_old,
    draw_rows,
    weights=Weights(replay=1.0, teacher=1.0, ewc=5.0),
    shares=Shares(replay=0.25, teacher=0.25),
)
LORA = replace(
    EVERGROVE,
    name="lora",
    init=partial(init_adapter, train_a=True),
    lr=5e-3,
    weights=replace(EVERGROVE.weights, ewc=0.0),
)

STRATEGIES: Mapping[str, Strategy] = {s.name: s for s in (NAIVE, FULL, REPLAY, EWC, EVERGROVE, LORA)} | {
    SHARED: EVERGROVE
}


def strategy_named(name: str) -> Strategy:
    """The strategy of that name. Raises ``UsageError`` that lists those there are."""
    if name == "branches":
        raise UsageError("strategy 'branches' is what 'evergrove' does by itself where the base knows one factor")
    if name not in STRATEGIES:
        raise UsageError(f"unknown strategy '{name}'; known: {', '.join(STRATEGIES)}")
    return STRATEGIES[name]
