"""Which arms there are: what each group compares, and how private training is tuned before it is tested.

Tuning sees two emotions that are in no test (``TUNING_FACES``) in looks of the base, a fleet of 400 and one seed, and
is judged by the denoising error. What is best there for a ratio of devices to noise is used for every arm near it. The
tiny release has twelve looks and an oracle of six emotions: its trials (``local_tuning``) see what its tests see.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from evergrove.bench.federated.arms import Arm
from evergrove.bench.federated.attacks import ATTACKS
from evergrove.bench.federated.crowd import Local
from evergrove.bench.federated.fleet import FleetPlan
from evergrove.bench.federated.lines import Line
from evergrove.bench.federated.study import DELTA, Spec
from evergrove.bench.federated.world import Part
from evergrove.rules.privacy.accounting import calibrate

EPSILONS = (1.0, 2.0, 4.0, 8.0)
SEPARATION = {20: 1, 100: 2, 400: 4, 2000: 4}
"""b by the number of devices: K = devices/b, k = rounds/b."""
TUNING_SEED = 1000
LEVELS = {"low": 2.0, "middle": 8.0, "high": 60.0}
"""ε at which 400 devices stand for a ratio of devices to noise multiplier."""

OPEN = Spec(rounds=60, local=Local(steps=5, batch=8, lr=1e-2), clip=100.0, momentum=0.7)
"""Without noise: the device's own optimiser, everything adapted, averaging with server momentum."""
C = 0.02
"""The clip of private training: a fraction of what a device learns in a round, so that every update has this length."""


def private(path: float, part: Part, steps: int = 4, rounds: int = 30, rehearse: bool = True) -> Spec:
    """Private training: equally long updates, whose lengths add up to ``path`` in the release if all agree.

    By plain gradient steps: Adam makes all numbers of an update equally large, so that devices hardly agree (measured
    on the tiny release: a tenth of the lengths adds up, with gradients a quarter to a half). Devices learn from their
    own pictures only; the cloud rehearses the public ones.

    It does not learn new hair, not even without noise; docs/adr/0021 says why, and what to try next.
    """
    return Spec(
        part=part,
        local=Local(steps=steps, batch=8, lr=5.0, optimiser="sgd", replay=False),
        rounds=rounds,
        clip=C,
        rate=path / (C * rounds),
        average=0.25,
        cool=False,
        rehearse=2 if rehearse else 0,
        rehearse_last=30 if rehearse else 0,
    )


PARTS = {
    "rows": Part(rank=0),
    "rank 1": Part(rank=1),
    "rank 2": Part(rank=2),
    "rank 4": Part(rank=4),
    "rank 12": Part(rank=12),
    "last block, rank 4": Part(rank=4, blocks=1),
    "last two blocks, rank 4": Part(rank=4, blocks=2),
    "modulation, rank 4": Part(rank=4, layers=("modulation",)),
    "all but modulation, rank 2": Part(rank=2, layers=("qkv", "proj", "mlp_in", "mlp_out")),
}
PATHS = {
    "rows": (20.0, 60.0),
    "rank 1": (10.0, 30.0),
    "rank 2": (10.0, 30.0),
    "rank 4": (8.0, 20.0, 50.0),
    "rank 12": (8.0, 20.0, 50.0),
    "last two blocks, rank 4": (20.0,),
}
GRID: Mapping[str, Spec] = {
    **{f"{part}, path {path:g}": private(path, PARTS[part]) for part, paths in PATHS.items() for path in paths},
    **{f"{part}, path 20, no rehearsal": private(20.0, PARTS[part], rehearse=False) for part in ("rank 4", "rank 12")},
}
OPEN_GRID: Mapping[str, Spec] = {
    "lr 1e-2": OPEN,
    "lr 2e-2": replace(OPEN, local=replace(OPEN.local, lr=2e-2)),
    "lr 1e-2, no momentum": replace(OPEN, momentum=0.0),
    "lr 5e-3": replace(OPEN, local=replace(OPEN.local, lr=5e-3)),
}


def tuning(n_devices: int = 400) -> list[tuple[Arm, int]]:
    """Trials for every level of noise, for training without noise, and for training on the union."""
    tuned = FleetPlan(n_devices, emotions=("sceptical", "sleepy"), hairs=())
    found = []
    for level, epsilon in LEVELS.items():
        for name, spec in GRID.items():
            private_one = replace(spec, epsilon=epsilon, separation=4)
            found.append(Arm("tuning", f"tuning {level}: {name}", "fleet", tuned, private_one, judged=False))
    few = replace(tuned, n_devices=20)
    for name, spec in OPEN_GRID.items():
        found.append(Arm("tuning", f"tuning open: {name}", "fleet", few, spec, judged=False))
        if spec.momentum:
            found.append(Arm("tuning", f"tuning central: {name}", "central", few, spec, judged=False))
    return [(arm, TUNING_SEED) for arm in found]


def best(lines: Mapping[tuple[str, int], Line]) -> dict[str, Arm]:
    """The trial of least error for each of ``low, middle, high, open, central``; a default where none was run."""
    arms = {arm.name: arm for arm, _ in tuning()}
    found = {}
    for level in (*LEVELS, "open", "central"):
        tried = [line for line in lines.values() if line.arm.startswith(f"tuning {level}:") and line.arm in arms]
        names = [line.arm for line in sorted(tried, key=lambda line: line.loss if line.loss == line.loss else math.inf)]
        default = next(name for name in arms if name.startswith(f"tuning {level}:"))
        found[level] = arms[names[0] if names else default]
    return found


def level_of(n_devices: int, epsilon: float) -> str:
    """Which level of tuning has the nearest ratio of devices to noise."""
    ratio = math.log(n_devices / calibrate(epsilon, DELTA))
    return min(LEVELS, key=lambda level: abs(ratio - math.log(400 / calibrate(LEVELS[level], DELTA))))


def quoted(chosen: Mapping[str, Arm], seeds: range, sizes: Sequence[int]) -> list[tuple[Arm, int]]:
    """Everything that is quoted, what matters most first."""
    first, last = sizes[0], sizes[-1]
    arms = [*quality(chosen, sizes), *uplink(chosen, first), *poisoning(chosen, first)]
    arms += [arm for n in sizes[1:2] for arm in uplink_of_many(chosen, n)]
    arms += [arm for n in reversed(sizes) for arm in curve(chosen, n)]
    arms += ablation(chosen, last)
    return [(arm, seed) for seed in seeds for arm in arms]


def quality(chosen: Mapping[str, Arm], sizes: Sequence[int]) -> list[Arm]:
    """Without noise: the fleet beside training on the union, at as many samples; a larger fleet also in more rounds,
    and the union in as many steps as that."""
    arms = []
    for n in sizes:
        fleet, b = FleetPlan(n), SEPARATION.get(n, 1)
        apart, together = (replace(chosen[name].spec, separation=b) for name in ("open", "central"))
        arms.append(Arm("quality", f"fleet n={n}", "fleet", fleet, apart, curve=n == sizes[0]))
        arms.append(Arm("quality", f"central n={n}", "central", fleet, together))
        if n > b * COHORT:
            cohorts, steps = in_more_rounds(apart, n), in_more_rounds(together, n)
            arms.append(Arm("quality", f"fleet n={n}, {COHORT} a round", "fleet", fleet, cohorts))
            arms.append(Arm("quality", f"central n={n}, {COHORT} a round", "central", fleet, steps))
    return arms


COHORT = 20
"""Devices a round of a fleet that turns more devices into more rounds."""


def in_more_rounds(spec: Spec, n: int) -> Spec:
    """The same number of updates a device, and so the same samples and bytes, in cohorts of ``COHORT``."""
    b = n // COHORT
    return replace(spec, rounds=spec.rounds * b // spec.separation, separation=b)


def curve(chosen: Mapping[str, Arm], n: int) -> list[Arm]:
    """Over ε at one number of devices; ∞ also with the private spec, to tell noise from what privacy asks for."""
    fleet, b = FleetPlan(n), SEPARATION.get(n, 1)
    arms = []
    for epsilon in reversed(EPSILONS):
        spec = replace(chosen[level_of(n, epsilon)].spec, epsilon=epsilon, separation=b)
        arms.append(Arm("curve", f"n={n} eps={epsilon:g}", "fleet", fleet, spec))
    spec = replace(chosen[level_of(n, 8.0)].spec, epsilon=None, separation=b)
    return [*arms, Arm("curve", f"n={n} eps=inf, spec of eps=8", "fleet", fleet, spec)]


def ablation(chosen: Mapping[str, Arm], n: int, epsilon: float = 8.0) -> list[Arm]:
    """What part, path and clip do at one ε, each changed alone."""
    fleet, b = FleetPlan(n), SEPARATION.get(n, 1)
    base = replace(chosen[level_of(n, epsilon)].spec, epsilon=epsilon, separation=b)
    made = {f"part {name}": replace(base, part=part) for name, part in PARTS.items()}
    made |= {f"path x{f:g}": replace(base, rate=base.rate * f) for f in (0.33, 3.0)}
    made |= {f"clip x{f:g}": replace(base, clip=base.clip * f, rate=base.rate / f) for f in (10.0, 100.0)}
    return [Arm("ablation", f"n={n} eps={epsilon:g} {name}", "fleet", fleet, spec) for name, spec in made.items()]


def local_work(chosen: Spec, sizes: Sequence[int]) -> list[Arm]:
    """Over ε and devices by updates that agree, on the tiny release; what matters most first.

    Plain gradients learn nothing in private; what computes long between two rounds does (docs/adr/0021). The largest
    fleet is also given the noise that five times as many devices would have: such a fleet takes hours of a core.
    """
    largest = sizes[-1]
    every = {f"eps={epsilon or math.inf:g}": epsilon for epsilon in (None, *reversed(EPSILONS))}
    made = [(name, n, epsilon) for name, epsilon in every.items() for n in reversed(sizes)]
    made.insert(2 * len(sizes), (f"noise of {5 * largest} devices at eps=8", largest, NOISE_OF_FIVE_TIMES))
    return [
        Arm(
            "local", f"local n={n} {name}", "fleet", new_emotions(n),
            replace(chosen, epsilon=epsilon, separation=SEPARATION.get(n, 1)), world="tiny",
        )
        for name, n, epsilon in made
    ]  # fmt: skip


def shared_work(chosen: Spec, n: int) -> list[Arm]:
    """The same where devices learn from four tenths of what the release has moved, with noise and without."""
    turns = replace(chosen, separation=SEPARATION.get(n, 1), share=0.4)
    return [
        Arm(
            "local", f"local a share of .4 n={n} eps={epsilon or math.inf:g}", "fleet", new_emotions(n),
            replace(turns, epsilon=epsilon), world="tiny",
        )
        for epsilon in (8.0, None)
    ]  # fmt: skip


def new_emotions(n: int) -> FleetPlan:
    """A fleet on the tiny release: looks that it knows, and emotions that it does not."""
    return FleetPlan(n, hairs=())


AGREED = Spec(local=Local(steps=20, batch=8, lr=1e-2, replay=False), rounds=16, clip=4.7)
"""Private training whose updates agree: many local steps on own pictures, few rounds, a clip near their length."""


def agreed(rounds: int, steps: int, clip: float, rank: int = 12, lr: float = 1e-2) -> Spec:
    """That form at other sizes."""
    local = replace(AGREED.local, steps=steps, lr=lr)
    return replace(AGREED, rounds=rounds, local=local, clip=clip, part=Part(rank=rank))


AGREED_GRID: Mapping[str, Spec] = {
    "16 x 20, clip 4.7": AGREED,
    "16 x 20, clip 4.7, rehearsed": replace(AGREED, rehearse=2, rehearse_last=30),
    "16 x 20, clip 2.4": agreed(16, 20, 2.4),
    "16 x 20, clip 4, rank 4": agreed(16, 20, 4.0, rank=4),
    "16 x 20, clip 4.7, lr 2e-2": agreed(16, 20, 4.7, lr=2e-2),
    "8 x 40, clip 7": agreed(8, 40, 7.0),
    "8 x 40, clip 4, rank 4": agreed(8, 40, 4.0, rank=4),
    "8 x 80, clip 7": agreed(8, 80, 7.0),
    "8 x 80, clip 5": agreed(8, 80, 5.0),
    "8 x 80, clip 7, rank 6": agreed(8, 80, 7.0, rank=6),
    "8 x 160, clip 7": agreed(8, 160, 7.0),
    "4 x 160, clip 10": agreed(4, 160, 10.0),
    "4 x 160, clip 14": agreed(4, 160, 14.0),
}
STANDS_FOR_400, NOISE_OF_FIVE_TIMES = 47.0, 64.9
"""ε at which the multiplier is a quarter (a fifth) of what it is at ε = 8, as if a fleet were four (five) times as
large. The trials' 100 devices take turns of two and not of four, which is 14 to 21 % less noise than 400 would have."""


def local_tuning() -> list[tuple[Arm, int]]:
    """Trials of ``AGREED_GRID`` under the noise of 400 devices at ε = 8, judged by the oracle. Not apart from
    the test: the tiny oracle reads no other emotions, and a fleet of any seed shows all of its twelve looks."""
    fleet = new_emotions(100)
    noisy = {name: replace(spec, epsilon=STANDS_FOR_400, separation=2) for name, spec in AGREED_GRID.items()}
    return [(Arm("trials", f"trial: {name}", "fleet", fleet, one, "tiny"), TUNING_SEED) for name, one in noisy.items()]


def best_local(lines: Mapping[tuple[str, int], Line]) -> Spec:
    """The trial that reads right most often, the first of equals; the first trial where none was run."""
    tried = [line for line in lines.values() if line.group == "trials" and line.reading is not None]
    right = {line.arm: line.reading.right for line in tried if line.reading is not None}
    return max(AGREED_GRID.items(), key=lambda one: right.get(f"trial: {one[0]}", 0.0))[1]


UNMODULATED = Part(layers=("qkv", "proj", "mlp_in", "mlp_out"))
LARGE_GRID: Mapping[str, Spec] = {
    "clip 7": agreed(8, 80, 7.0),
    "clip 14": agreed(8, 80, 14.0),
    "clip 7, rank 4": agreed(8, 80, 7.0, rank=4, lr=3e-2),
    "clip 14, rank 4": agreed(8, 80, 14.0, rank=4, lr=3e-2),
    "clip 10, all but modulation": replace(agreed(8, 80, 10.0), part=UNMODULATED),
    "clip 14, no noise": agreed(8, 80, 14.0),
}
"""The private form on *avatars*, in looks that it knows: a lower rank has less noise, and a higher rate for its fewer
numbers."""


def large_trials() -> list[tuple[Arm, int]]:
    """``LARGE_GRID`` on a hundred devices in turns of four, under the noise of 400 at ε = 8. They see the emotions of
    the test, in other looks."""
    arms = []
    for name, spec in LARGE_GRID.items():
        spec = replace(spec, epsilon=None if name.endswith("no noise") else STANDS_FOR_400, separation=4)
        arms.append(Arm("large", f"avatars trial: {name}", "fleet", new_emotions(100), spec))
    return [(arm, TUNING_SEED) for arm in arms]


def large_work(n: int) -> list[Arm]:
    """What learns without noise, and the same under the noise that five times as many devices would have at ε = 8."""
    made = {"clip 14": NOISE_OF_FIVE_TIMES, "clip 14, no noise": None}
    return [
        Arm(
            "large", f"avatars local n={n} {name}", "fleet", new_emotions(n),
            replace(LARGE_GRID["clip 14"], epsilon=epsilon, separation=SEPARATION.get(n, 1)),
        )
        for name, epsilon in made.items()
    ]  # fmt: skip


def formed(
    spec: Spec, lr: float = 0.0, momentum: float | None = None, steps: int = 0, part: Part | None = None, bits: int = 16
) -> Spec:
    """The spec with another rate, server momentum, part, and with more steps in fewer rounds: as many in all."""
    local = replace(spec.local, lr=lr or spec.local.lr, steps=steps or spec.local.steps)
    rounds = spec.rounds * spec.local.steps // local.steps
    momentum = spec.momentum if momentum is None else momentum
    return replace(spec, local=local, rounds=rounds, momentum=momentum, part=part or spec.part, bits=bits)


ADAPTERS: Mapping[str, Mapping[str, Any]] = {
    "8 bits": {"bits": 8},
    "rank 4": {"part": Part(rank=4)},
    "rank 4, 8 bits": {"part": Part(rank=4), "bits": 8},
    "rank 4, lr 0.03": {"part": Part(rank=4), "lr": 3e-2},
    "rank 6, lr 0.02": {"part": Part(rank=6), "lr": 2e-2},
    "lr 0.02": {"lr": 2e-2},
    "all but modulation": {"part": UNMODULATED},
    "all but modulation, lr 0.02": {"part": UNMODULATED, "lr": 2e-2},
    "momentum 0.9": {"momentum": 0.9},
    "10 steps a round": {"steps": 10},
    "20 steps a round": {"steps": 20},
    "momentum 0.9, 10 steps a round": {"momentum": 0.9, "steps": 10},
    "lr 0.02, 10 steps a round": {"lr": 2e-2, "steps": 10},
    "rank 6, lr 0.02, 10 steps a round": {"part": Part(rank=6), "lr": 2e-2, "steps": 10},
    "rank 6, lr 0.02, 20 steps a round": {"part": Part(rank=6), "lr": 2e-2, "steps": 20},
    "rank 6, lr 0.02, momentum 0.9, 10 steps a round": {
        "part": Part(rank=6), "lr": 2e-2, "momentum": 0.9, "steps": 10,
    },
}  # fmt: skip
"""What an adapter may send; rank 12 at the open rate is the fleet's own arm, in ``quality``."""
WHOLE: Mapping[str, Mapping[str, Any]] = {
    "lr 0.001": {"lr": 1e-3},
    "lr 0.0005": {"lr": 5e-4},
    "lr 0.002": {"lr": 2e-3},
    "lr 0.004": {"lr": 4e-3},
    "lr 0.002, 10 steps a round": {"lr": 2e-3, "steps": 10},
    "lr 0.002, 20 steps a round": {"lr": 2e-3, "steps": 20},
    "lr 0.001, server momentum": {"lr": 1e-3, "momentum": 0.7},
    "lr 0.002, server momentum": {"lr": 2e-3, "momentum": 0.7},
    "lr 0.0005, momentum 0.9": {"lr": 5e-4, "momentum": 0.9},
    "lr 0.001, momentum 0.9": {"lr": 1e-3, "momentum": 0.9},
    "lr 0.001, server momentum, 10 steps a round": {"lr": 1e-3, "momentum": 0.7, "steps": 10},
    "lr 0.002, server momentum, 10 steps a round": {"lr": 2e-3, "momentum": 0.7, "steps": 10},
    "lr 0.001, server momentum, 20 steps a round": {"lr": 1e-3, "momentum": 0.7, "steps": 20},
}
"""Plain federated averaging (no momentum), and averaging with server momentum, as the adapter has it."""


def uplink(chosen: Mapping[str, Arm], n: int) -> list[Arm]:
    """The whole model averaged, and other forms of the adapter; the fleet's own arm in 16 bits is in ``quality``."""
    fleet, spec = FleetPlan(n), chosen["open"].spec
    plain = replace(spec, rate=1.0, momentum=0.0)
    arms = [Arm("uplink", f"whole model n={n}, {k}", "whole", fleet, formed(plain, **w)) for k, w in WHOLE.items()]
    arms += [Arm("uplink", f"{name} n={n}", "fleet", fleet, formed(spec, **form)) for name, form in ADAPTERS.items()]
    return [replace(arm, curve=True) for arm in arms]


def uplink_of_many(chosen: Mapping[str, Arm], n: int) -> list[Arm]:
    """The same for a larger fleet, ``COHORT`` a round: the adapter, and the whole model at its best rates."""
    fleet = FleetPlan(n)
    spec = in_more_rounds(replace(chosen["open"].spec, separation=SEPARATION.get(n, 1)), n)
    plain = replace(spec, rate=1.0, momentum=0.0)
    names = ("lr 0.001", "lr 0.002", "lr 0.004", "lr 0.001, server momentum", "lr 0.002, server momentum")
    arms = [Arm("uplink", f"adapter n={n}", "fleet", fleet, spec)]
    arms += [Arm("uplink", f"whole model n={n}, {k}", "whole", fleet, formed(plain, **WHOLE[k])) for k in names]
    return [replace(arm, curve=True) for arm in arms]


def poisoning(chosen: Mapping[str, Arm], n: int) -> list[Arm]:
    """Every attack under the production rules (clip at about an honest update's length), and with none of them."""
    spec, fleet = chosen["open"].spec, FleetPlan(2 * n)
    arms = []
    for attack in ATTACKS:
        for clips in (True, False):
            named = f"attack {attack}, {'rules' if clips else 'no rules'}"
            arms.append(Arm("attacks", named, "fleet", fleet, replace(spec, clip=HONEST, clips=clips), attack=attack))
    return arms


HONEST = 5.0
"""About the length of an honest update of a round without noise (measured on the tuning fleet)."""


def quick() -> list[tuple[Arm, int]]:
    """A little of everything on the tiny release: new emotions in looks that it knows."""
    fleet = FleetPlan(12, hairs=(), looks_asked=12)
    spec = replace(OPEN, rounds=40, local=replace(OPEN.local, steps=4))
    noisy = replace(private(10.0, Part(rank=2), rounds=20), epsilon=8.0)
    whole = replace(spec, rounds=10, local=replace(spec.local, lr=1e-3))
    arms = [
        Arm("quality", "fleet n=12", "fleet", fleet, spec, curve=True),
        Arm("quality", "central n=12", "central", fleet, spec),
        Arm("curve", "n=12 eps=8", "fleet", fleet, noisy),
        Arm("uplink", "8 bits n=12", "fleet", fleet, replace(spec, bits=8), curve=True),
        Arm("uplink", "whole model n=12", "whole", fleet, whole, curve=True),
    ]
    return [(replace(arm, world="tiny"), 0) for arm in arms]
