"""Two devices learn the same pictures at the same time, one naively and one with Evergrove, and are disturbed.

Each has its own agent and its own worker process. Meanwhile this process keeps asking the second one for pictures, and
kills its trainer and its agent in the middle. Out come results, latencies, checkpoints on the way, and what became of
every kill.
"""

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import safe_open

from evergrove.adapters.ownership import find_agent
from evergrove.bootstrap import Device
from evergrove.core.errors import EvergroveError
from evergrove.core.messages import JobResult, JobState
from evergrove.demo.narrator import Narrator
from evergrove.demo.script import Script
from evergrove.demo.wires import network_sockets
from evergrove.learn.trainer import CANDIDATE, CHECKPOINT


@dataclass
class Kill:
    """One SIGKILL: to whom, at which step, and at which step the training was seen again afterwards."""

    whom: str
    pid: int
    at_step: int
    resumed_at: int | None = None


@dataclass
class Runner:
    """One device on its way: what was seen of its job so far. Filled by its own thread."""

    name: str
    device: Device
    kills: list[tuple[float, str]] = field(default_factory=list)
    killed: list[Kill] = field(default_factory=list)
    checkpoints: dict[int, Path] = field(default_factory=dict)
    candidate: Path | None = None
    state: JobState | None = None
    trained_s: float = 0.0
    sockets: int | None = None
    result: JobResult | None = None
    fault: EvergroveError | None = None

    @property
    def training(self) -> bool:
        """Whether its trainer is at work (and not the gate)."""
        return self.result is None and self.state is not None and self.state.stage == "train"

    @property
    def recovered(self) -> int:
        """Kills after which the training went on, in a job that came to its end."""
        ended = self.result is not None and self.result.verdict in ("accepted", "rejected")
        return sum(k.resumed_at is not None for k in self.killed) if ended else 0


def race(
    devices: Mapping[str, Device], folder: Path, script: Script, narrator: Narrator, condition: Mapping[str, str]
) -> tuple[dict[str, Runner], list[float]]:
    """Runs all devices to the end of their jobs; the latencies in ms are of pictures made while both were training.

    Raises the first error of a device's job, once all have ended.
    """
    folder.mkdir(parents=True)
    runners = {name: Runner(name, device) for name, device in devices.items()}
    runners["evergrove"].kills = list(script.kills)
    threads = [threading.Thread(target=_run, args=(r, folder, narrator), daemon=True) for r in runners.values()]
    for thread in threads:
        thread.start()
    latencies_ms = []
    while any(thread.is_alive() for thread in threads):
        began_s = time.monotonic()
        busy = all(r.training for r in runners.values())
        picture = devices["evergrove"].generate(condition)
        if busy and all(r.training for r in runners.values()):
            latencies_ms.append(picture.latency_ms)
        _look_for_sockets(runners)
        _report(runners, narrator)
        time.sleep(max(0.0, script.picture_every_s - (time.monotonic() - began_s)))
    for runner in runners.values():
        if runner.fault is not None:
            raise runner.fault
    return runners, latencies_ms


def _run(runner: Runner, folder: Path, narrator: Narrator) -> None:
    """One device's job, from its thread."""
    began_s = time.monotonic()

    def progress(state: JobState) -> None:
        runner.state = state
        if state.stage == "train":
            runner.trained_s = time.monotonic() - began_s
            _keep_checkpoint(runner, folder, state)
            _notice_return(runner, state, narrator)
            _maybe_kill(runner, state, narrator)
        elif runner.candidate is None:
            _keep_candidate(runner, folder, state)

    try:
        runner.result = runner.device.learn(progress=progress)
    except EvergroveError as fault:
        runner.fault = fault
        return
    narrator.tell(f"{runner.name} {runner.result.verdict}: {runner.result.sentence}")


def _look_for_sockets(runners: Mapping[str, Runner]) -> None:
    """The most network sockets that were ever seen in an agent, a trainer or this process."""
    for runner in runners.values():
        agent = find_agent(runner.device.root)
        pids = [os.getpid(), *([agent.pid] if agent else []), *([runner.state.pid] if runner.state else [])]
        held = network_sockets(pid for pid in pids if pid)
        if held is not None:
            runner.sockets = max(held, runner.sockets or 0)


def _report(runners: Mapping[str, Runner], narrator: Narrator) -> None:
    parts, shares = [], []
    for runner in runners.values():
        state = runner.state
        if runner.result is not None:
            parts.append(f"{runner.name} done")
            shares.append(1.0)
        elif state is not None:
            steps = f"{state.step}/{state.steps}" if state.stage == "train" else "at the golden gate"
            parts.append(f"{runner.name} {steps}")
            shares.append(0.8 * state.step / max(state.steps, 1) if state.stage == "train" else 0.9)
    narrator.progress(min(shares, default=0.0), ", ".join(parts))


def _keep_checkpoint(runner: Runner, folder: Path, state: JobState) -> None:
    """A second name for the checkpoint's file: a later one replaces the first name and leaves this one alone."""
    path = runner.device.root / "jobs" / state.job / CHECKPOINT
    link = folder / f"{runner.name}-next.safetensors"
    with contextlib.suppress(OSError):
        if runner.checkpoints and path.stat().st_ino == next(reversed(runner.checkpoints.values())).stat().st_ino:
            return
        link.unlink(missing_ok=True)
        os.link(path, link)
        with safe_open(link, "pt") as file:
            step = len(json.loads((file.metadata() or {})["losses"]))
        runner.checkpoints[step] = link.rename(folder / f"{runner.name}-{step:05d}.safetensors")


def _keep_candidate(runner: Runner, folder: Path, state: JobState) -> None:
    """What the training made, at its full strength, before the gate weakens or discards it."""
    link = folder / f"{runner.name}-candidate.safetensors"
    with contextlib.suppress(OSError):
        os.link(runner.device.root / "jobs" / state.job / CANDIDATE, link)
        runner.candidate = link


def _maybe_kill(runner: Runner, state: JobState, narrator: Narrator) -> None:
    if not runner.kills or state.step < runner.kills[0][0] * state.steps or not state.pid or not state.steps:
        return
    if runner.killed and runner.killed[-1].resumed_at is None:
        return
    _, whom = runner.kills.pop(0)
    pid = state.pid if whom == "trainer" else runner.device.agent_pid
    os.kill(pid, signal.SIGKILL)
    runner.killed.append(Kill(whom, state.pid, state.step))
    narrator.tell(f"kill -9: the {whom} of the {runner.name} device (process {pid}) at step {state.step}")


def _notice_return(runner: Runner, state: JobState, narrator: Narrator) -> None:
    """After a kill: the first progress of another process says where the training went on."""
    if not runner.killed or runner.killed[-1].resumed_at is not None:
        return
    last = runner.killed[-1]
    if state.pid not in (0, last.pid) and state.step:
        last.resumed_at = state.step
        again = max(last.at_step - state.step, 0)
        narrator.tell(f"it came back by itself and went on at step {state.step}; {again} steps were done again")
