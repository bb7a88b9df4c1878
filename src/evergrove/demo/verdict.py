"""From findings to numbers, and from numbers to a four-line verdict: nothing here measures, nothing is left out.

``metrics(findings)`` is what ``metrics.json`` holds; ``claims(metrics)`` says line by line what holds, and names every
bar that was missed.
"""

from typing import Any

import numpy as np

from evergrove import __version__
from evergrove.demo.findings import Findings, Rival
from evergrove.demo.script import NEW, Bars
from evergrove.media.report import Claim
from evergrove.views.sentences import together

Metrics = dict[str, Any]
SCHEMA = 1


def metrics(found: Findings) -> Metrics:
    """The run in numbers: accuracies are shares 0-1, times seconds or milliseconds as their names say."""
    assert found.first is not None
    bars = found.script.bars
    return {
        "schema": SCHEMA,
        "evergrove": __version__,
        "quick": found.quick,
        "seed": found.seed,
        "seconds": round(found.seconds, 1),
        "base": {"oracle_accuracy": found.base.mean(found.old), "by_emotion": found.base.right},
        "first_picture": {"load_ms": round(found.first.load_ms, 1), "latency_ms": round(found.first.latency_ms, 1)},
        "stream": {
            "observed": found.tally.observed,
            "kept": found.tally.kept,
            "train": found.tally.train,
            "golden": found.tally.golden,
            "dropped": found.tally.dropped_why,
            "refused": found.tally.refused_why,
            "same_for_both": found.same_kept,
        },
        "learning": {name: _learning(rival, found.old) for name, rival in found.rivals.items()},
        "gate": {
            "injected": len(found.offers),
            "refused": sum(offer.refused for offer in found.offers),
            "poison_norm_ratio": round(found.poison_norm, 3),
            "cases": {
                offer.saboteur.name: {"verdict": offer.result.verdict, "reason": offer.said} for offer in found.offers
            },
        },
        "recovery": {
            "kills": len(found.kills),
            "recovered": sum(rival.runner.recovered for rival in found.rivals.values()),
            "records_lost": found.records_lost,
            "cases": [{"whom": k.whom, "at_step": k.at_step, "resumed_at": k.resumed_at} for k in found.kills],
        },
        "inference": {
            **_latency(found.idle_ms, ""),
            **_latency(found.learning_ms, "learning_"),
        },
        "network": {"sockets_seen": found.sockets},
        "bars": {
            "evergrove_old": bars.evergrove_old,
            "evergrove_new": bars.evergrove_new,
            "naive_old": bars.naive_old,
        },
    }


def _learning(rival: Rival, old: tuple[str, ...]) -> Metrics:
    return {
        "old_accuracy": rival.final.mean(old),
        "new_accuracy": rival.final.mean(NEW),
        "by_emotion": rival.final.right,
        "gate": rival.gate,
        "gamma": rival.result.gamma,
        "lost": list(rival.lost),
        "steps": rival.result.steps,
        "seconds": round(rival.runner.trained_s, 1),
        "adapter_bytes": rival.candidate.stat().st_size,
    }


def _latency(values: "np.typing.ArrayLike", prefix: str) -> Metrics:
    array = np.asarray(values, np.float64)
    if not array.size:
        return {f"{prefix}n": 0}
    p50, p99 = (round(float(np.percentile(array, q)), 2) for q in (50, 99))
    return {f"{prefix}p50_ms": p50, f"{prefix}p99_ms": p99, f"{prefix}n": int(array.size)}


def claims(numbers: Metrics) -> tuple[Claim, Claim, Claim, Claim]:
    """Four lines: ours, the rival, protection, and what it costs."""
    bars = Bars(**numbers["bars"])
    return _ours(numbers, bars), _naive(numbers, bars), _protection(numbers), _cost(numbers)


def _ours(numbers: Metrics, bars: Bars) -> Claim:
    mine = numbers["learning"]["evergrove"]
    missed = _missed(
        (mine["old_accuracy"] >= bars.evergrove_old, f"old {mine['old_accuracy']:.2f} < {bars.evergrove_old:.2f}"),
        (mine["new_accuracy"] >= bars.evergrove_new, f"new {mine['new_accuracy']:.2f} < {bars.evergrove_new:.2f}"),
        (mine["gate"] == "accept", f"the gate said {mine['gate']}"),
    )
    words = (
        f"Evergrove learnt {together(NEW)} ({mine['new_accuracy']:.0%} right) and kept what it knew "
        f"({mine['old_accuracy']:.0%} right) in {mine['adapter_bytes'] / 1000:.0f} kB; {_word(mine['gate'])} it"
    )
    return _claim(words, missed)


def _naive(numbers: Metrics, bars: Bars) -> Claim:
    theirs = numbers["learning"]["naive"]
    missed = _missed(
        (theirs["old_accuracy"] <= bars.naive_old, f"old {theirs['old_accuracy']:.2f} > {bars.naive_old:.2f}"),
        (theirs["gate"] == "reject", f"the gate said {theirs['gate']}"),
        (theirs["steps"] == numbers["learning"]["evergrove"]["steps"], "not the same number of steps"),
        (numbers["stream"]["same_for_both"], "the devices kept different pictures"),
    )
    lost = together(theirs["lost"]) if theirs["lost"] else "nothing by name"
    words = (
        f"Plain fine-tuning on the same pictures and steps forgot ({theirs['old_accuracy']:.0%} of the old right); "
        f"{_word(theirs['gate'])} it for {lost}"
    )
    return _claim(words, missed)


def _protection(numbers: Metrics) -> Claim:
    gate, recovery = numbers["gate"], numbers["recovery"]
    let_in = [name for name, case in gate["cases"].items() if case["verdict"] not in ("refused", "rejected")]
    missed = _missed(
        (gate["refused"] == gate["injected"] > 0, f"served: {', '.join(let_in) or 'nothing was offered'}"),
        (recovery["recovered"] == recovery["kills"] > 0, f"{recovery['kills'] - recovery['recovered']} not recovered"),
        (recovery["records_lost"] == 0, f"{recovery['records_lost']} kept observations lost"),
    )
    words = (
        f"{gate['refused']} of {gate['injected']} bad adapters refused; {recovery['recovered']} of {recovery['kills']} "
        f"kills recovered with {recovery['records_lost']} observations lost"
    )
    return _claim(words, missed)


def _cost(numbers: Metrics) -> Claim:
    stream, speed = numbers["stream"], numbers["inference"]
    missed = _missed(
        (speed["n"] > 0 and speed["learning_n"] > 0, "no picture was timed"),
        (0 < stream["kept"] < stream["observed"], f"{stream['kept']} of {stream['observed']} kept"),
        (not numbers["network"]["sockets_seen"], "a process of the device held a network socket"),
    )
    network = "no network" if numbers["network"]["sockets_seen"] is not None else "network use not known here"
    words = (
        f"Kept {stream['kept']} of {stream['observed']} observations; a picture takes {speed.get('p50_ms', 0):.0f} ms "
        f"(p99 {speed.get('p99_ms', 0):.0f}), while learning {speed.get('learning_p50_ms', 0):.0f} ms "
        f"(p99 {speed.get('learning_p99_ms', 0):.0f}); {network}"
    )
    return _claim(words, missed)


def _word(gate: str) -> str:
    return "the golden gate " + {"accept": "accepted", "reject": "rejected"}.get(gate, "did not judge")


def _missed(*checks: tuple[bool, str]) -> list[str]:
    return [words for holds, words in checks if not holds]


def _claim(words: str, missed: list[str]) -> Claim:
    return Claim(f"{words}. MISSED: {'; '.join(missed)}." if missed else f"{words}.", not missed)
