"""``evergrove learn``: learn from what was observed, and say what the golden gate thought of it."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from evergrove.cli import show
from evergrove.cli.common import AsJson, DeviceOption, Settings, open_device

if TYPE_CHECKING:
    from evergrove import Device
    from evergrove.core.messages import JobResult, JobState

EXIT_CODES = {"accepted": 0, "passed": 0, "started": 0, "rejected": 5, "alarm": 5}
"""By verdict; all others (refused, failed, deferred) are failures (1)."""
STAGES = {"wait": "waiting for its place", "train": "training", "measure": "measuring"}


def learn(
    steps: Annotated[
        int,
        typer.Option("--steps", min=0, help="Training steps; 0: learn.steps. A B of few pictures takes fewer."),
    ] = 0,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Stay until it is done, or only start it.")] = True,
    device: DeviceOption = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Learn from the observations that wait: train an adapter, measure it, and let the golden gate decide.

    The device goes on drawing meanwhile. Exits with 5 where the gate rejects: then nothing has changed.

    Example: evergrove learn --steps 250
    """
    with open_device(device, settings) as opened, show.Progress("learning") as progress:
        try:
            earlier = wait_for_turn(opened) if wait else None
            result = opened.learn(steps=steps, wait=wait, progress=follow(progress))
        except KeyboardInterrupt as stop:
            show.note("no longer waiting; the device goes on learning, see `evergrove status`")
            raise typer.Exit(130) from stop
    finish(earlier if earlier and earlier.steps and result.verdict == "deferred" else result, as_json)


def wait_for_turn(device: "Device") -> "JobResult | None":
    """Let a device finish what it does already; gives how that ended."""
    job = device.status().job
    if job is None:
        return None
    show.note(f"the device is still {STAGES.get(job.stage, job.stage)} ({job.job}); this comes after it")
    return next((result for result in device.wait_idle().results if result.job == job.job), None)


def follow(progress: show.Progress) -> "Callable[[JobState], None]":
    """What to give to ``Device.learn`` so that its progress is shown."""

    def update(state: "JobState") -> None:
        again = f"attempt {state.attempt}" if state.attempt > 1 else ""
        loss = f"loss {state.loss:.3g}" if state.loss else ""
        words = ", ".join(part for part in (again, loss) if part)
        progress.update(
            state.step, state.steps, note=words, eta_s=state.eta_s, label=STAGES.get(state.stage, state.stage)
        )

    return update


def finish(result: "JobResult", as_json: bool) -> None:
    """Print how a job ended, or that it was started, and exit by its verdict."""
    if as_json:
        show.json(result)
    elif result.verdict == "started":
        show.line("Started; `evergrove status` shows how far it is.")
    else:
        show.line(show.sentence(result.sentence))
        facts = [
            show.plural(result.steps, "step") if result.steps else "",
            show.duration(result.seconds) if result.seconds else "",
            f"adapter {show.version_name(result.adapter)}" if result.adapter else "",
            show.size(result.n_bytes) if result.n_bytes else "",
        ]
        if any(facts):
            show.line(", ".join(fact for fact in facts if fact))
    if code := EXIT_CODES.get(result.verdict, 1):
        raise typer.Exit(code)
