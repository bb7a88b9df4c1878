"""Lays the fleet's findings out as one page: who drew what and when, what was sent, what was refused, and why."""

import time
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from evergrove.core import cloud_events
from evergrove.demo.fleet.cast import NEW
from evergrove.demo.fleet.findings import Findings, Seen, Story
from evergrove.media import charts, report
from evergrove.media.plots import Row
from evergrove.media.report import Section
from evergrove.views import gate
from evergrove.views.forgetting import Matrix
from evergrove.views.sentences import judgement

MOMENTS = (("before", "at first"), ("alone", "learnt alone"), ("after", "after the release"))
TRUST = (
    ("the cloud, and who runs it", "two sums of three updates each, without noise",
     "may learn about single devices from them: only trust, no ε"),
    ("a fog, and who runs it", "each device's update, until its cohort is summed",
     "sees single updates in any case, noise or none"),
    ("the other devices, and who reads a release", "the released B: the mean of six updates",
     "may learn about single devices: only trust, no ε"),
    ("everybody outside", "nothing: mutual TLS, certificates by one-time tokens", "–"),
    ("anybody at all", "a picture, its name, or a number of a single picture", "never leaves the device"),
)  # fmt: skip


def write_report(found: Findings, numbers: dict[str, Any], claims: Sequence[report.Claim]) -> Path:
    """``report.html``; gives its path."""
    n_real = len(found.stories)
    lead = (
        f"{n_real} devices, two fogs and a cloud, each a process of its own on this machine, mutual TLS between them. "
        "Each device met people of two looks, all of them either in love or dizzy, which the base has never seen. "
        f"Seed {found.seed}, {time.strftime('%d %B %Y, %H:%M')}, {found.seconds / 60:.1f} minutes."
    )
    sections = [
        _privacy(found, numbers), _devices(found, numbers), _matrix(found), _wire(found, numbers), _broken(found),
        _intruders(found), _gates(found), _noise(found, numbers), _timeline(found),
    ]  # fmt: skip
    held = all(claim.holds for claim in claims)
    n, taken = len(numbers["devices"]), numbers["release"]["taken_by"]
    title = "Six devices learn apart, and each can do what the others learnt"
    if taken < n:
        title = f"Six devices learn apart, and {taken} of {n} took what came of it"
    path = found.folder / "report.html"
    page = report.page(title if held else f"{title}: some of it did not hold", lead, claims, sections)
    path.write_text(page, encoding="utf-8")
    return path


def _privacy(found: Findings, numbers: dict[str, Any]) -> Section:
    rows = [(who, sees, protected) for who, sees, protected in TRUST]
    body = (
        '<p class="epsilon"><b>ε = ∞</b> <span>Noise is off. Six devices cannot be private: the noise that '
        "hides one of six drowns what they learnt (the last but one part of this page shows it). Who is trusted with "
        "what:</span></p>"
        + _table(("who", "sees", "protected by"), rows)
        + f"<p><b>What every device was told before it took part:</b> {escape(found.protection)}</p>"
    )
    return Section("Who is trusted with what", "What this fleet does not promise comes first.", body)


def _devices(found: Findings, numbers: dict[str, Any]) -> Section:
    means = numbers["means"]
    tiles = report.facts(
        [
            ("of what a device never saw is right at first", f"{means['before']['unseen']:.0%}"),
            ("of what it never saw is right when it learns alone", f"{means['alone']['unseen']:.0%}"),
            ("of what it never saw is right after the release", f"{means['after']['unseen']:.0%}"),
            ("of all pictures show whom the device was asked for, after the release", f"{means['after']['look']:.0%}"),
        ]
    )
    sheets = "".join(_sheet(found, name, story) for name, story in found.stories.items())
    return Section(
        "Six devices, three moments",
        "Every face but the first row was drawn by the device itself. 'Shown' are the real pictures that it learnt "
        "from; it was never shown anybody in the emotion with the star. The numbers are the share that an independent "
        "judge reads as what was asked for.",
        tiles + sheets,
    )


def _sheet(found: Findings, name: str, story: Story) -> str:
    asked, role = (*NEW, *found.old), story.role
    stars = {emotion: f"{emotion} ★" if emotion == role.unseen else emotion for emotion in asked}
    images = role.shown.images
    rows = [Row("shown", {stars[role.emotion]: list(images[:: max(1, len(images) // 4)])}, {})]
    for moment, label in MOMENTS:
        seen = _at(story, moment)
        pictures = {stars[emotion]: seen.pictures[emotion] for emotion in asked}
        rows.append(Row(label, pictures, {stars[emotion]: seen.right[emotion] for emotion in asked}))
    looks = " and ".join(dict.fromkeys(role.values))
    heading = (
        f"{name}, at fog {role.home}: shown {role.emotion}, never {role.unseen}. Its people: {looks} {role.factor}"
    )
    sheet = report.faces(rows, [stars[emotion] for emotion in asked], "not shown")
    return f"<h3>{escape(heading.replace('_', ' '))}</h3>{sheet}"


def _matrix(found: Findings) -> Section:
    asked = (*NEW, *found.old)
    maps = []
    for moment, label in MOMENTS:
        values = tuple(tuple(_at(story, moment).right[e] for e in asked) for story in found.stories.values())
        names = tuple(f"{name} (shown {story.role.emotion})" for name, story in found.stories.items())
        maps.append(report.heat_map(label, Matrix(names, asked, values)))
    return Section(
        "Device by condition",
        "The share of pictures that the judge reads as what was asked for, of every device in every emotion.",
        report.together(maps),
    )


def _wire(found: Findings, numbers: dict[str, Any]) -> Section:
    sent = numbers["bytes"]
    kinds = list(sent["by_kind"])
    rows = [
        (name, *(f"{of.get(kind, 0):,}" for kind in kinds), f"{sum(of.values()):,}")
        for name, of in sent["by_device"].items()
    ]
    tiles = report.facts(
        [
            ("raw media, by all devices together", f"{sent['raw_media']} B"),
            ("an update, once a device", f"{found.update_bytes / 1000:.0f} kB"),
            ("from fogs to cloud, over Flower, everything counted", f"{found.cable[0] / 1e6:.2f} MB"),
        ]
    )
    body = tiles + _table(("device", *(kind.replace("_", " ") for kind in kinds), "all"), rows)
    return Section(
        "Every byte that left a device",
        "From each device's own ledger, by kind; a byte is entered before it is sent.",
        body,
    )


def _broken(found: Findings) -> Section:
    series = {during: [f.latency_ms for f in found.frames if f.during == during] for during in _phases(found)}
    series = {during: values for during, values in series.items() if values}
    tiles = report.facts(
        [(one.what, f"{one.to_s - one.from_s:.0f} s") for one in found.faults]
        + [("pictures failed, of all that were asked for", str(len(found.frame_faults)))]
    )
    return Section(
        "A dead fog, a cut line",
        "An app kept asking one device for pictures all the while. Nothing of it touches a network, so nothing waits.",
        tiles + charts.histogram(series),
    )


def _intruders(found: Findings) -> Section:
    rows = [(one.who, one.what, "refused" if one.refused else "LET IN", one.reason, one.said) for one in found.attempts]
    return Section(
        "Intruders at the fog's door",
        "Mallory is a member of the fleet with a valid certificate; the lost phone is in the hands of a thief, and its "
        "certificate was revoked. The reason is the typed answer that the fog gave.",
        _table(("who", "tried", "outcome", "reason", "the fog's words"), rows),
    )


def _gates(found: Findings) -> Section:
    rows = []
    for name, story in found.stories.items():
        assert story.result is not None
        looks = [look for look in gate.of(story.log) if look.verdict != "passed"]
        own = next((look for look in looks if look.passed), looks[0] if looks else None)
        rows.append((name, f"{story.result.verdict} at {own.gamma if own else 0:g}", story.result.sentence, story.took))
    fleet = [(look.verdict, f"{look.gamma:g}", look.sentence) for look in found.looks]
    counted = sum(isinstance(event, cloud_events.CohortReceived) for _, event in found.cloud)
    return Section(
        "What the golden gates said",
        "Each device judges what it has learnt, and later what the release brings; the fleet's gate judged what "
        f"{counted} sums made, before a person signed it.",
        _table(("device", "its own learning", "in words", "the release"), rows)
        + _table(("the fleet's gate", "strength", "in words"), fleet),
    )


def _noise(found: Findings, numbers: dict[str, Any]) -> Section:
    arm = found.arm
    assert arm is not None
    tiles = report.facts(
        [
            ("ε of this generation, by the fogs' ledgers (δ = 1e-6)", f"{arm.epsilon:.3f}"),
            ("how many updates long the noise on a sum of three is", f"{arm.noise_norm:.0f}"),
            ("the fleet's gate", f"{arm.verdict}ed" if arm.verdict == "reject" else arm.verdict),
        ]
    )
    looks = [
        (f"{look.gamma:g}", look.verdict, judgement(look.verdict, look.gamma, look.failed, found.vocabulary))
        for look in arm.looks
    ]
    return Section(
        "The same six updates with noise",
        "Gathered once more by the same rules with ε = 1: clipped, summed, noised by BLT, charged to a ledger, "
        "consolidated, measured. Fogs and driver ran inside one process here; numbers and rules are those of the "
        "services. What protects six devices this well leaves nothing of what they learnt; it takes thousands.",
        tiles + _table(("strength", "verdict", "why"), looks),
    )


def _timeline(found: Findings) -> Section:
    said = [(moment.at_s, moment.what, 1) for moment in found.timeline]
    return Section(
        "What happened when",
        "Seconds since the story began; events.jsonl has every device's log.",
        report.decisions(said),
    )


def _at(story: Story, moment: str) -> Seen:
    seen: Seen | None = getattr(story, moment)
    assert seen is not None
    return seen


def _phases(found: Findings) -> list[str]:
    """What went on while pictures were made: the faults, and undisturbed learning beside them."""
    return [*(one.what for one in found.faults), "learning"]


def _table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table of words: every column begins at its left."""
    head = "".join(f"<th>{escape(one)}</th>" for one in heads)
    body = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    inside = f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
    return f'<div class="wide"><table class="numbers words">{inside}</table></div>'
