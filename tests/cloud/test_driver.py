"""The cloud at work: from the fogs' sums to a release that devices fetch; poisoned, interrupted, with wrong keys."""

import shutil
from pathlib import Path

import fleets
import msgspec
import numpy as np
import pytest
import torch
from fleets import COHORT, DEVICES, NOW_S, Endless, Fleet, Here, cohort, hand_up, sum_of, vector_of

from evergrove.adapters.flower.inbox import Inbox
from evergrove.adapters.release import open_release
from evergrove.adapters.release_write import write_release
from evergrove.adapters.tuf_client import ReleaseClient, from_folder
from evergrove.adapters.tuf_keys import Signers
from evergrove.core import cloud_events as ev
from evergrove.core.errors import AgentBusy, UsageError
from evergrove.core.rollout import DeviceReport, offer
from evergrove.core.sums import NoisedSum, noised_sum
from evergrove.media.packs import read_pack
from evergrove.rules import fleet_sums
from evergrove.rules.privacy import words
from evergrove.rules.privacy.accounting import calibrate
from evergrove.rules.privacy.blt import Blt
from evergrove.rules.privacy.ledger import Budget
from evergrove.rules.privacy.plan import NoisePlan
from evergrove.runtime import assembly
from evergrove.runtime.cloud import CloudDriver
from evergrove.runtime.rollouts import Rollouts, opened


def keys(cloud: Path) -> Signers:
    """Its offline keys."""
    from evergrove.adapters.tuf_keys import OFFLINE, load_keys

    return load_keys(cloud.with_name("offline"), None, OFFLINE)


def facts(cloud: Path, kind: type) -> list:
    """The facts of a kind in the log."""
    rollouts = Rollouts(cloud)
    found = [row.event for row in rollouts._log.replay(0) if isinstance(row.event, kind)]
    rollouts.close()
    return found


def drive(cloud: Path, ticks: int = 6, now_s: float = NOW_S + 10, workers: object = None) -> object:
    """One life of the driver; the state at its end."""
    with CloudDriver(cloud, lambda: now_s, workers=workers or Here()) as driver:  # type: ignore[arg-type]
        for _ in range(ticks):
            driver.tick()
        return driver.state


def two_cohorts(fleet: Fleet) -> list:
    """What three devices learnt, in two cohorts."""
    return [cohort(fleet, list(fleet.learnt), 0), cohort(fleet, [*fleet.learnt[1:], fleet.learnt[1]], 1)]


# ---- the main path ---------------------------------------------------------------------------------------------------


def test_from_sums_to_a_release_that_a_device_fetches(cloud: Path, fleet: Fleet, tmp_path: Path) -> None:
    """Two cohorts → the exact mean → gate → a folder that waits → signed by a person → everywhere, and gone on from."""
    hand_up(cloud, *two_cohorts(fleet))
    state = drive(cloud)
    assert (state.n_counted, state.work.stage) == (2, "sign"), facts(cloud, ev.FleetJudged)
    folder = cloud / "candidates" / "cloud-00001"
    candidate = open_release(folder)
    assert candidate.manifest.base == fleet.release.manifest.base
    gamma = state.work.gamma
    clipped = [np.asarray(v, np.float64) * min(1.0, fleets.CLIP / np.linalg.norm(v)) for v in fleet.learnt]
    mean = (clipped[0] + 2 * clipped[1] + clipped[2] + clipped[1] + clipped[2]) / (2 * COHORT)
    got = vector_of(candidate, fleet.layout)
    want = fleet.start + gamma * mean
    np.testing.assert_allclose(got, want, atol=1e-3 * np.abs(want).max())
    pack = read_pack(candidate.path_of(candidate.manifest.rehearsal))
    assert int((pack.codes[:, 0] == 5).sum()) == 24, "devices that never saw it rehearse what the fleet has learnt"
    card = (folder / "README.md").read_text()
    assert "ε = ∞" in card
    assert "2 cohorts" in card
    assert "gain on what was learnt" in card

    with opened(cloud) as rollouts:
        signed = rollouts.sign(keys(cloud), NOW_S + 20, DEVICES)
        assert (signed.version, signed.parent) == (2, fleet.release.manifest_hash)
    hear(cloud, *(DeviceReport(n, device, f"{signed.release[:8]}-v2", "confirmed") for n, device in enumerate(DEVICES)))
    state = drive(cloud, now_s=NOW_S + 30)
    assert (state.release, state.rollout.status, state.work, state.n_spent) == (signed.release, "complete", None, 2)
    for gone in ("candidates", "work", "sums"):
        assert list((cloud / gone).iterdir()) == []
    repository = Rollouts(cloud).repository
    device = ReleaseClient(tmp_path / "device", from_folder(repository.folder), repository.root())
    told = device.look()
    assert told is not None
    mine = offer(told, "a", 1)
    assert mine is not None
    assert device.fetch(mine.version).release.manifest.adapter == candidate.manifest.adapter


def hear(cloud: Path, *reports: DeviceReport, fog: str = "north") -> None:
    """Devices' words reach the inbox."""
    inbox = Inbox(cloud / "flower" / "collected" / "inbox.db")
    inbox.hear(fog, reports)
    inbox.close()


def test_a_few_cohorts_wait_for_their_time(cloud: Path, fleet: Fleet) -> None:
    """One cohort of two, and 100 s later a job; the sum's file is there until then, the inbox has let it go."""
    one = two_cohorts(fleet)[0]
    hand_up(cloud, one)
    state = drive(cloud, 2, NOW_S + 10)
    assert ([c.digest for c in state.waiting], state.work) == ([one.id], None)
    assert [path.name for path in (cloud / "sums").iterdir()] == [one.id]
    inbox = Inbox(cloud / "flower" / "collected" / "inbox.db")
    assert inbox.waiting() == []
    inbox.close()
    assert drive(cloud, 2, NOW_S + 111).n_jobs == 1


@pytest.mark.parametrize(
    ("settings", "change", "reason"),
    [
        ("", {"base": "f" * 64}, "another base"),
        ("", {"denominator": 1}, "gather.cohort"),
        ("", {"n_updates": 4}, "gather.cohort"),
        ("", {"vector": np.ones(7, np.float32)}, "it has 7 numbers"),
        ("", {"generation": 9}, "generation 9; generation 1 is gathered"),
        ("", {"noise": {"std": 1e30}}, "its noise"),
        ("epsilon = 1.0", {}, "it has no noise; this cloud asks for ε = 1"),
    ],
)
def test_a_sum_that_is_not_of_the_plan_is_refused(
    cloud: Path, fleet: Fleet, settings: str, change: dict, reason: str
) -> None:
    """For good, with a reason in the log; the fog is not asked for it again, and the next one counts."""
    (cloud / "cloud.toml").write_text(fleets.SETTINGS.replace("[gather]", f"[gather]\n{settings}"))
    values = {
        "vector": fleet.learnt[0], "generation": 1, "base": fleet.layout.base, "basis": fleet.layout.basis,
        "n_updates": COHORT, "denominator": COHORT, "noise": None, "number": 5,
    }  # fmt: skip
    said = {**values, **change}
    hand_up(cloud, noised_sum(said.pop("vector"), **said))
    state = drive(cloud, 2)
    (refused,) = facts(cloud, ev.CohortRefused)
    assert reason in refused.reason
    assert (state.n_counted, state.waiting) == (0, ())
    inbox = Inbox(cloud / "flower" / "collected" / "inbox.db")
    assert inbox.waiting() == []
    inbox.close()


def noised(fleet: Fleet, number: int, clip: float = fleets.CLIP, rounds: int = 8) -> NoisedSum:
    """A sum with noise for ε = 1, of a fog that has promised its devices a lifetime of .8."""
    plan = NoisePlan(1, "north", rounds, 2, 2, COHORT, fleet.layout.n_numbers, clip, calibrate(1.0, 1e-6), Blt())
    return noised_sum(
        fleet.learnt[0], generation=1, base=fleet.layout.base, basis=fleet.layout.basis, n_updates=COHORT,
        denominator=COHORT, noise=words.words_of(plan, Budget(1e-6, 1.0, 0.8)), number=number,
    )  # fmt: skip


def test_the_cloud_keeps_a_ledger_of_its_own(cloud: Path, fleet: Fleet) -> None:
    """A first round is charged once; what passes the lifetime, or changes the plan, is refused for good. Started again,
    from the log or from a snapshot, the cloud still knows; a fog without noise goes on as it did.
    """
    fitting = noised(fleet, 0)
    hand_up(cloud, fitting)
    state = drive(cloud, 2)
    (spent,) = state.books["north"].streams
    assert (spent.plan, spent.rounds) == (words.plan_of(fitting)[0], 1)
    (received,) = facts(cloud, ev.CohortReceived)
    assert (received.noise, received.cohort.epsilon) == (fitting.noise, fleet_sums.cohort_of("north", fitting).epsilon)

    hand_up(cloud, noised(fleet, 7), noised(fleet, 1, rounds=9))
    state = drive(cloud, 2)
    lifetime, plan = (refused.reason for refused in facts(cloud, ev.CohortRefused))
    assert "the lifetime of a device to ε = " in lifetime
    assert "the budget is 0.8" in lifetime
    assert "another noise plan" in plan
    assert (state.n_counted, state.books["north"].streams) == (1, (spent,))

    inbox = Inbox(cloud / "flower" / "collected" / "inbox.db")
    assert inbox.waiting() == []
    inbox.close()
    with opened(cloud) as rollouts:
        rollouts._log.snapshot(rollouts._seq, msgspec.json.encode(rollouts.cloud))
    (cloud / "flower" / "collected" / "inbox.db").unlink()  # everything comes once more
    hand_up(cloud, fitting, noised(fleet, 7))
    hand_up(cloud, *two_cohorts(fleet)[:1], fog="south")
    state = drive(cloud, 1)
    assert [c.fog for c in (state.work.cohorts if state.work else state.waiting)] == ["north", "south"]
    assert (state.n_counted, list(state.books), state.books["north"].streams) == (2, ["north"], (spent,))
    assert facts(cloud, ev.CohortRefused)[-1].reason == lifetime


# ---- poison ----------------------------------------------------------------------------------------------------------


def poisoned(fleet: Fleet, kind: str) -> list:
    """The second cohort is an enemy's."""
    good, second = two_cohorts(fleet)
    values = np.asarray(second.values)
    if kind == "enormous":
        return [good, sum_of(fleet, np.full_like(values, 1e30), 1)]
    if kind == "scaled":
        return [good, sum_of(fleet, 1000 * values, 1)]
    most = COHORT * fleets.CLIP * 0.999
    if kind == "flipped":
        return [sum_of(fleet, -values / np.linalg.norm(values) * most, n) for n in (0, 1)]
    bad = fleet.poison / np.linalg.norm(fleet.poison) * most
    return [sum_of(fleet, bad, 0), sum_of(fleet, bad, 1)] if kind == "in norm" else [good, sum_of(fleet, bad, 1)]


@pytest.mark.parametrize("kind", ["enormous", "scaled"])
def test_a_sum_that_no_honest_fog_has_is_left_out(cloud: Path, fleet: Fleet, kind: str) -> None:
    """Its norm tells; the candidate is made of the good cohort alone, and stays what it would have been."""
    hand_up(cloud, *poisoned(fleet, kind)[:1], fog="north")
    hand_up(cloud, *poisoned(fleet, kind)[1:], fog="south")
    state = drive(cloud)
    assert state.work.stage == "sign"
    got = vector_of(open_release(cloud / "candidates" / "cloud-00001"), fleet.layout)
    clipped = [np.asarray(v, np.float64) * min(1.0, fleets.CLIP / np.linalg.norm(v)) for v in fleet.learnt]
    want = fleet.start + state.work.gamma * sum(clipped) / COHORT
    np.testing.assert_allclose(got, want, atol=1e-3 * np.abs(want).max())


@pytest.mark.parametrize("kind", ["flipped", "in norm", "half"])
def test_poison_within_the_norm_is_stopped_by_the_gate(cloud: Path, fleet: Fleet, kind: str) -> None:
    """Turned round, lies about happy faces, or lies in one cohort of two: nothing is made up for signing."""
    hand_up(cloud, *poisoned(fleet, kind))
    state = drive(cloud, 10)
    verdicts = [judged.verdict for judged in facts(cloud, ev.FleetJudged)]
    assert verdicts[-1] == "reject"
    assert (state.work, state.n_spent, state.release) == (None, 2, fleet.release.manifest_hash)
    assert not list((cloud / "candidates").glob("*"))


def test_numbers_that_are_none_never_reach_the_inbox(fleet: Fleet) -> None:
    """A sum with NaN or infinity has no form at all."""
    from evergrove.core.errors import InvalidInput

    for bad in (np.nan, np.inf):
        with pytest.raises(InvalidInput, match="not finite"):
            sum_of(fleet, np.full(4, bad, np.float32), 0)


# ---- workers, keys, one at a time ------------------------------------------------------------------------------------


def test_a_worker_that_dies_is_started_again_and_then_given_up(cloud: Path, fleet: Fleet) -> None:
    """Twice lost, done the third time; lost three times, its cohorts are spent."""
    hand_up(cloud, *two_cohorts(fleet))
    workers = Here()
    workers.lost = 2
    assert drive(cloud, 8, workers=workers).work.stage == "sign"
    assert [one.reason for one in facts(cloud, ev.WorkInterrupted)] == ["the worker was ended by SIGKILL"] * 2


def test_a_worker_without_an_end_is_cut_off(cloud: Path, fleet: Fleet) -> None:
    """After ``compute_s``: stopped and started anew, three times in all; then the job is over."""
    hand_up(cloud, *two_cohorts(fleet))
    clock, workers = [NOW_S + 10], Endless()
    with CloudDriver(cloud, lambda: clock[0], workers=workers) as driver:
        for _ in range(8):
            driver.tick()
            clock[0] += 2000.0
        assert (workers.n_started, workers.n_stopped, driver.state.work) == (3, 3, None)
    assert len(facts(cloud, ev.WorkInterrupted)) == 3


def test_a_job_that_cannot_be_done_is_not_tried_again(cloud: Path, fleet: Fleet) -> None:
    """Every sum is an enemy's: the job fails by itself, once, with the reason in the log."""
    hand_up(cloud, *(sum_of(fleet, np.full(fleet.layout.n_numbers, 1e30, np.float32), n) for n in (0, 1)))
    workers = Here()
    assert drive(cloud, 5, workers=workers).work is None
    assert workers.n_started == 1
    assert "no cohort is sound" in facts(cloud, ev.WorkFailed)[0].reason


def test_signing_needs_the_right_keys_and_something_to_sign(cloud: Path, fleet: Fleet) -> None:
    """Without a candidate, without keys, with another fleet's: refused, and nothing is published."""
    with opened(cloud) as rollouts, pytest.raises(UsageError, match="nothing waits for a signature"):
        rollouts.sign(keys(cloud), NOW_S, DEVICES)
    hand_up(cloud, *two_cohorts(fleet))
    assert drive(cloud).work.stage == "sign"
    from evergrove.adapters.tuf_keys import new_signers
    from evergrove.adapters.tuf_metadata import THRESHOLDS

    with opened(cloud) as rollouts:
        for wrong in ({}, new_signers(THRESHOLDS)):
            with pytest.raises(UsageError, match=r"targets role needs 2 of its 2 keys, 0 at hand"):
                rollouts.sign(wrong, NOW_S, DEVICES)
        with pytest.raises(UsageError, match="no devices are known"):
            rollouts.sign(keys(cloud), NOW_S, ())
        with pytest.raises(UsageError, match="rollout refuse"):
            rollouts.start("tiny", keys(cloud), NOW_S, rollouts.settings.rollout.policy(), DEVICES, epsilon=0.0)
        assert [p.version for p in rollouts.repository.publications()] == [1]
        rollouts.feed(ev.SigningRefused("cloud-00001", "me", "no"), NOW_S)
    assert drive(cloud, 1).work is None
    assert not list((cloud / "candidates").iterdir())


def test_one_driver_and_commands_beside_it(cloud: Path, fleet: Fleet) -> None:
    """A second driver is refused; a person's command takes its turn, and the driver sees it at its next tick."""
    with CloudDriver(cloud, lambda: NOW_S + 10, workers=Here()) as driver:
        with pytest.raises(AgentBusy), CloudDriver(cloud, lambda: NOW_S):
            pass
        driver.tick()
        with opened(cloud) as rollouts:
            held = fleet.release.read(fleet.release.manifest.adapter)  # type: ignore[arg-type]
            other = write_release(fleet.release, held, cloud.with_name("other"), 9)
            policy = rollouts.settings.rollout.policy()
            rollouts.start(other.folder, keys(cloud), NOW_S + 20, policy, DEVICES, epsilon=0.0)
            rollouts.order(ev.RolloutPaused(rollouts.state.rollout, "me"), NOW_S + 20)
        driver.tick()
        assert driver.state.rollout.status == "paused"


def test_reports_count_once_and_tell_which_devices_there_are(cloud: Path, fleet: Fleet) -> None:
    """Told again, or of another rollout: nothing more in the log, but the device is known."""
    hand_up(cloud)
    hear(cloud, DeviceReport(1, "garden", "old", "confirmed"), DeviceReport(2, "a", "old", "rejected"))
    drive(cloud, 1)
    hear(cloud, DeviceReport(1, "garden", "old", "confirmed"), DeviceReport(2, "a", "old", "rejected"))
    drive(cloud, 1)
    assert facts(cloud, ev.ReleaseReported) == facts(cloud, ev.RolloutRefused) == []
    with opened(cloud) as rollouts:
        assert rollouts.known_devices() == ["a", "b", "c", "garden"]
        heard = rollouts.files.heard()
        assert (heard["a"].mark, heard["a"].fog) == ("rejected", "north")


def test_without_pictures_of_what_is_learnt_nothing_passes_unless_told(cloud: Path, fleet: Fleet) -> None:
    """The gate asks for a gain that nothing can show; a setting asks for no harm alone."""
    (cloud / "fleet-golden.npz").unlink()
    hand_up(cloud, *two_cohorts(fleet))
    assert drive(cloud, 8).work is None
    (cloud / "cloud.toml").write_text(fleets.SETTINGS.replace("[gate]", "[gate]\nneeds_gain = false"))
    hand_up(cloud, *(sum_of(fleet, np.asarray(one.values), n + 7) for n, one in enumerate(two_cohorts(fleet))))
    assert drive(cloud, 8).work.stage == "sign"


def test_the_rules_and_optimisers_of_the_settings_are_used(cloud: Path, fleet: Fleet) -> None:
    """FedAvgM's memory is kept from one release to the next; the Fisher spares what the release relies on."""
    changed = "[consolidate]\noptimiser = 'fedavgm'\nfisher_precision = 1.0\nfisher_samples = 16\nrule = 'median'"
    (cloud / "cloud.toml").write_text(fleets.SETTINGS.replace("[consolidate]", changed))
    hand_up(cloud, *two_cohorts(fleet))
    state = drive(cloud, 8)
    (fact,) = facts(cloud, ev.CandidateMade)
    assert fact.server is not None
    assert state.work.stage == "sign"
    with opened(cloud) as rollouts:
        rollouts.sign(keys(cloud), NOW_S + 20, (), at_once=True)
    state = drive(cloud, 2, NOW_S + 30)
    assert state.lines[state.release].server == fact.server
    assert (cloud / "store" / fact.server).exists(), "the optimiser goes on from it"
    step = vector_of(open_release(cloud / "releases" / state.release), fleet.layout) - fleet.start
    plain = np.mean([np.asarray(one.values) / COHORT for one in two_cohorts(fleet)], axis=0)
    gamma = facts(cloud, ev.FleetJudged)[-1].gamma
    rows = [slot.name.startswith("row.") for slot in fleet.layout.slots for _ in range(slot.size)]
    np.testing.assert_allclose(step[rows], gamma * plain[rows], atol=2e-2)
    assert np.linalg.norm(step[~np.array(rows)]) < 0.99 * gamma * np.linalg.norm(plain[~np.array(rows)])


def test_what_was_gathered_is_reconciled_with_what_the_base_knew(cloud: Path, fleet: Fleet, tmp_path: Path) -> None:
    """By the settings' steps, also after a worker died; a step that is too long for the gate then passes."""
    long = fleets.SETTINGS.replace("delta = 0.3", "delta = 0.15").replace("[consolidate]", "[consolidate]\nrate = 1.6")
    shutil.copytree(cloud.parent, tmp_path / "plain")
    (tmp_path / "plain" / "cloud" / "cloud.toml").write_text(long)
    (cloud / "cloud.toml").write_text(long.replace("reconcile_steps = 0", "reconcile_steps = 60"))
    for folder in (tmp_path / "plain" / "cloud", cloud):
        hand_up(folder, *two_cohorts(fleet))
    plain = drive(tmp_path / "plain" / "cloud", 8)
    workers = Here()
    workers.lost = 1
    state = drive(cloud, 12, workers=workers)
    refused = facts(tmp_path / "plain" / "cloud", ev.FleetJudged)[-1]
    assert (plain.work, refused.verdict) == (None, "reject")
    assert state.work.stage == "sign", facts(cloud, ev.FleetJudged)
    assert "reconciled" in (cloud / "candidates" / state.work.job / "README.md").read_text()


# ---- the next generation ---------------------------------------------------------------------------------------------


def test_the_next_generation_is_one_base_with_a_new_a(cloud: Path, fleet: Fleet) -> None:
    """Merged, measured without a gain, signed: generation 2, no adapter, the same pictures; old sums fit nothing."""
    quick = "[work]\nbasis_tasks = 2\nbasis_steps = 4\n"
    (cloud / "cloud.toml").write_text(fleets.SETTINGS + quick)
    hand_up(cloud, *two_cohorts(fleet))
    drive(cloud)
    with opened(cloud) as rollouts:
        first = rollouts.sign(keys(cloud), NOW_S + 20, (), at_once=True)
        seen = rollouts.proposed()
        norms = sorted([float(np.linalg.norm(fleet.learnt[n])) for n in (0, 1, 2, 1, 2, 1)])
        assert (seen.now, seen.counted, seen.noise_std) == (fleets.CLIP, 6, 0.0)
        if norms[2] < fleets.CLIP:
            assert norms[2] / 2**0.5 <= seen.clip <= norms[3] * 2**0.5
        rollouts.feed(ev.MergeRequested("me", 2.5), NOW_S + 20)
    state = drive(cloud, 8, NOW_S + 30)
    assert (state.work.purpose, state.work.stage) == ("merge", "sign"), facts(cloud, ev.WorkFailed)
    merged = open_release(cloud / "candidates" / state.work.job)
    manifest = merged.manifest
    assert (manifest.generation, manifest.adapter, manifest.clip) == (2, None, 2.5)
    assert manifest.golden == fleet.release.manifest.golden
    before = assembly.open_parts(open_release(cloud / "releases" / first.release)).network()
    rng = torch.Generator().manual_seed(0)
    x, t = torch.randn(4, 3, 32, 32, generator=rng), torch.tensor([0.1, 0.4, 0.6, 0.9])
    code = torch.tensor([(5, 1, 1, 1, 1), (1, 2, 2, 3, 1), (2, 1, 2, 1, 2), (0, 0, 0, 0, 0)])
    with torch.no_grad():
        after = assembly.open_parts(merged).network()(x, t, code)
        torch.testing.assert_close(after, before(x, t, code), atol=2e-2, rtol=0.0)
    with opened(cloud) as rollouts:
        signed = rollouts.sign(keys(cloud), NOW_S + 40, (), at_once=True)
    state = drive(cloud, 2, NOW_S + 50)
    assert (state.generation, state.release, signed.generation, state.norms) == (2, signed.release, 2, {})
    with opened(cloud) as rollouts:
        assert rollouts.gather().clip == rollouts.proposed().now == 2.5, "whatever cloud.toml says"
    hand_up(cloud, sum_of(fleet, fleet.learnt[0], 8))
    drive(cloud, 1, NOW_S + 60)
    assert "generation 1; generation 2 is gathered" in facts(cloud, ev.CohortRefused)[-1].reason
