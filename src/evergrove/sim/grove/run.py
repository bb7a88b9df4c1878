"""A scenario with a grove, run to its end: what its fogs and its cloud logged, and the run in numbers and claims."""

import contextlib
import logging
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from evergrove.adapters.log import EventLog
from evergrove.adapters.release import Release, open_release
from evergrove.core import cloud_events as ev
from evergrove.core import fog
from evergrove.core.errors import UsageError
from evergrove.media.report import Claim
from evergrove.runtime.rollouts import CODEC
from evergrove.sim.disk import Recorder
from evergrove.sim.fleet import Outcome, Watch
from evergrove.sim.grove.witness import Witness
from evergrove.sim.grove.world import GroveWorld
from evergrove.sim.scenario import Scenario

EVENTS_MAX = 1_000_000
FOGS, CLOUD = "fogs.jsonl", "cloud.jsonl"


class _Served(Witness):
    """Which releases devices began to serve."""

    def __init__(self) -> None:
        self.releases: Counter[str] = Counter()

    def serves(self, device: str, release: str, version: int) -> None:
        self.releases[release] += 1


def simulate(scenario: Scenario, folder: Path, file: BinaryIO, watch: Watch | None) -> tuple[Outcome, dict[str, Any]]:
    """Runs it; leaves the logs of fogs and cloud in ``folder``, and gives the outcome and the grove's numbers.

    Raises ``UsageError`` where devices are shown other conditions than their release knows.
    """
    release, seen = _release(scenario), _Served()
    with tempfile.TemporaryDirectory(prefix="evergrove-grove-") as place, _in_silence():
        world = GroveWorld(scenario, release, Path(place), seen, Recorder(file, scenario.record.telemetry))
        try:
            world.run(watch=watch)
            gathered = {name: [row[2] for row in rows] for name, rows in fogs_of(world).items()}
            decided = [row.event for row in cloud_of(world)]
            _write(world, folder)
            return world.outcome(), numbers(world, gathered, decided, seen.releases)
        finally:
            world.close()


def fogs_of(world: GroveWorld) -> dict[str, list[tuple[int, float, fog.FogEvent]]]:
    """What each fog logged: number, time, fact."""
    return {name: one.store.events(0, EVENTS_MAX) for name, one in world.fogs.items()}


def cloud_of(world: GroveWorld) -> Iterator[Any]:
    """What the cloud logged, row by row."""
    log = EventLog(world.cloud.folder / "log", CODEC, read_only=True)
    try:
        yield from log.replay(0)
    finally:
        log.close()


def numbers(
    world: GroveWorld, gathered: dict[str, list[fog.FogEvent]], decided: list[ev.CloudEvent], served: Counter[str]
) -> dict[str, Any]:
    """The grove's part of ``metrics.json``: what was counted where, at the end of the run."""
    flat = [fact for facts in gathered.values() for fact in facts]
    counted = [fact.token for fact in flat if isinstance(fact, fog.UpdateCounted)]
    taken = [one for fact in decided if isinstance(fact, ev.ConsolidationBegan) for one in fact.cohorts]
    signed = {fact.release for fact in decided if isinstance(fact, ev.ReleaseSigned)}
    spent = [fact.epsilon for fact in flat if isinstance(fact, fog.CohortSummed)]
    kinds = Counter(type(fact).__name__ for fact in (*flat, *decided))
    return {
        "kills": world.kills,
        "faults": world.faults,
        "updates_counted": len(counted),
        "updates_counted_twice": len(counted) - len(set(counted)),
        "updates_sent_again": kinds["UpdateRepeated"],
        "updates_refused": kinds["UpdateRefused"],
        "sums": kinds["CohortSummed"],
        "sums_at_the_cloud": kinds["CohortReceived"],
        "sums_in_candidates": len(taken),
        "sums_in_two_candidates": len(taken) - len(set(taken)),
        "candidates_refused_by_the_gate": sum(isinstance(f, ev.FleetJudged) and f.verdict == "reject" for f in decided),
        "releases_signed": len(signed),
        "releases_served_unsigned": len(set(served) - signed - {world.release.manifest_hash}),
        "turns_to_a_release": sum(served.values()),
        "epsilon": None if None in spent else max((e for e in spent if e is not None), default=0.0),
    }


def claims(found: dict[str, Any]) -> list[Claim]:
    """What should hold in any grove, and whether it does in this one."""
    killed = sum(found["kills"].values())
    return [
        Claim(
            f"{killed} kills of processes: {found['updates_counted']} updates were accepted and "
            f"{found['updates_counted_twice']} of them counted twice",
            not found["updates_counted_twice"],
        ),
        Claim(
            f"{found['sums_in_candidates']} cohorts' sums went into candidates, {found['sums_in_two_candidates']} of "
            "them into two",
            not found["sums_in_two_candidates"],
        ),
        Claim(
            f"devices turned to {found['releases_signed']} signed releases {found['turns_to_a_release']} times, and to "
            f"{found['releases_served_unsigned']} that nobody had signed",
            not found["releases_served_unsigned"],
        ),
    ]


def lines(found: dict[str, Any]) -> list[str]:
    """The grove in two sentences."""
    kills = ", ".join(f"{n} {kind}" for kind, n in found["kills"].items() if n) or "none"
    counted = (
        f"{found['updates_counted']} updates in {found['sums']} cohorts, {found['sums_in_candidates']} consolidated"
    )
    taken = f"{found['releases_signed']} releases signed, and taken {found['turns_to_a_release']} times"
    return [f"grove: {counted}; {taken}", f"killed: {kills}"]


def _release(scenario: Scenario) -> Release:
    release = open_release(scenario.fleet[0].trainer.release)
    for fleet in scenario.fleet:
        if fleet.stream.known != release.manifest.known:
            raise UsageError(
                f"fleet '{fleet.name}': its release knows {list(release.manifest.known)} values of its factors; write "
                f"[fleet.stream] known = {list(release.manifest.known)}"
            )
    return release


@contextlib.contextmanager
def _in_silence() -> Iterator[None]:
    """What services say to their operators is of no use here: it is in the logs that are left."""
    logger = logging.getLogger("evergrove")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)


def _write(world: GroveWorld, folder: Path) -> None:
    """The logs as JSON lines, as the devices' own: who, when, what."""
    with (folder / FOGS).open("wb") as file:
        for name, rows in fogs_of(world).items():
            for _, at_s, fact in rows:
                file.write(
                    b'{"fog":"%b","at_s":%b,"event":%b}\n' % (name.encode(), repr(at_s).encode(), fog.encode(fact))
                )
    with (folder / CLOUD).open("wb") as file:
        for row in cloud_of(world):
            file.write(b'{"at_s":%b,"event":%b}\n' % (repr(row.at_s).encode(), ev.encode(row.event)))
