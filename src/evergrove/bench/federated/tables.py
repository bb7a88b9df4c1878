"""From lines to Markdown: means over seeds, with the least and the largest where there are several."""

import math
from collections.abc import Iterable, Mapping, Sequence

from evergrove.bench.federated.lines import Line
from evergrove.bench.federated.reading import Reading

Lines = Mapping[tuple[str, int], Line]


def page(lines: Lines) -> str:
    """Every table that there are lines for."""
    parts = [
        _quality(lines),
        _curve(lines, "curve"),
        _curve(lines, "local"),
        _curve(lines, "large"),
        _ablation(lines, "trials", "Trials of the private form, under about the noise of 400 devices at ε = 8"),
        _ablation(lines),
        _uplink(lines),
        _attacks(lines),
        _tuning(lines),
    ]
    return "\n\n".join(part for part in parts if part)


def _quality(lines: Lines) -> str:
    """Beside the union in cohorts as large, so that both take as many steps (``study.centralise``)."""
    rows = []
    for name, own in sorted(_by_arm(lines, "quality"), key=lambda pair: pair[1][0].n_devices):
        union = {line.seed: line for line in lines.values() if line.arm == name.replace("fleet", "central")}
        shares = [_right(line) / _right(union[line.seed]) for line in own if line.seed in union]
        rows.append([name, _over(own, "right"), _spread(shares), *(_over(own, key) for key in READ[1:]), _ceiling(own)])
    return _table("Quality without noise", ["arm", "right", "÷ central", *READ[1:], "true pictures"], rows)


def _curve(lines: Lines, group: str) -> str:
    rows = []
    ordered = sorted(_by_arm(lines, group), key=lambda pair: (pair[1][0].n_devices, pair[1][0].epsilon or math.inf))
    for name, own in ordered:
        one = own[0]
        plan = f"d {one.n_numbers}, K {one.cohort}, k {one.participations}, b {one.spec['separation']}"
        spent = "∞" if one.epsilon_spent is None else f"{one.epsilon_spent:.3f}"
        read = [_over(own, key) for key in ("right", "emotion", "hair", "kept")]
        rows.append([name, *read, plan, *_lengths(own), spent])
    head = ["arm", "right", "emotion", "hair", "kept", "plan", *LENGTHS, "ε spent"]
    return _table(CURVES[group], head, rows)


CURVES = {
    "curve": "Over ε and devices",
    "local": "Over ε, by updates that agree",
    "large": "The same form on avatars",
}


def _ablation(lines: Lines, group: str = "ablation", title: str = "Each changed alone") -> str:
    rows = [
        [
            name,
            *(_over(own, key) for key in ("right", "emotion", "hair", "kept")),
            str(own[0].n_numbers),
            *_lengths(own),
        ]
        for name, own in _by_arm(lines, group)
    ]
    return _table(title, ["arm", "right", "emotion", "hair", "kept", "numbers", *LENGTHS], rows)


LENGTHS = ("path", "noise", "moved", "updates refused")


def _lengths(own: Sequence[Line]) -> list[str]:
    """Norms in the units of B: of all steps if all devices agree, of the release's noise, and of what it moved."""
    spec, n_updates = own[0].spec, own[0].cohort * own[0].spec["rounds"]
    path = spec["rate"] / (1 - spec["momentum"]) * spec["clip"] * spec["rounds"]
    refused = _mean(line.refused for line in own) / n_updates
    return [f"{path:.0f}", f"{own[0].noise_norm:.1f}", f"{_mean(line.moved for line in own):.1f}", f"{refused:.0%}"]


def _uplink(lines: Lines) -> str:
    """Of the seeds that every arm of a size has: bytes to a quality are read off a mean over the same fleets."""
    every = [*(pair for pair in _by_arm(lines, "quality") if pair[1][0].curve), *_by_arm(lines, "uplink")]
    groups = [pair for n in sorted({own[0].n_devices for _, own in every}) for pair in _of_common_seeds(every, n)]
    whole = max((own[0].n_bytes for name, own in groups if name.startswith("whole")), default=0)
    rows = [
        [name, _over(own, "right"), _over(own, "kept"), f"{own[0].n_bytes:,}", f"{whole / own[0].n_bytes:.1f}",
         *(megabytes(own, level) for level in LEVELS)]
        for name, own in groups
    ]  # fmt: skip
    head = ["arm", "right", "kept", "bytes a round", "whole ÷ this", *(f"MB to {level:g}" for level in LEVELS)]
    return _table("Uplink of a device", head, rows)


LEVELS = (0.5, 0.6, 0.7, 0.8, 0.83, 0.9)


def _of_common_seeds(groups: Iterable[tuple[str, list[Line]]], n: int) -> list[tuple[str, list[Line]]]:
    own = [pair for pair in groups if pair[1][0].n_devices == n]
    common = set.intersection(*({line.seed for line in found} for _, found in own))
    return [(name, [line for line in found if line.seed in common]) for name, found in own if common]


def megabytes(own: Sequence[Line], level: float) -> str:
    """What a device has sent when the mean curve first reaches ``level``, straight lines between its points; a device
    that takes turns sends in every ``separation``-th round."""
    before = (0, 0.0)
    in_a_round = own[0].n_bytes / own[0].spec["separation"]
    for round_, _, _ in own[0].curve:
        right = _mean(_at(line, round_) for line in own)
        if right >= level:
            part = (level - before[1]) / (right - before[1])
            return f"{in_a_round * (before[0] + part * (round_ - before[0])) / 1e6:.1f}"
        before = (round_, right)
    return "not reached"


def _attacks(lines: Lines) -> str:
    rows = []
    for name, own in _by_arm(lines, "attacks"):
        said = "; ".join(f"{line.gate[0]} ({line.gate[1]})" for line in own if line.gate)
        read = [_over(own, key) for key in ("right", "emotion", "hair", "kept")]
        shows = _spread([line.trigger or 0.0 for line in own])
        refused = f"{_mean(line.refused for line in own):.0f} of {own[0].cohort * own[0].spec['rounds']}"
        rows.append([name, *read, f"{_mean(line.loss for line in own):.4f}", shows, refused, said])
    head = ["arm", "right", "emotion", "hair", "kept", "error", "trigger shows", "refused", "gate (failed questions)"]
    return _table("10 % attackers", head, rows)


def _tuning(lines: Lines) -> str:
    own = sorted(
        (line for line in lines.values() if line.group == "tuning"),
        key=lambda line: (line.arm.split(":")[0], line.loss),
    )
    rows = [
        [line.arm, f"{line.loss:.5f}", str(line.n_numbers), f"{line.norm:.3f}", f"{line.noise_norm:.2f}"]
        for line in own
    ]
    return _table("Tuning", ["trial", "error", "numbers", "norm", "noise"], rows)


READ = ("right", "seen", "unseen", "new_seen", "new_unseen", "emotion", "hair", "kept")


def _by_arm(lines: Lines, group: str) -> list[tuple[str, list[Line]]]:
    names = dict.fromkeys(line.arm for line in lines.values() if line.group == group)
    return [(name, [line for line in lines.values() if line.arm == name]) for name in names]


def _right(line: Line) -> float:
    assert line.reading is not None
    return max(line.reading.right, 1e-9)


def _at(line: Line, round_: int) -> float:
    return next((right for r, right, _ in line.curve if r == round_), float("nan"))


def _over(own: Sequence[Line], key: str) -> str:
    def value(reading: Reading) -> float:
        return float(getattr(reading, key))

    return _spread([value(line.reading) for line in own if line.reading is not None])


def _ceiling(own: Sequence[Line]) -> str:
    return _spread([line.ceiling for line in own if line.ceiling is not None])


def _spread(values: Sequence[float]) -> str:
    if not values:
        return ""
    mean = f"{sum(values) / len(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.3f}–{max(values):.3f})"


def _mean(values: Iterable[float]) -> float:
    kept = list(values)
    return sum(kept) / len(kept) if kept else float("nan")


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    lines = [f"**{title}**", "", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])
