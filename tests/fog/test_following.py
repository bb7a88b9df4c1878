"""A fog gathers for what is signed in its cloud's repository: new releases and generations, with no restart."""

import contextlib
import logging
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pytest
from published import Cloud, layout_of
from test_up_fog import up

from evergrove.adapters.files import Files
from evergrove.adapters.fog_client import connect, enrol
from evergrove.adapters.fog_store import FogStore
from evergrove.adapters.outbox import Outbox
from evergrove.bootstrap_fog import FogPlace, open_fog
from evergrove.core import fog, transport
from evergrove.core.errors import UpdateRefused, UsageError
from evergrove.core.release import sha256_hex
from evergrove.core.rollout import FULL, Directive
from evergrove.core.sections import Gathering
from evergrove.rules import following as rules
from evergrove.rules import params, tokens
from evergrove.rules.privacy.ledger import Budget
from evergrove.runtime.fog_noise import NO_BUDGET, FogNoise
from evergrove.runtime.fog_service import FogService
from evergrove.runtime.following import REST, Follower, client_of

GATHERING = Gathering(cohort=2, cohort_min=1, clip=0.5)
EVERY = int(os.environ.get("EVERGROVE_KILL_EVERY", "6"))
"""1 tries every single instant."""


@dataclass(frozen=True)
class Fog:
    """One life of a fog that follows."""

    service: FogService
    follower: Follower

    @property
    def plan(self) -> fog.Plan:
        """What devices are told."""
        terms = self.service.terms()
        assert terms is not None
        return terms.plan


def start(
    folder: Path, cloud: Cloud, budget: Budget = NO_BUDGET, root: Path | None = None, gathering: Gathering = GATHERING
) -> Fog:
    """A fog in its folder, which has looked once."""
    used = Files()
    noise = FogNoise("north", budget, bytes(32))
    service = FogService("north", FogStore(folder / "fog", files=used), time.time, noise)
    service.start()
    follower = Follower(service, cloud.folder, gathering, client_of(folder / "followed", cloud.folder, root, used))
    made = Fog(service, follower)
    follower.look(cloud.tag)
    return made


def submit(service: FogService, device: str, layout: params.Layout, release: str) -> fog.Receipt | UpdateRefused:
    """A device's update, whole."""
    service.feed(fog.DeviceEnrolled(device))
    data = params.encode(np.full(layout.n_numbers, 0.01), layout)
    token = tokens.token_of(device, layout.generation, bytes(16))
    head = transport.Update(release, layout.base, layout.basis, layout.generation, token, sha256_hex(data), len(data))
    if not service.offer(device, head):
        return service.decide([(fog.UpdateOffered(device, head), "")])[0]
    upload = service.store.bodies.begin(head.digest, head.n_bytes)
    upload.write(data)
    return service.decide([service.measure(device, head, upload)])[0]


def test_a_device_on_the_next_release_is_admitted_by_a_fog_that_runs(tmp_path: Path) -> None:
    """The whole command, told of no release: the repository's first, then its second; one nobody signed is refused."""
    cloud = Cloud(tmp_path)
    first = cloud.publish(1)
    layout = layout_of(cloud.release(1))
    words = ("--releases", str(cloud.folder), "--set", "cohort=4", "--set", "cohort_min=4")
    with up(tmp_path / "fog", *words, "--invite", "kitchen") as facts:
        enrol(facts["listening"], Path(facts["ca"]).read_bytes(), facts["invitations"]["kitchen"], tmp_path / "device")
        client = connect(facts["listening"], tmp_path / "device")
        assert client.terms().plan.releases == (first,)
        second, unsigned = cloud.publish(2), cloud.release(3).manifest_hash
        until_s = time.monotonic() + 30
        while second not in client.terms().plan.releases and time.monotonic() < until_s:
            time.sleep(0.1)
        terms = client.terms()
        assert terms.plan.releases == (first, second)
        ones = np.ones(layout.n_numbers, np.float32)
        with pytest.raises(UsageError, match="another release"):
            Outbox(tmp_path / "other", "kitchen").put(ones, layout, unsigned, terms, bytes(16))
        lying = msgspec.structs.replace(terms, plan=msgspec.structs.replace(terms.plan, releases=(unsigned,)))
        for release, told, outcome in ((unsigned, lying, "refused"), (second, terms, "counted")):
            box = Outbox(tmp_path / f"outbox-{outcome}", "kitchen")
            box.put(ones, layout, release, told, bytes(16))
            (fate,) = box.deliver(client, time.time(), 0.5)
            assert fate.outcome == outcome
        client.close()
    third = cloud.publish(3)
    with up(tmp_path / "fog", *words, killed=True):
        pass
    with up(tmp_path / "fog", *words) as facts:
        client = connect(facts["listening"], tmp_path / "device")
        assert client.terms().plan.releases == (first, second, third)
        client.close()


def test_a_tampered_repository_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Altered targets, an older repository, other keys: said once each; whole again, it is followed."""
    cloud = Cloud(tmp_path)
    first = cloud.publish(1)
    made = start(tmp_path / "fog", cloud)
    assert "TRUST ON FIRST USE" in caplog.text
    assert made.plan.releases == (first,)
    second = cloud.publish(2)
    signed = max((cloud.folder / "metadata").glob("*.targets.json"), key=lambda path: int(path.name.split(".")[0]))
    whole = signed.read_bytes()
    signed.write_bytes(whole.replace(second.encode(), b"0" * 64))
    caplog.clear()
    for _ in range(2 * REST):
        made.follower.look(cloud.tag)
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "altered, or mixed from two publications" in caplog.text
    assert made.plan.releases == (first,)
    signed.write_bytes(whole)
    for _ in range(REST + 1):
        made.follower.look(cloud.tag)
    assert made.plan.releases == (first, second)
    made.service.store.close()
    stranger = Cloud(tmp_path / "stranger")
    for version in range(1, 5):
        stranger.publish(version)
    caplog.clear()
    again = start(tmp_path / "fog", stranger)
    assert "not signed by the keys that count" in caplog.text
    assert again.plan.releases == (first, second)
    again.service.store.close()


def test_a_root_that_was_given_is_believed_and_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With --root nothing is trusted at first sight; a pinned root stays."""
    cloud, stranger = Cloud(tmp_path / "a"), Cloud(tmp_path / "b")
    for one in (cloud, stranger):
        one.publish(1)
    root = tmp_path / "root.json"
    root.write_bytes(cloud.repository.root())
    wrong = start(tmp_path / "fog", stranger, root=root)
    assert wrong.service.terms() is None
    assert "TRUST ON FIRST USE" not in caplog.text
    assert "is not followed now" in caplog.text
    wrong.service.store.close()
    right = start(tmp_path / "fog", cloud, root=root)
    assert len(right.plan.releases) == 1
    right.service.store.close()
    root.write_bytes(stranger.repository.root())
    with pytest.raises(UsageError, match="believes another root"):
        client_of(tmp_path / "fog" / "followed", cloud.folder, root, Files())


def test_a_new_generation_opens_once_it_is_everybodys(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """In its first stage the old one goes on; then the cohort under way is dropped, with a noise stream of its own."""
    cloud = Cloud(tmp_path)
    first = cloud.publish(1)
    cloud.direct(1, first)
    made = start(tmp_path / "fog", cloud, budget=Budget(generation=1.0, lifetime=8.0))
    old, fresh = layout_of(cloud.release(1)), layout_of(cloud.release(2, 1))
    assert old.base != fresh.base
    assert isinstance(submit(made.service, "kitchen", old, first), fog.Receipt)
    second = cloud.publish(2, 1)
    cloud.direct(2, second, FULL // 20, (first, 1))
    made.follower.look(cloud.tag)
    assert (made.plan.generation, made.plan.releases) == (0, (first,))
    cloud.direct(2, second, FULL, (first, 1))
    made.follower.look(cloud.tag)
    assert (made.plan.generation, made.plan.base, made.plan.releases) == (1, fresh.base, (second,))
    facts = [fact for _, _, fact in made.service.store.events()]
    assert sum(isinstance(fact, fog.CohortDropped) for fact in facts) == 1
    assert isinstance(submit(made.service, "kitchen", fresh, second), fog.Receipt)
    refused = submit(made.service, "hall", old, first)
    assert isinstance(refused, UpdateRefused)
    assert refused.reason == "wrong generation"
    assert [stream.plan.generation for stream in made.service.store.ledger().streams] == [0, 1]
    assert len({stream.plan.multiplier for stream in made.service.store.ledger().streams}) == 1, "the same ε"
    cloud.direct(1, first)
    made.follower.look(cloud.tag)
    assert "cannot go back" in caplog.text
    assert made.plan.generation == 1
    made.service.store.close()


def test_a_generation_is_gathered_by_the_clip_that_it_is_signed_with(tmp_path: Path) -> None:
    """Generation 0 says none: the fog's own. The next one is signed with .125: that, its devices' norms up to a
    hundred times it, and a noise stream of it; a fog that names the release itself does the same.
    """
    cloud = Cloud(tmp_path)
    first = cloud.publish(1)
    made = start(tmp_path / "fog", cloud, budget=Budget(generation=1.0, lifetime=8.0))
    assert (made.plan.clip, made.plan.norm_max) == (0.5, 100.0)
    second = cloud.publish(2, 1, clip=0.125)
    made.follower.look(cloud.tag)
    assert (made.plan.generation, made.plan.clip, made.plan.norm_max) == (1, 0.125, 25.0)
    assert [stream.plan.clip for stream in made.service.store.ledger().streams] == [0.5, 0.125]
    made.service.store.close()
    again = start(tmp_path / "fog", cloud, budget=Budget(generation=1.0, lifetime=8.0))
    assert again.plan == made.plan
    again.service.store.close()
    place = FogPlace(tmp_path / "other", "south", ("127.0.0.1",))
    named = open_fog(place, [str(cloud.release(2, 1, clip=0.125).folder)], GATHERING)
    assert named.service.plan is not None
    assert (named.service.plan.clip, named.service.plan.releases) == (0.125, (second,))
    named.service.store.close()
    assert first != second


def test_a_lifetime_that_is_spent_opens_no_generation(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """ε = 1 over a lifetime, spent by the first generation's only round: the second is not opened, and that is said."""
    cloud = Cloud(tmp_path)
    first = cloud.publish(1)
    gathering = Gathering(cohort=1, cohort_min=1, rounds=1, participations=1)
    made = start(tmp_path / "fog", cloud, budget=Budget(generation=1.0, lifetime=1.0), gathering=gathering)
    assert isinstance(submit(made.service, "kitchen", layout_of(cloud.release(1)), first), fog.Receipt)
    made.service.work()
    (entry,) = made.service.store.history()
    assert entry.epsilon == pytest.approx(1.0, abs=1e-4)
    cloud.publish(2, 1)
    caplog.clear()
    for _ in range(2 * REST):
        made.follower.look(cloud.tag)
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "the lifetime of a device" in caplog.text
    assert made.plan.generation == 0
    made.service.store.close()


def test_a_release_of_another_vocabulary_waits_for_the_next_generation(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The layout is constant in a generation: it is not admitted, and said once."""
    cloud = Cloud(tmp_path)
    first = cloud.publish(1)
    made = start(tmp_path / "fog", cloud)
    vocabulary = {"factors": [{"name": f.name, "values": [*f.values[:-1], "renamed"]}
                  for f in cloud.release(1).manifest.vocabulary.factors]}  # fmt: skip
    cloud.publish(2, vocabulary=vocabulary)
    third = cloud.publish(3)
    caplog.clear()
    made.follower.look(cloud.tag)
    made.follower.look("another")
    assert made.plan.releases == (first, third)
    assert caplog.text.count("another base, A or vocabulary") == 1
    made.service.store.close()


TOUCHES = ("open", "os.rename", "os.remove", "os.mkdir", "sqlite3.connect")
"""What a life is counted by: whatever library it comes from."""


def life(folder: Path, cloud: Cloud, n: int) -> bool:
    """A fog in a process of its own, ended by SIGKILL at its n-th touch of a file; whether it came to its end."""
    child = os.fork()
    if not child:
        left = [n]

        def hook(event: str, arguments: tuple[object, ...]) -> None:
            if event in TOUCHES:
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        with contextlib.suppress(BaseException):
            start(folder, cloud)
            os._exit(0)
        os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status == 0


@pytest.mark.parametrize("act", ["first", "next", "generation"])
def test_killed_at_any_instant_the_next_start_has_the_plan(tmp_path: Path, act: str) -> None:
    """The old plan or the new one is there, whole, and the look after it brings the new one."""
    cloud = Cloud(tmp_path)
    releases, before = [cloud.publish(1)], tmp_path / "before"
    if act != "first":
        start(before, cloud).service.store.close()
        releases.append(cloud.publish(2, 1 if act == "generation" else 0))
    wanted = (1, (releases[1],)) if act == "generation" else (0, tuple(releases))
    n_kills = 0
    for n in range(1, 1000, EVERY):
        folder = tmp_path / f"fog-{n}"
        if before.exists():
            shutil.copytree(before, folder)
        done = life(folder, cloud, n)
        store = FogStore(folder / "fog")
        plan = store.state().plan
        store.close()
        assert plan is not None or (act == "first" and not done)
        assert plan is None or (plan.generation, plan.releases) in ((0, (releases[0],)), wanted)
        again = start(folder, cloud)
        assert (again.plan.generation, again.plan.releases) == wanted
        again.service.store.close()
        if done:
            break
        n_kills += 1
    assert n_kills > 5


# ---- the rules by hand -----------------------------------------------------------------------------------------------


def test_the_fleets_generation_is_that_of_what_everybody_runs() -> None:
    """Without a word the newest; a stage, a pause, a stop: the one before; the very first has none before it."""

    def told(reach: int, before: int = 1, serves: bool = True) -> Directive:
        return Directive("r", "b", 2, reach, serves, "a" if before else "", before)

    assert rules.everybodys(None, 7) == 7
    assert rules.everybodys(told(FULL), 7) == 2
    assert rules.everybodys(told(FULL, serves=False), 7) == 1
    assert rules.everybodys(told(FULL - 1), 7) == 1
    assert rules.everybodys(told(0), 7) == 1
    assert rules.everybodys(told(5, before=0), 7) == 2
    assert rules.everybodys(told(0, before=0), 7) == 0


@pytest.mark.parametrize("order", [lambda seen: seen, lambda seen: seen[::-1]])
def test_workers_that_see_more_or_less_come_to_one_plan(order: Callable[[list[int]], list[int]]) -> None:
    """Whoever is behind takes nothing away, and brings nothing back that had to give way."""
    plan: tuple[str, ...] = ("named by a person",)

    def seen_by(plan: tuple[str, ...], n: int) -> tuple[str, ...]:
        versions = {f"r{version}": version for version in range(1, n + 1)}
        return rules.admitted(plan, list(versions)[-rules.RELEASES_MAX :], versions)

    for n in order([3, 17, 20]):
        plan = seen_by(plan, n)
    for _ in range(2):
        plan = seen_by(plan, 20)
    for n in (3, 17, 20):
        assert set(seen_by(plan, n)) == set(plan)
    assert set(plan) == {"named by a person", *(f"r{version}" for version in range(6, 21))}
