"""Fog workers over one store, in processes of their own: what one does with an update, and a process that does it."""

import multiprocessing
import os
from multiprocessing.synchronize import Barrier
from pathlib import Path

from fogs import body, head

from evergrove.adapters.fog_store import FogStore
from evergrove.core import fog
from evergrove.core.errors import UpdateRefused
from evergrove.core.fog import Receipt
from evergrove.core.transport import Update
from evergrove.runtime.fog_service import Answer, FogService, faulty

Share = list[tuple[str, int]]
"""Devices, each with what its update is made of."""
_barriers: list[Barrier] = []


def submit(worker: FogService, device: str, data: bytes, nonce: int = 0, update: Update | None = None) -> Answer:
    """As the web does it: head, body, decision."""
    update = update or head(device, data, nonce)
    if not worker.offer(device, update):
        return worker.decide([(fog.UpdateOffered(device, update), "")])[0]
    upload = worker.store.bodies.begin(update.digest, update.n_bytes)
    try:
        upload.write(data[:100])
        upload.write(data[100:])
    except UpdateRefused as fault:
        upload.drop()
        return worker.decide([(faulty(device, update, fault), "")])[0]
    return worker.decide([worker.measure(device, update, upload)])[0]


def serve(folder: Path, url: str | None, mine: Share) -> tuple[int, list[Receipt | str]]:
    """One worker's life: its process, and its answers. It begins when all others do."""
    store = FogStore(folder, url)
    worker = FogService("north", store, lambda: 100.0)
    worker.start()
    _barriers[0].wait(60)
    answers: list[Receipt | str] = []
    for device, seed in mine:
        answer = submit(worker, device, body(seed))
        answers.append(answer if isinstance(answer, Receipt) else str(answer))
        worker.work()
    store.close()
    return os.getpid(), answers


def _meet_at(barrier: Barrier) -> None:
    _barriers.append(barrier)


def in_processes(folder: Path, url: str | None, shares: list[Share]) -> list[tuple[int, list[Receipt | str]]]:
    """``serve`` for each share at the same time, each in a process that shares nothing with this one."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(len(shares), _meet_at, (context.Barrier(len(shares)),)) as pool:
        done = pool.starmap(serve, [(folder, url, mine) for mine in shares], chunksize=1)
        pool.close()
        pool.join()
    return done
