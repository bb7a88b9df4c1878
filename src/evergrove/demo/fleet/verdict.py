"""From findings to numbers, and from numbers to a verdict of six lines: nothing here measures, nothing is left out."""

from typing import Any

import numpy as np

from evergrove import __version__
from evergrove.demo.fleet.cast import NEW
from evergrove.demo.fleet.findings import Findings, Seen, Story
from evergrove.demo.fleet.script import Bars
from evergrove.media.report import Claim

Metrics = dict[str, Any]
SCHEMA = 1
RAW = ("trusted_request", "trusted_work")
"""The kinds of the byte ledger under which raw media could leave a device."""


def metrics(found: Findings) -> Metrics:
    """The run in numbers: accuracies are shares 0-1, times seconds or milliseconds as their names say."""
    bars = found.script.bars
    sent = found.bytes_sent()
    kinds = sorted({kind for of in sent.values() for kind in of})
    totals = {kind: sum(of.get(kind, 0) for of in sent.values()) for kind in kinds}
    arm = found.arm
    return {
        "schema": SCHEMA,
        "evergrove": __version__,
        "quick": found.quick,
        "seed": found.seed,
        "seconds": round(found.seconds, 1),
        "devices": {name: _device(story) for name, story in found.stories.items()},
        "means": {moment: _means(found, moment) for moment in ("before", "alone", "after")},
        "privacy": {"epsilon": None, "protection": found.protection},
        "bytes": {"by_kind": totals, "raw_media": sum(totals.get(kind, 0) for kind in RAW), "by_device": sent},
        "update": {"n_bytes": found.update_bytes, "norms": {k: round(v, 2) for k, v in found.updates.items()}},
        "cable": {"up_bytes": found.cable[0], "down_bytes": found.cable[1]},
        "release": {
            "version": found.served_version,
            "taken_by": sum(story.gamma is not None for story in found.stories.values()),
            "gate": [look.verdict for look in found.looks],
        },
        "faults": [
            {"what": one.what, "seconds": round(one.to_s - one.from_s, 1), **_frames(found, one.what)}
            for one in found.faults
        ],
        "frames": {**_frames(found), "failed": len(found.frame_faults)},
        "intruders": [
            {"who": one.who, "what": one.what, "reason": one.reason, "refused": one.refused} for one in found.attempts
        ],
        "with_noise": None
        if arm is None
        else {
            "epsilon": arm.epsilon, "clip": round(arm.clip, 3), "noise_over_clip": round(arm.noise_norm, 1),
            "verdict": arm.verdict, "looks": [look.sentence for look in arm.looks],
        },
        "bars": {name: getattr(bars, name) for name in Bars.__dataclass_fields__},
    }  # fmt: skip


def _device(story: Story) -> Metrics:
    assert story.result is not None
    moments = {name: seen for name in ("before", "alone", "after") if (seen := getattr(story, name)) is not None}
    return {
        "fog": story.role.home,
        "shown": story.role.emotion,
        "never_shown": story.role.unseen,
        "observed": story.observed,
        "kept": story.kept,
        "accuracy": {name: dict(seen.right) for name, seen in moments.items()},
        "look": {name: seen.look for name, seen in moments.items()},
        "own_gate": {"verdict": story.result.verdict, "gamma": story.result.gamma, "steps": story.result.steps},
        "release_gamma": story.gamma,
    }


def _means(found: Findings, moment: str) -> Metrics:
    pairs: list[tuple[Story, Seen]] = [(story, getattr(story, moment)) for story in found.stories.values()]
    unseen = [seen.right[story.role.unseen] for story, seen in pairs]
    return {
        "own": float(np.mean([seen.right[story.role.emotion] for story, seen in pairs])),
        "unseen": float(np.mean(unseen)),
        "unseen_least": float(min(unseen)),
        "old": float(np.mean([seen.mean(found.old) for _, seen in pairs])),
        "look": float(np.mean([seen.look for _, seen in pairs])),
    }


def _frames(found: Findings, during: str | None = None) -> Metrics:
    values = [one.latency_ms for one in found.frames if during is None or one.during == during]
    if not values:
        return {"pictures": 0}
    p50, p99 = (round(float(np.percentile(values, q)), 1) for q in (50, 99))
    return {"pictures": len(values), "p50_ms": p50, "p99_ms": p99, "slowest_ms": round(max(values), 1)}


def claims(numbers: Metrics) -> tuple[Claim, ...]:
    """Six lines: alone, together, what goes on, intruders, privacy, and what noise would do."""
    bars = Bars(**numbers["bars"])
    return (
        _alone(numbers, bars), _together(numbers, bars), _goes_on(numbers, bars), _intruders(numbers),
        _privacy(numbers), _noise(numbers),
    )  # fmt: skip


def _alone(numbers: Metrics, bars: Bars) -> Claim:
    alone, n = numbers["means"]["alone"], len(numbers["devices"])
    accepted = sum(one["own_gate"]["verdict"] == "accepted" for one in numbers["devices"].values())
    missed = _missed(
        (alone["own"] >= bars.own, f"own {alone['own']:.2f} < {bars.own:.2f}"),
        (accepted == n, f"{accepted} of {n} passed their own gate"),
    )
    words = (
        f"Each of {n} devices learnt what it was shown ({alone['own']:.0%} right); what only others were shown "
        f"it could not draw ({alone['unseen']:.0%} right)"
    )
    return _claim(words, missed)


def _together(numbers: Metrics, bars: Bars) -> Claim:
    after, n = numbers["means"]["after"], len(numbers["devices"])
    taken = numbers["release"]["taken_by"]
    missed = _missed(
        *(
            (after[key] >= getattr(bars, key), f"{key} {after[key]:.2f} < {getattr(bars, key):.2f}")
            for key in ("own", "unseen", "unseen_least", "old", "look")
        ),
        (taken == n or not bars.all_take, f"{taken} of {n} devices took the release"),
    )
    if taken == n:
        head = f"After one release every device draws {' and '.join(NEW)}"
    elif numbers["release"]["version"]:
        head = f"A release came back to every device, and {n - taken} of {n} turned it down by their own gates"
    else:
        head = "The fleet's gate refused what came of the six, so no release came back"
    words = (
        f"{head}: {after['unseen']:.0%} of what it never saw is right (the worst device {after['unseen_least']:.0%}), "
        f"{after['own']:.0%} of its own, {after['old']:.0%} of what all knew; {after['look']:.0%} show whom it was "
        "asked for"
    )
    return _claim(words, missed)


def _goes_on(numbers: Metrics, bars: Bars) -> Claim:
    frames, faults = numbers["frames"], numbers["faults"]
    slowest = frames.get("slowest_ms", float("inf"))
    missed = _missed(
        (frames["failed"] == 0, f"{frames['failed']} pictures failed"),
        (slowest <= bars.frame_ms, f"a picture took {slowest:.0f} ms"),
        (len(faults) == 2, f"{len(faults)} of 2 faults were seen through"),
        (all(one["pictures"] > 0 for one in faults), "no picture was asked for during a fault"),
    )
    said = "; ".join(
        f"{one['what']} for {one['seconds']:.0f} s: {one['pictures']} pictures, the slowest "
        f"{one.get('slowest_ms', 0):.0f} ms"
        for one in faults
    )
    return _claim(f"No picture waited: {frames['pictures']} made, none failed ({said})", missed)


def _intruders(numbers: Metrics) -> Claim:
    attempts = numbers["intruders"]
    refused = sum(one["refused"] for one in attempts)
    let_in = [f"{one['who']}: {one['what']}" for one in attempts if not one["refused"]]
    missed = _missed((refused == len(attempts) > 0, f"not refused as it should be: {'; '.join(let_in)}"))
    reasons = ", ".join(sorted({one["reason"] for one in attempts if one["reason"]}))
    return _claim(
        f"{refused} of {len(attempts)} attempts of a poisoned and a stolen device refused by the fog ({reasons})",
        missed,
    )


def _privacy(numbers: Metrics) -> Claim:
    sent = numbers["bytes"]
    n_updates = sent["by_kind"].get("update", 0)
    missed = _missed(
        (sent["raw_media"] == 0, f"{sent['raw_media']} B of raw media left a device"),
        (n_updates > 0, "no update was sent"),
        ("∞" in numbers["privacy"]["protection"], "the devices were not told that there is no noise"),
    )
    total = sum(sent["by_kind"].values())
    words = (
        f"ε = ∞: six devices cannot be private. Raw media sent: {sent['raw_media']} B; {total / 1e6:.2f} MB in all, of "
        f"which {n_updates / 1e6:.2f} MB are updates"
    )
    return _claim(words, missed)


def _noise(numbers: Metrics) -> Claim:
    arm = numbers["with_noise"]
    missed = _missed(
        (arm["verdict"] == "reject", f"the fleet's gate said {arm['verdict']}"),
        (0 < arm["epsilon"] <= 1.0, f"ε = {arm['epsilon']:.3f}"),
    )
    words = (
        f"With ε = {arm['epsilon']:.2f} the noise is {arm['noise_over_clip']:.0f} times as long as an update, and the "
        "fleet's gate refuses what comes of it"
    )
    return _claim(words, missed)


def _missed(*checks: tuple[bool, str]) -> list[str]:
    return [words for holds, words in checks if not holds]


def _claim(words: str, missed: list[str]) -> Claim:
    return Claim(f"{words}. MISSED: {'; '.join(missed)}." if missed else f"{words}.", not missed)
