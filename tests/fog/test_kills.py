"""A fog worker killed by SIGKILL at every write in turn: each update counts once, none stays, one noise a round."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fogs import LAYOUT, body, head, vector
from servers import Postgres

from evergrove.adapters.fog_store import FogStore
from evergrove.core import fog
from evergrove.core.fog import Cohort
from evergrove.core.release import sha256_hex
from evergrove.rules import params
from evergrove.rules.privacy.accounting import epsilon_of

HERE = Path(__file__).parent


class Victims:
    """The process that forks one life after the other."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "victim.py")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path])},
        )  # fmt: skip

    def live(self, folder: Path, url: str | None, step: int) -> tuple[int, list[str]]:
        """Exit status, and what it said."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([str(folder), url, step]) + "\n")
        said = []
        for line in self._process.stdout:
            if line.startswith("ended"):
                return int(line.split()[1]), said
            said.append(line.strip())
        raise AssertionError("the victims' process ended")

    def close(self) -> None:
        """Ends it."""
        self._process.communicate(timeout=30)


def survive(folder: Path, url: Callable[[], str | None], stride: int) -> None:
    """A life killed at each step, and one after it that must put everything right."""
    victims = Victims()
    try:
        status, said = victims.live(folder / "whole", url(), 10**6)
        assert status == 0
        n_steps = int(said[-1].split()[1])
        assert n_steps > 40
        assert len({line for line in said if line.startswith("sum")}) == 1
        tokens = {head(device, body(i)).token for i, device in enumerate("ab")}
        for step in range(1, n_steps + 1, stride):
            place, where = folder / str(step), url()
            status, first = victims.live(place, where, step)
            assert status == -9, f"step {step}: it lived"
            status, second = victims.live(place, where, 0)
            assert status == 0, f"step {step}: {second}"
            assert {line.split()[1] for line in second if line[0] == "+"} == tokens
            store = FogStore(place, where)
            events = [event for _, _, event in store.events()]
            counted = [event.token for event in events if isinstance(event, fog.UpdateCounted)]
            assert sorted(counted) == sorted(tokens), f"step {step}"
            assert sum(isinstance(event, fog.CohortSummed) for event in events) == 1
            total = params.decode(store.read_sum(Cohort(1, 0)), LAYOUT)
            assert np.abs(total - vector(0) - vector(1)).max() > 1, "noise of forty clips, or so"
            (entry,), (spent,) = store.history(), store.ledger().streams
            assert (spent.rounds, entry.sum) == (1, sha256_hex(store.read_sum(Cohort(1, 0))))
            assert entry.epsilon == epsilon_of(spent.plan.mu_squared(1), 1e-6)
            names = {line.split()[1] for line in [*first, *second] if line.startswith("sum")}
            assert len(names) == 1, f"step {step}: what went up once goes up for ever"
            assert [path.name for path in (place / "sums").iterdir()] == [entry.sum], "no second noise of the round"
            store.tidy(orphan_s=0.0)
            assert list((place / "bodies").iterdir()) == []
            acknowledged = {line.split()[1] for line in first if line[0] == "+"}
            assert acknowledged <= set(counted)
            store.close()
    finally:
        victims.close()


EVERY = int(os.environ.get("EVERGROVE_KILL_EVERY", "6"))
"""1 tries every single write, in about a minute."""


def test_writes_on_sqlite(tmp_path: Path) -> None:
    """Every sixth, of about sixty."""
    survive(tmp_path, lambda: None, EVERY)


def test_writes_on_postgresql(tmp_path: Path, server: Postgres) -> None:
    """Every twelfth, each with a database of its own."""
    survive(tmp_path, server.url, 2 * EVERY)


def test_a_step_is_a_real_one(tmp_path: Path) -> None:
    """The countdown kills: a life of one step makes nothing."""
    victims = Victims()
    status, said = victims.live(tmp_path / "fog", None, 1)
    victims.close()
    assert (status, said) == (-9, [])
    with pytest.raises(StopIteration):
        next((tmp_path / "fog").glob("bodies/*"))
