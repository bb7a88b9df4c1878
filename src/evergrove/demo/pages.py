"""Lays the findings out: the report's sections, and the two pictures that stand alone."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evergrove.demo.findings import Findings, Rival, Shown
from evergrove.demo.judge import Judged
from evergrove.demo.script import NEW
from evergrove.media import charts, plots, report
from evergrove.media.charts import Curve
from evergrove.media.plots import Row
from evergrove.views import decisions, forgetting, gate

NAMES = {"naive": "plain fine-tuning", "evergrove": "with Evergrove"}
KINDS_SHOWN = 12


def write_pictures(found: Findings) -> None:
    """``samples.png`` and ``forgetting.png``."""
    rows, groups = _rows(found), (("what it knew before", found.old), ("what it met on the device", NEW))
    title = "One device, asked for the same eight emotions"
    plots.samples(title, rows, groups).save(found.folder / "samples.png", optimize=True)
    title = "Learning two new emotions on a device, with and without Evergrove"
    plots.forgetting(title, rows, groups, _curves(found)).save(found.folder / "forgetting.png", optimize=True)


def write_report(found: Findings, numbers: dict[str, Any], claims: Sequence[report.Claim]) -> Path:
    """``report.html``; gives its path."""
    lead = (
        f"A device that knew {len(found.old)} emotions was shown pictures of two new ones. It learnt them on the spot, "
        f"was cut off twice while it did, and was offered adapters that would have harmed it. Seed {found.seed}, "
        f"{time.strftime('%d %B %Y, %H:%M')}, {found.seconds / 60:.1f} minutes."
    )
    sections = [
        _faces(found, numbers),
        _over_time(found),
        _stream(found),
        _gate(found),
        _offers(found),
        _recovery(found),
        _latency(found),
        _decisions(found),
        _machine(found),
    ]
    path = found.folder / "report.html"
    title = f"A device learns {' and '.join(NEW)} and forgets nothing"
    if not all(claim.holds for claim in claims):
        title = f"A device learns {' and '.join(NEW)}: some of it did not hold"
    path.write_text(report.page(title, lead, claims, sections), encoding="utf-8")
    return path


def _faces(found: Findings, numbers: dict[str, Any]) -> report.Section:
    mine, theirs = numbers["learning"]["evergrove"], numbers["learning"]["naive"]
    tiles = report.facts(
        [
            ("of the old emotions right with Evergrove", f"{mine['old_accuracy']:.0%}"),
            ("of the new emotions right with Evergrove", f"{mine['new_accuracy']:.0%}"),
            ("of the old emotions right after plain fine-tuning", f"{theirs['old_accuracy']:.0%}"),
            ("is all that was learnt, on disk", f"{mine['adapter_bytes'] / 1000:.0f} kB"),
        ]
    )
    mistakes = "".join(_mistakes(NAMES[name], rival.final) for name, rival in found.rivals.items())
    return report.Section(
        "With and without forgetting",
        "Every face was drawn by the device. Both ways to learn started from the same model and got the same pictures "
        "and the same number of steps. The numbers say how many of the pictures an independent judge, a classifier "
        "that nothing else uses, reads as what was asked for.",
        tiles + report.faces(_rows(found), (*found.old, *NEW)) + mistakes,
    )


def _mistakes(label: str, judged: Judged) -> str:
    pairs = [
        (count, f"{emotion} read as {instead} × {count}")
        for emotion, seen in judged.mistaken.items()
        for instead, count in seen.items()
    ]
    if not pairs:
        return ""
    words = "; ".join(text for _, text in sorted(pairs, reverse=True))
    return f"<details><summary>what the judge misread, {label}</summary><p>{words}</p></details>"


def _over_time(found: Findings) -> report.Section:
    maps = "".join(report.heat_map(NAMES[name], _matrix(found, rival)) for name, rival in found.rivals.items())
    return report.Section(
        "What was forgotten, and when",
        "The share of pictures that the judge recognises, at checkpoints of both trainings. A cross marks a kill -9.",
        charts.curves(_curves(found), "training steps", "recognised") + maps,
    )


def _stream(found: Findings) -> report.Section:
    kept = f"{found.tally.kept} of {found.tally.observed}"
    cells = [report.Specimen(s.pixels, s.outcome, s.condition.get("emotion", ""), s.reason) for s in _some(found.shown)]
    return report.Section(
        "What was kept, and why",
        f"{kept} observations were worth keeping. A part of each new emotion is never trained on: with it the device "
        "judges what it has learnt.",
        report.specimens(cells) + report.tally_table(found.tally),
    )


def _gate(found: Findings) -> report.Section:
    bodies = []
    for name in found.rivals:
        looks = [look for look in gate.of(found.logs[name]) if look.origin == "trained"]
        bodies.append(report.gate_history(looks, found.vocabulary, {"this device": NAMES[name]}))
    return report.Section(
        "The golden gate",
        "Every candidate is compared with what serves now, with the release and with the teacher, on a golden set that "
        "nobody trains on. One that fails is tried at nine tenths and half of its strength, then rejected.",
        report.together(bodies),
    )


def _offers(found: Findings) -> report.Section:
    looks = [look for look in gate.of(found.logs["evergrove"]) if look.origin == "offered"]
    names = {str(o.saboteur.path.absolute()): o.saboteur.what for o in found.offers}
    return report.Section(
        "Bad adapters at the gate",
        f"{sum(o.refused for o in found.offers)} of {len(found.offers)} were kept out. The poisoned one has "
        f"{found.poison_norm:.2f} times the norm of the good one: from outside there is nothing to see.",
        report.gate_history(looks, found.vocabulary, names),
    )


def _recovery(found: Findings) -> report.Section:
    tiles = [
        (f"the {kill.whom} was killed; the training went on at step {kill.resumed_at}", f"step {kill.at_step}")
        for kill in found.kills
    ]
    tiles.append(("kept observations lost", str(found.records_lost)))
    return report.Section(
        "Cut off in the middle",
        "kill -9, no warning. The log is the state: a new agent folds it, a new trainer goes on from the checkpoint.",
        report.facts(tiles),
    )


def _latency(found: Findings) -> report.Section:
    series = {"idle": found.idle_ms, "while two devices learn on this machine": found.learning_ms}
    return report.Section(
        "How long a picture takes",
        "Made in this process by one thread; training runs in its own process, which gives way.",
        charts.histogram(series),
    )


def _decisions(found: Findings) -> report.Section:
    log = found.logs["evergrove"]
    start_s = log[0].at_s if log else 0.0
    said = [(s.at_s - start_s, s.words, s.n) for s in decisions.of(log, found.vocabulary)]
    return report.Section(
        "Every decision, with its reason",
        "From the log of the Evergrove device; events.jsonl has all of it.",
        report.decisions(said),
    )


def _machine(found: Findings) -> report.Section:
    lines = [f"{c.state:8} {c.name}: {c.found}{f' ({c.way_out})' if c.way_out else ''}" for c in found.checks]
    return report.Section("This machine", "What `evergrove doctor` says.", report.plain("\n".join(lines)))


def _rows(found: Findings) -> list[Row]:
    rows = [Row("before", found.base.pictures, found.base.right)]
    return rows + [Row(NAMES[name], r.final.pictures, r.final.right) for name, r in found.rivals.items()]


def _curves(found: Findings) -> list[Curve]:
    lines = []
    for name, rival in reversed(found.rivals.items()):
        tone = "good" if name == "evergrove" else "bad"
        label = "Evergrove" if name == "evergrove" else NAMES[name]
        marks = tuple((float(k.at_step), f"kill -9 of the {k.whom}") for k in rival.runner.killed)
        ways = ((found.old, "old emotions", False), (NEW, "new emotions", True))
        for emotions, what, dashed in ways:
            points = tuple((float(step), judged.mean(emotions)) for step, judged in _moments(found, rival))
            lines.append(Curve(f"{what}, {label}", points, tone, dashed, () if dashed else marks))
    return lines


def _matrix(found: Findings, rival: Rival) -> forgetting.Matrix:
    moments = _moments(found, rival)
    columns = [("before" if not step else f"step {step}", judged.right) for step, judged in moments]
    return forgetting.matrix(columns)


def _moments(found: Findings, rival: Rival) -> list[tuple[int, Judged]]:
    """The start, the checkpoints on the way, and the end."""
    return [(0, found.base), *rival.glimpses, (rival.result.steps, rival.final)]


def _some(shown: Sequence[Shown]) -> list[Shown]:
    """A few observations of every fate, in the order in which they came."""
    counts: dict[tuple[str, str], int] = {}
    chosen: list[Shown] = []
    for item in shown:
        fate = (item.outcome, item.reason)
        counts[fate] = counts.get(fate, 0) + 1
        if counts[fate] <= 2 and len(chosen) < KINDS_SHOWN:
            chosen.append(item)
    return chosen
