"""The second arm: the very same six updates, gathered once more under ε = 1, and what the fleet's gate says to that.

The production parts in one process instead of five: two fog services with noise by the operating system's chance and
its ledger on disk, a cloud's folder with its driver, the worker that consolidates and measures. Only the wires between
them are left out; what they do to the numbers is the same.
"""

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evergrove.adapters.flower.inbox import NAME, Inbox
from evergrove.adapters.fog_store import FogStore
from evergrove.adapters.log import EventLog, Row
from evergrove.adapters.release import Release
from evergrove.core import cloud_events as ev
from evergrove.core import fog
from evergrove.core.errors import EvergroveError, Unreachable
from evergrove.core.release import sha256_hex
from evergrove.core.sections import Gathering
from evergrove.core.sums import NoisedSum
from evergrove.core.transport import Update
from evergrove.demo.fleet import grove
from evergrove.demo.fleet.cast import FOGS, Role
from evergrove.demo.fleet.script import EPSILON, Script
from evergrove.media.packs import Pack
from evergrove.rules import params, tokens
from evergrove.rules.params import Layout, Vector
from evergrove.runtime.cloud import CloudDriver
from evergrove.runtime.fog_noise import FogNoise, budget_of
from evergrove.runtime.fog_service import FogService, plan_of
from evergrove.runtime.rollouts import CODEC

DELTA = 1e-6
JUDGED_S = 300.0


@dataclass(frozen=True)
class Arm:
    """What noise did: the ε that the fogs' ledgers booked, how long an update and the noise on a sum are, in clips, and
    every look of the fleet's gate."""

    epsilon: float
    clip: float
    noise_norm: float
    looks: tuple[ev.FleetJudged, ...]

    @property
    def verdict(self) -> str:
        """The last word."""
        return self.looks[-1].verdict if self.looks else "none"


def gathered_privately(
    folder: Path,
    script: Script,
    release: Release,
    layout: Layout,
    roles: Sequence[Role],
    updates: Mapping[str, Vector],
    golden: Pack,
    tick: Callable[[], None],
) -> Arm:
    """Gathers, noises, consolidates and judges. Raises ``Unreachable`` where the gate does not come to a verdict."""
    clip = float(np.median([params.norm(vector) for vector in updates.values()]))
    # 1. Each fog on its own: clip, sum, noise, ledger.
    sums, epsilon, noise = [], 0.0, 0.0
    for name in FOGS:
        mine = {role.name: updates[role.name] for role in roles if role.home == name}
        one, spent = _sum_of(folder / name, name, script, release, layout, mine, clip)
        sums.append((name, one))
        exact = sum(vector * min(1.0, clip / params.norm(vector)) for vector in mine.values())
        epsilon, noise = max(epsilon, spent), max(noise, params.norm(one.values - exact) / clip)
    # 2. A cloud that takes them in, by its own driver.
    cloud = folder / "cloud"
    cloud.mkdir(parents=True)
    grove.make_cloud(cloud, release, golden, settings_of(script, clip, EPSILON))
    (cloud / "flower" / "collected").mkdir(parents=True)
    inbox = Inbox(cloud / "flower" / "collected" / NAME)
    for name, one in sums:
        inbox.take(name, one)
    inbox.close()
    return Arm(epsilon, clip, noise, _judged(cloud, tick))


def settings_of(script: Script, clip: float, epsilon: float) -> str:
    """A cloud's settings for this fleet, as TOML."""
    return (
        f"[gather]\ncohort = {script.cohort}\nclip = {clip!r}\nepsilon = {epsilon!r}\n\n"
        f"[consolidate]\ncohorts = {len(FOGS)}\nrate = {script.rate!r}\n\n"
        "[rollout]\npercents = [100.0]\nshadow = 0.0\nreports_min = 1\n\n[work]\ntick_s = 0.5\nthreads = 2\n"
    )


def _sum_of(
    folder: Path,
    name: str,
    script: Script,
    release: Release,
    layout: Layout,
    updates: Mapping[str, Vector],
    clip: float,
) -> tuple[NoisedSum, float]:
    """What one fog would hand up, and the ε that it has booked."""
    budget = budget_of(EPSILON, DELTA, None)
    noise = FogNoise(name, budget, secrets.token_bytes(32))
    gathering = Gathering(
        cohort=script.cohort, cohort_min=script.cohort, rounds=1, participations=1, clip=clip, norm_max=10 * clip
    )
    folder.mkdir(parents=True)
    service = FogService(name, FogStore(folder / "fog"), time.time, noise)
    try:
        service.start()
        service.open(plan_of(layout, [release.manifest_hash], gathering), layout)
        for device, vector in updates.items():
            service.feed(fog.DeviceEnrolled(device))
            _submit(service, release, layout, device, vector)
        service.work()
        (one,) = service.sums()
        spent = service.store.history()[-1].epsilon
    finally:
        service.store.close()
    if spent is None:
        raise EvergroveError(f"{name} noised its sum and booked no ε")
    return one, spent


def _submit(service: FogService, release: Release, layout: Layout, device: str, vector: Vector) -> None:
    """As the web does it: head, body, decision."""
    body = params.encode(vector, layout)
    token = tokens.token_of(device, layout.generation, secrets.token_bytes(tokens.NONCE_BYTES))
    head = Update(
        release.manifest_hash, layout.base, layout.basis, layout.generation, token, sha256_hex(body), len(body)
    )
    upload = service.store.bodies.begin(head.digest, head.n_bytes)
    upload.write(body)
    (answer,) = service.decide([service.measure(device, head, upload)])
    if not isinstance(answer, fog.Receipt):
        raise answer


def _judged(cloud: Path, tick: Callable[[], None]) -> tuple[ev.FleetJudged, ...]:
    """Drives a cloud until its gate has said the last word on what waits in its inbox."""
    end_s = time.monotonic() + JUDGED_S
    with CloudDriver(cloud, time.time) as driver:
        while time.monotonic() < end_s:
            driver.tick()
            looks = verdicts(cloud)
            if looks and looks[-1].verdict != "rescale":
                return looks
            check_work(cloud)
            tick()
            time.sleep(0.3)
    raise Unreachable(f"the fleet's gate came to no verdict within {JUDGED_S:g} s; see {cloud / 'work'}")


def check_work(cloud: Path) -> None:
    """Raises ``EvergroveError`` where a job of the cloud cannot be done: nothing would come of waiting."""
    for one in read_cloud(cloud):
        if isinstance(one.event, ev.WorkFailed):
            raise EvergroveError(f"the cloud could not do {one.event.job}: {one.event.reason}")


def verdicts(cloud: Path) -> tuple[ev.FleetJudged, ...]:
    """Every look of a cloud's gate, in order."""
    return tuple(one.event for one in read_cloud(cloud) if isinstance(one.event, ev.FleetJudged))


def read_cloud(cloud: Path) -> list[Row[ev.CloudEvent]]:
    """A cloud's log, oldest first; its driver may be at work meanwhile."""
    log = EventLog(cloud / "log", CODEC, read_only=True)
    try:
        return list(log.replay(log.first_seq - 1))
    finally:
        log.close()
