"""A fog worker that is killed by SIGKILL at a chosen write: before any step on disk, before and after any commit.

Reads lines of JSON, [folder, url or null, step or 0]; for each it forks a child that lives one life there: two devices
send their updates, the cohort is summed with noise of ε = 1, and ``sum NAME`` says what goes up. ``+token cohort``
acknowledges. Answers with the exit status.
"""

import json
import os
import signal
import sys
from pathlib import Path

import alembic.command  # noqa: F401  once, not in every child
import sqlalchemy.dialects.postgresql.psycopg
import sqlalchemy.dialects.sqlite.pysqlite  # noqa: F401
from fogs import LAYOUT, body, head, plan
from sqlalchemy import Engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection

from evergrove.adapters.files import Files
from evergrove.adapters.fog_books import Kept
from evergrove.adapters.fog_store import FogStore
from evergrove.core import fog
from evergrove.core.errors import UpdateRefused
from evergrove.runtime.fog_noise import FogNoise, budget_of
from evergrove.runtime.fog_service import FogService

KEY, ROUNDS = bytes(32), 8


def noise() -> FogNoise:
    return FogNoise("north", budget_of(1.0, 1e-6, None), KEY)


def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


class Countdown:
    """Dies at the given step."""

    def __init__(self, step: int) -> None:
        self.left = step

    def __call__(self, *_: object) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def live(folder: Path, url: str | None, step: int) -> None:
    """One life, to its end or to its step."""
    countdown = Countdown(step)
    event.listen(Engine, "commit", countdown)

    @event.listens_for(Engine, "reset")
    def returned(link: DBAPIConnection, record: object, state: object) -> None:
        countdown()  # a connection comes back to the pool right after its commit

    store = FogStore(folder, url, Files(at=countdown))
    worker = FogService("north", store, lambda: 100.0, noise())
    worker.start()
    if store.state().plan is None:
        worker.open(plan(cohort=2, rounds=ROUNDS), LAYOUT)
    for i, device in enumerate("ab"):
        worker.feed(fog.DeviceEnrolled(device))
        update = head(device, body(i))
        if worker.offer(device, update):
            upload = store.bodies.begin(update.digest, update.n_bytes)
            upload.write(body(i))
            (answer,) = worker.decide([worker.measure(device, update, upload)])
        else:
            (answer,) = worker.decide([(fog.UpdateOffered(device, update), "")])
        if isinstance(answer, UpdateRefused):
            raise answer
        say("+", answer.token, answer.cohort.number)
        worker.work()
        for one in worker.sums():
            say("sum", one.id)
    worker.tick()
    worker.work()
    for one in worker.sums():
        say("sum", one.id)
    say("steps", step - countdown.left)


if __name__ == "__main__":
    noise().open(Kept(None, b""), plan(cohort=2, rounds=ROUNDS), LAYOUT.n_numbers, 0)  # imports and fills caches once
    for line in sys.stdin:
        place, url, step = json.loads(line)
        child = os.fork()
        if child == 0:
            live(Path(place), url, step)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        say("ended", os.waitstatus_to_exitcode(status))
