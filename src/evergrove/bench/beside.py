"""What trains beside a stream in ``evergrove bench latency``: the device's own worker, and how it is done without one.

All three learn the same pictures in the same way, and each is driven by a gate: its share of 0 or 1 pauses it and lets
it go on, and the rows that it has trained are read there. Only the worker's gate is the one in which the device's apps
announce their frames; a rival has a gate to itself, in which nobody ever makes any.
"""

import multiprocessing
import os
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from evergrove.adapters.files import Files
from evergrove.adapters.keys import FileKey
from evergrove.adapters.release import Release, open_release
from evergrove.adapters.vault import Vault
from evergrove.bootstrap import Device, read_identity
from evergrove.core.config import Learn
from evergrove.core.errors import EvergroveError
from evergrove.core.jobs import Train
from evergrove.learn import trainer
from evergrove.learn.strategies import Samples
from evergrove.media.packs import pack_of_bytes
from evergrove.runtime import assembly, workers
from evergrove.runtime.frame_gate import FrameGate, Training, path_of
from evergrove.runtime.pacing import Pace

PICTURES = "demo.npz"
STEPS = 1_000_000
"""A job that no measurement sees the end of."""
N_NEW = 60
READY_S_MAX = 300.0
CALM_S_MAX = 30.0
WARM_ROWS = 64
"""Rows before anything is measured: what is made in the first steps is there by then."""

Shown = tuple[NDArray[np.uint8], dict[str, str]]


@dataclass
class Trainer:
    """One trainer, paused or at work. ``end`` ends it for good; ``alive`` says whether it still runs."""

    gate: FrameGate
    end: Callable[[], None]
    alive: Callable[[], bool]
    latest: Training = field(default_factory=lambda: Training(0, 0.0, 0.0, 0, 0, 0, 0))

    def go_on(self) -> None:
        """From its next look at the gate on."""
        self.gate.set_share(1.0)

    def pause(self, meanwhile: Callable[[], None]) -> None:
        """Returns once it has stopped; calls ``meanwhile``, which takes a moment, until then."""
        self.gate.set_share(0.0)
        deadline_s = time.monotonic() + CALM_S_MAX
        before = self.said()
        while time.monotonic() < deadline_s:
            meanwhile()
            now = self.said()
            # A paused trainer looks at the gate and does nothing; one in the middle of something does not look.
            if now.at_s > before.at_s and now.pieces == before.pieces:
                return
            before = now
        raise EvergroveError(f"the trainer has not paused within {CALM_S_MAX:g} s")

    def rows(self) -> int:
        """Rows that it has trained."""
        return self.said().rows

    def said(self) -> Training:
        """Its latest report; raises ``EvergroveError`` where it has ended."""
        if not self.alive():
            raise EvergroveError("the trainer has ended while it was measured")
        self.latest = self.gate.training() or self.latest  # none while a long piece keeps it from looking
        return self.latest

    def wait_ready(self) -> None:
        """Returns once it takes steps; raises ``EvergroveError`` where that takes too long."""
        deadline_s = time.monotonic() + READY_S_MAX
        while self.rows() < WARM_ROWS:
            if time.monotonic() > deadline_s:
                raise EvergroveError(f"the trainer has not taken its first steps within {READY_S_MAX:g} s")
            time.sleep(0.1)


def pictures(release: Release) -> list[Shown]:
    """Real pictures of conditions that the release does not know, each with its condition in words."""
    pack, vocabulary = pack_of_bytes((release.folder / PICTURES).read_bytes(), PICTURES), release.manifest.vocabulary
    new = np.flatnonzero((pack.codes > np.array(vocabulary.sizes)).any(axis=1))[:N_NEW]
    if not len(new):
        raise EvergroveError(f"{release.folder / PICTURES}: no picture of anything new to the release")
    return [
        (
            pack.images[i],
            {
                factor.name: factor.values[code - 1] if code <= len(factor.values) else f"new-{code}"
                for factor, code in zip(vocabulary.factors, pack.codes[i].tolist(), strict=True)
                if code
            },
        )
        for i in new
    ]


def worker(device: Device, folder: Path) -> Trainer:
    """The device's own worker on all that the device has kept, started as its agent would start it."""
    identity, release = read_identity(device.root), open_release(read_identity(device.root).release)
    vault = Vault(device.root / "vault", identity.device, FileKey(device.root / "device.key"), read_only=True)
    fresh = tuple(record.id for record in vault.all("train"))
    job = Train(str(device.root), str(release.folder), None, fresh, Learn(steps=STEPS), 0)
    workers.prepare(folder, job, Files())
    gate = FrameGate(path_of(device.root))
    gate.set_share(1.0)
    with (folder / "worker.log").open("ab") as log:
        process = subprocess.Popen(
            workers.command(folder, os.getpid()),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            env=workers.environment(job.learn.threads),
        )

    def end() -> None:
        process.kill()
        process.wait()
        gate.close()

    return Trainer(gate, end, lambda: process.poll() is None)


def plain_process(release: Release, folder: Path) -> Trainer:
    """A rival: a process as any other, with as many threads as there are cores, that asks nobody."""
    gate, context = FrameGate(folder / "own.gate"), multiprocessing.get_context("spawn")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    process = context.Process(target=train_plainly, args=(release.folder, folder, cores), daemon=True)
    process.start()

    def end() -> None:
        process.kill()
        process.join()
        gate.close(remove=True)

    return Trainer(gate, end, process.is_alive)


def plain_thread(release: Release, folder: Path) -> Trainer:
    """A rival: a thread of the very process that makes the frames."""
    gate, ended = FrameGate(folder / "own.gate"), threading.Event()
    thread = threading.Thread(
        target=train_plainly, args=(release.folder, folder, None, lambda: not ended.is_set()), daemon=True
    )
    thread.start()

    def end() -> None:
        ended.set()
        thread.join()
        gate.close(remove=True)

    return Trainer(gate, end, thread.is_alive)


def train_plainly(place: Path, folder: Path, threads: int | None, go_on: Callable[[], bool] = lambda: True) -> None:
    """The same job without anything that makes it small; ``threads`` None leaves this process as it is."""
    if threads is not None:
        torch.set_num_threads(threads)
    release = open_release(place)
    parts = assembly.open_parts(release)
    shown, vocabulary = pictures(release), release.manifest.vocabulary
    for _, condition in shown:
        vocabulary = vocabulary.extend(condition)
    images = np.stack([image for image, _ in shown])
    codes = np.array([vocabulary.encode(condition) for _, condition in shown], np.int16)
    lesson = assembly.Lesson(Samples(images, codes), Samples(images[:0], codes[:0]), None, vocabulary, 0)
    task = assembly.task_of(parts, lesson, Learn(steps=STEPS))
    pace = Pace(FrameGate(folder / "own.gate"), cores=1, yields=False, alive=go_on)
    trainer.train(task, folder, trainer.Hooks(micro_batch=pace.micro_batch, write=Files().write))
