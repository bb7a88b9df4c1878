"""``evergrove status``: what a device holds and does, and what it decided lately."""

import time
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evergrove.cli import show, status_cloud
from evergrove.cli.common import AsJson, DeviceOption, open_device
from evergrove.cli.learn import STAGES

if TYPE_CHECKING:
    from evergrove.core.messages import FleetState, JobState, Status


def status(
    folder: Annotated[
        Path | None, typer.Argument(metavar="[FOLDER]", help="A cloud's folder, or a device's instead of --device.")
    ] = None,
    decisions: Annotated[
        int, typer.Option("--decisions", "-n", min=0, help="How many of its latest decisions to show.")
    ] = 10,
    device: DeviceOption = None,
    as_json: AsJson = False,
) -> None:
    """Show what a device holds, what it does now, and its latest decisions, each with its reason.

    Of a cloud: what it goes on from, what it counted, what waits for a signature, and what each release spent.

    Example: evergrove status --decisions 20
    """
    if folder is not None and status_cloud.is_cloud(folder):
        seen = status_cloud.view(folder, time.time())
        show.json(seen) if as_json else status_cloud.say(seen)
        return
    with open_device(folder or device) as opened:
        now = opened.status()
    if as_json:
        show.json(now)
        return
    show.table(facts(now))
    if decisions and now.decisions:
        show.line("\nLatest decisions, newest last:")
        for sentence, times in latest(now.decisions, decisions):
            show.line(f"  {show.sentence(sentence)}" + (f" ({times} times)" if times > 1 else ""))
    for warning in now.warnings:
        show.note(f"warning: {warning}")


def facts(now: "Status") -> list[tuple[str, str]]:
    """A status as rows for people."""
    dropped = ", ".join(f"{n} {reason}" for reason, n in sorted(now.dropped.items(), key=lambda item: -item[1]))
    n_dropped = sum(now.dropped.values())
    active = show.version_words(now.active)
    if now.on_probation:
        active += ", on probation"
    if now.active:
        active += f"; before it {show.version_words(now.previous)}"
    rows = [
        ("device", now.device),
        ("release", now.release),
        ("active", active),
        ("observed", f"{now.observed}: kept {now.kept}, dropped {n_dropped}{f' ({dropped})' if dropped else ''}"),
        ("replay buffer", counts(now.records)),
        ("own golden set", counts(now.golden)),
        ("waiting to be learnt", show.plural(now.waiting, "observation")),
        ("golden gate", f"{now.gate_looks} of {now.gate_looks_max} updates judged with this golden set"),
        ("now", job(now.job)),
    ]
    return rows + (fleet(now.fleet) if now.fleet is not None else [])


def fleet(state: "FleetState") -> list[tuple[str, str]]:
    """What it has to do with its fleet, as rows for people: who gathers, who is trusted with what, what was sent."""
    home = f"{state.home} ({state.fog}), generation {state.generation}" if state.home else f"{state.fog}, not heard yet"
    rows = [("home fog", home)]
    if state.rollout:
        rows.append(("rollout", state.rollout))
    if not state.federates:
        return [*rows, ("updates", "none are sent: fleet.federate = false")]
    bound = "∞: no noise" if state.epsilon is None else f"{state.epsilon:g} a generation"
    refused = f", {state.n_refused} refused" if state.n_refused else ""
    waits = f"; waiting: {state.waits}" if state.waits else ""
    rows.append(("updates", f"{state.n_counted} counted{refused}{waits}"))
    return [*rows, ("ε, as it says", f"{bound}. {state.protection}")] if state.home else rows


def latest(decisions: Sequence[str], n: int) -> list[tuple[str, int]]:
    """The last ``n`` decisions, each with how often it was taken in a row."""
    return [(sentence, len(list(same))) for sentence, same in groupby(decisions)][-n:]


def counts(by_name: dict[str, int]) -> str:
    """``{"emotion=love": 24}`` → ``24 (emotion=love 24)``."""
    if not by_name:
        return "empty"
    parts = ", ".join(f"{name} {n}" for name, n in sorted(by_name.items()))
    return f"{sum(by_name.values())} ({parts})"


def job(state: "JobState | None") -> str:
    """What a device is doing, in words."""
    if state is None:
        return "nothing to do"
    far = f", step {state.step} of {state.steps}" if state.steps else ""
    left = f", {show.duration(state.eta_s)} left" if state.eta_s else ""
    again = f", attempt {state.attempt}" if state.attempt > 1 else ""
    return f"{STAGES.get(state.stage, state.stage)}{far}{left}{again}"
