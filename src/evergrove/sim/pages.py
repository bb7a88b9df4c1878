"""The report of a simulated run: what a fleet did hour by hour, how warm it got, how long learning waited, and why.

In goes a finished run (``sim.fleet.Outcome``) with its numbers, out comes one HTML page.
"""

from collections.abc import Callable, Sequence
from html import escape
from itertools import pairwise
from typing import Any

import numpy as np

from evergrove.media import report, timelines
from evergrove.media.timelines import Band, Span
from evergrove.sim.device import VirtualDevice
from evergrove.sim.fleet import Outcome
from evergrove.sim.scenario import Fleet

TONES = ("good", "warm", "cool", "plain", "bad")
KINDS = (
    ("training", "trains (paler: a smaller share)"),
    ("measuring", "golden gate measures"),
    ("paused", "paused: by the shield, or too dear"),
    ("fog", "waits for a fog"),
    ("deferred", "deferred, with a reason"),
    ("rest", "nothing to learn"),
    ("off", "off, crashed"),
)
STRIPS_MAX = 24
SAID_MAX = 150
SLOTS = 360
"""Points of a curve that are drawn at most; more would not be seen."""


def page(outcome: Outcome, numbers: dict[str, Any]) -> str:
    """The whole report as one HTML page."""
    scenario, total = outcome.scenario, numbers["total"]
    title = scenario.title or scenario.name
    device_h = scenario.hours * len(outcome.devices)
    lead = (
        f"{scenario.about} {len(outcome.devices)} virtual devices lived through {scenario.hours:g} hours "
        f"({device_h:,.0f} device-hours) with the decisions that real ones run. Seed {scenario.seed}."
    )
    sections = [
        _numbers(total),
        _strips(outcome),
        _temperatures(outcome),
        _work(outcome),
        *_delays(outcome),
        *_charge(outcome),
        _reasons(outcome),
        _diary(outcome),
        _fleets(outcome, numbers),
        _faults(outcome, numbers),
    ]
    return report.page(title, lead.strip(), claims(outcome, numbers), sections)


def claims(outcome: Outcome, numbers: dict[str, Any]) -> list[report.Claim]:
    """What should hold in any scenario, and whether it does in this one."""
    total = numbers["total"]
    harmed = sum(d.diary.n_hot for d in outcome.devices)
    gone = sum(d.n_missing for d in outcome.devices)
    found = [
        report.Claim(
            "no device trained while it throttled"
            if not harmed
            else f"devices trained while they throttled, at {harmed} readings",
            not harmed,
        ),
        report.Claim(
            f"every observation that was accepted is there: {total['kept']:,} kept, {gone} gone without a reason",
            not gone,
        ),
    ]
    if total["recoveries_checked"]:
        text = (
            f"{total['crashes']} crashes, and after each that came between two events ({total['recoveries_checked']}) "
            f"the device remembered what it had known before; {total['recoveries_unequal']} did not"
        )
        found.append(report.Claim(text, not total["recoveries_unequal"]))
    if "grove" in numbers:
        from evergrove.sim.grove.run import claims as of_grove

        found += of_grove(numbers["grove"])
    return found


def _numbers(total: dict[str, Any]) -> report.Section:
    delay = total["delay_h"]
    tiles = [
        ("core-hours of learning", f"{total['work_core_h']:,.1f}"),
        (
            "updates accepted of those trained",
            f"{total['jobs'].get('accepted', 0)} of {total['jobs'].get('trained', 0)}",
        ),
        (
            "observations learnt; the others still wait",
            f"{total['learnt']:,} of {total['learnt'] + total['waiting']:,}",
        ),
        ("from kept to served, half of them within", f"{delay['p50']:.1f} h" if delay else "–"),
        ("hottest moment of any device", f"{total['temp_c_max']:.1f} °C" if total["temp_c_max"] is not None else "–"),
        ("hours throttled, all devices together", f"{total['throttled_h']:.1f}"),
        ("energy of learning, a device", f"{total['train_kj'] / max(total['devices'], 1):.1f} kJ"),
        ("left the devices", _size(sum(total["bytes_sent"].values()))),
    ]
    return report.Section("In numbers", "Of all devices together, unless it says otherwise.", report.facts(tiles))


def _strips(outcome: Outcome) -> report.Section:
    shown = _some(outcome)
    rows = [(device.name, spans(device)) for device in shown]
    body = timelines.strips(rows, outcome.scenario.start_hour, KINDS)
    lead = "One row for each device. What is paused or deferred has a reason, in a sentence: see further down."
    if len(shown) < len(outcome.devices):
        lead += f" Shown are {len(shown)} of {len(outcome.devices)}, some of every fleet."
    return report.Section("Decisions over time", lead, body)


def _temperatures(outcome: Outcome) -> report.Section:
    bodies = []
    for i, fleet in enumerate(outcome.scenario.fleet):
        line = band(_of(outcome, fleet), lambda p: p[1], f"{fleet.name}: coolest, middle and hottest", TONES[i % 5])
        limit = [(fleet.heat.trip_c, "here the system throttles")]
        bodies.append(timelines.bands([line], outcome.scenario.start_hour, "°C", "°", limit))
    lead = "Nights are shaded. The shield keeps training below the dashed line; what the apps do is theirs."
    return report.Section("Temperatures", lead, report.together(bodies))


def _work(outcome: Outcome) -> report.Section:
    lines = []
    for i, fleet in enumerate(outcome.scenario.fleet):
        label = f"{fleet.name}: least, middle and most of a device"
        lines.append(band(_of(outcome, fleet), lambda p: 60 * p[4], label, TONES[i % 5]))
    body = timelines.bands(lines, outcome.scenario.start_hour, "core-minutes", " min")
    return report.Section("Work done", "Minutes of one core that learning has had, from the start on.", body)


def _delays(outcome: Outcome) -> list[report.Section]:
    delays_h = [s / 3600 for d in outcome.devices for s in d.diary.delays_s]
    if not delays_h:
        return []
    body = timelines.distribution(delays_h, "h", "hours", "observations")
    waits_h = [s / 3600 for d in outcome.devices for s in d.diary.waits_s]
    if waits_h and max(waits_h) >= 0.1:
        body += timelines.distribution(waits_h, "h", "hours", "jobs, from wanted to begun", "cool")
    lead = (
        "How long an observation waits from the moment it is kept until a version that has learnt it serves; "
        "and how long a job waits for its place."
    )
    return [report.Section("How long learning takes", lead, body)]


def _charge(outcome: Outcome) -> list[report.Section]:
    fleets = [fleet for fleet in outcome.scenario.fleet if fleet.power.capacity_wh > 0]
    if not fleets:
        return []
    lines = [
        band(_of(outcome, f), lambda p: 100 * p[3], f"{f.name}: emptiest, middle and fullest", TONES[i % 5])
        for i, f in enumerate(fleets)
    ]
    floor = fleets[0].device_config(outcome.scenario.fog).shield.battery_floor_share
    limits = [(100 * floor, "on battery, nothing is trained below")]
    body = timelines.bands(lines, outcome.scenario.start_hour, "charge", " %", limits)
    return [report.Section("Batteries", "Charge over time.", body)]


def _reasons(outcome: Outcome) -> report.Section:
    """Which reasons were given how often: sentences without their numbers."""
    counts: dict[tuple[str, str], int] = {}
    for device in outcome.devices:
        for said in device.diary.said:
            key = said.choice, _shape(said.sentence)
            counts[key] = counts.get(key, 0) + 1
    rows = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:14]
    top = max((n for _, n in rows), default=1)
    body = "".join(
        f'<tr><td>{escape(choice)}</td><td>{escape(words)}</td><td class="n">{n:,}</td>'
        f'<td class="share"><i style="width:{n / top:.1%}"></i></td></tr>'
        for (choice, words), n in rows
    )
    lead = "Every change of mind is logged with one sentence. Here they are counted, numbers left out."
    return report.Section("Why", lead, f'<table class="tally"><tbody>{body}</tbody></table>')


def _diary(outcome: Outcome) -> report.Section:
    device = max(outcome.devices, key=lambda d: (len(d.diary.delays_s), len(d.diary.said)))
    start = outcome.scenario.start_hour
    lines = "".join(
        f"<li><time>{_clock(start + said.hour)}</time> <b>{escape(said.choice)}</b> "
        f"<span>{escape(said.sentence)}</span></li>"
        for said in device.diary.said[:SAID_MAX]
    )
    lead = f"{device.name}, in its own words. events.jsonl has every event of every device."
    return report.Section("One device's decisions", lead, f'<ol class="diary">{lines}</ol>')


def _fleets(outcome: Outcome, numbers: dict[str, Any]) -> report.Section:
    heads = (
        "fleet",
        "devices",
        "core-h",
        "accepted",
        "rejected",
        "learnt",
        "delay p50",
        "p90",
        "max °C",
        "throttled h",
    )
    rows = []
    for name, one in numbers["fleets"].items():
        delay, jobs = one["delay_h"] or {}, one["jobs"]
        cells = (
            name,
            one["devices"],
            f"{one['work_core_h']:.1f}",
            jobs.get("accepted", 0),
            jobs.get("reject", 0),
            f"{one['learnt']:,}",
            f"{delay['p50']:.1f} h" if delay else "–",
            f"{delay['p90']:.1f} h" if delay else "–",
            "–" if one["temp_c_max"] is None else f"{one['temp_c_max']:.1f}",
            f"{one['throttled_h']:.1f}",
        )
        rows.append(cells)
    return report.Section("The fleets", "One row for each; metrics.json has more.", table(heads, rows))


def _faults(outcome: Outcome, numbers: dict[str, Any]) -> report.Section:
    total = numbers["total"]
    carried = [device.carried for device in outcome.devices]
    rows = [
        ("devices lost their memory", f"{total['crashes']:,}"),
        ("of these at a write to the log", f"{total['crashes'] - total['recoveries_checked']:,}"),
        ("workers killed alone", f"{total['jobs'].get('interrupted', 0):,}"),
        ("messages sent", f"{sum(c.sent for c in carried):,}"),
        ("messages lost", f"{sum(c.dropped for c in carried):,}"),
        ("messages that came twice", f"{sum(c.duplicated for c in carried):,}"),
        ("fogs that did not answer", f"{total['jobs'].get('fog failed', 0):,}"),
        ("pictures missed while a device was off", f"{sum(d.n_unseen for d in outcome.devices):,}"),
    ]
    rows = [(what, n) for what, n in rows if n != "0"]
    shown = table(("", "times"), rows) if rows else "<p>Nothing did: no fault happened in this run.</p>"
    note = (
        f'<p class="digest">{numbers["events"]:,} events; BLAKE2b of all of them, in order: <code>{numbers["digest"]}'
        "</code>. The same scenario and seed give the same digest.</p>"
    )
    return report.Section("What went wrong", "Faults that the scenario asked for, and what came of them.", shown + note)


def band(devices: Sequence[VirtualDevice], value: Callable[[Any], float], label: str, tone: str) -> Band:
    """The lowest, the middle and the highest value of some devices over time, in at most ``SLOTS`` points.

    Points are taken slot by slot, so that a peak between two drawn points is still seen.
    """
    hours = np.array([p.hour for d in devices for p in d.diary.points])
    values = np.array([value((p.hour, p.temp_c, p.share, p.charge, p.work_h)) for d in devices for p in d.diary.points])
    if not len(hours):
        return Band(label, [], [], [], [], tone)
    n = min(SLOTS, max(len(d.diary.points) for d in devices))
    slots = np.minimum((hours / (hours.max() + 1e-9) * n).astype(int), n - 1)
    order = np.argsort(slots, kind="stable")
    slots, hours, values = slots[order], hours[order], values[order]
    starts = np.flatnonzero(np.diff(slots, prepend=-1))
    groups = np.split(values, starts[1:])
    return Band(
        label,
        [float(h) for h in np.add.reduceat(hours, starts) / np.diff(np.append(starts, len(hours)))],
        [float(g.min()) for g in groups],
        [float(np.median(g)) for g in groups],
        [float(g.max()) for g in groups],
        tone,
    )


def spans(device: VirtualDevice) -> list[Span]:
    """What a device was doing, from its curve: a span for each stretch of one phase and share."""
    found: list[Span] = []
    points = device.diary.points
    for before, after in pairwise(points):
        kind = "rest" if after.phase == "idle" else after.phase
        level = 0.25 + 0.75 * after.share if kind == "training" else 1.0
        if found and found[-1].kind == kind and found[-1].level == level and found[-1].to_h == before.hour:
            found[-1] = Span(found[-1].from_h, after.hour, kind, level)
        else:
            found.append(Span(before.hour, after.hour, kind, level))
    return [span for span in found if span.kind != "rest"] or [Span(0.0, max(points[-1].hour, 0.1), "rest")]


def table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table of numbers; the first column is text."""
    head = "".join(f"<th>{escape(h)}</th>" for h in heads)
    body = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table class="numbers"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _of(outcome: Outcome, fleet: Fleet) -> list[VirtualDevice]:
    return [device for device in outcome.devices if outcome.fleets[device.name] == fleet.name]


def _some(outcome: Outcome) -> list[VirtualDevice]:
    """At most ``STRIPS_MAX`` devices, as many of each fleet as its part of all."""
    if len(outcome.devices) <= STRIPS_MAX:
        return list(outcome.devices)
    step = len(outcome.devices) / STRIPS_MAX
    return [outcome.devices[int(i * step)] for i in range(STRIPS_MAX)]


def _clock(hour: float) -> str:
    day, rest = divmod(hour, 24)
    return f"day {int(day) + 1}, {int(rest):02d}:{int(rest % 1 * 60):02d}"


def _shape(sentence: str) -> str:
    """A sentence with its numbers taken out."""
    words = ("…" if any(ch.isdigit() for ch in word) else word for word in sentence.split())
    shape: list[str] = []
    for word in words:
        if not (word == "…" and shape and shape[-1] == "…"):
            shape.append(word)
    return " ".join(shape)


def _size(n_bytes: float) -> str:
    for unit in ("B", "kB", "MB"):
        if n_bytes < 1000:
            return f"{n_bytes:.0f} {unit}" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.1f} GB"
