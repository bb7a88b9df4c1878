"""The fleet's story, step by step: six devices learn apart, a release makes all of them better, no picture ever left.

Everything is measured as it happens, by the devices' own ledgers and logs, the cloud's log, and an independent judge.
"""

import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch

from evergrove.adapters.release import Release, open_release
from evergrove.core import cloud_events
from evergrove.core import events as ev
from evergrove.core.errors import EvergroveError
from evergrove.demo import record
from evergrove.demo.fleet import cast, eye, grove, members, noise, pages, rogues, verdict
from evergrove.demo.fleet.cast import FACTOR, NEW, Role
from evergrove.demo.fleet.findings import Findings, Seen, Story
from evergrove.demo.fleet.grove import Grove
from evergrove.demo.fleet.members import Member
from evergrove.demo.fleet.screen import Screen
from evergrove.demo.fleet.script import FULL, QUICK
from evergrove.demo.fleet.trouble import Trouble
from evergrove.demo.narrator import Narrator
from evergrove.learn.oracle import Oracle, load_oracle
from evergrove.media.packs import Pack
from evergrove.rules import carry, learnt, params
from evergrove.rules.params import Layout, Vector
from evergrove.runtime.rollouts import opened
from evergrove.views.sentences import judgement

ORACLE = "oracle.safetensors"
WAIT_S = 420.0


def tell(quick: bool, runs: Path, seed: int) -> record.Outcome:
    """The whole story; see ``evergrove.demo.fleet.run``."""
    script = QUICK if quick else FULL
    narrator = Narrator(script.chapters)
    torch.set_num_threads(1)
    found = Findings(script, quick, seed, record.new_run(runs.absolute(), f"fleet-{seed}"))
    oracle = load_oracle(open_release(script.release).folder / ORACLE)
    with ExitStack() as stack:
        # 1. The grove and its members, as real processes.
        release = cast.first_release(script.release, found.folder, script.n_known)
        found.old = release.manifest.vocabulary.factors[0].values[: release.manifest.known[0]]
        roles, golden = cast.cast(release, seed), cast.golden(release, script.n_golden)
        tree = _plant(found, release, golden, narrator, stack)
        crowd = _enrol(found, tree, roles, narrator, stack)
        # 2. Each device meets its people.
        _meet(found, crowd, oracle, narrator)
        with Screen(crowd[0].device, {**crowd[0].look(0), FACTOR: "happy"}, script.picture_every_s) as screen:
            # 3. Each learns; meanwhile a fog dies and comes back, and the cloud is out of reach.
            _learn(found, tree, crowd, screen, oracle, narrator)
            # 4. Intruders.
            layout = _layout(release)
            updates = _updates(crowd, release, layout)
            _knock(found, tree, layout, updates, narrator)
            # 5. What the fogs gathered becomes a release, which a person signs.
            name = _consolidate(found, tree, crowd, screen, narrator)
            # 6. It comes back, and each device decides for itself.
            narrator.chapter()
            if name is not None:
                _return(found, crowd, name, screen, narrator)
        found.frames, found.frame_faults = screen.frames, screen.faults
        # Else the cloud would consolidate the next round beside the second arm, for nobody.
        _keep_logs(found, crowd, tree)
        tree.stop()
        # 7. The same once more, with noise.
        _with_noise(found, release, layout, roles, updates, golden, narrator)
        # 8. An independent judge.
        _judge(found, crowd, oracle, narrator)
        found.cable = (tree.cable.n_up, tree.cable.n_down)
        configs = {member.name: member.device.config for member in crowd}
    # 9. What remains.
    narrator.chapter()
    found.seconds = narrator.elapsed_s
    return _finish(found, configs, narrator)


# ---- 1 and 2: who there is -------------------------------------------------------------------------------------------


def _plant(found: Findings, release: Release, golden: Pack, narrator: Narrator, stack: ExitStack) -> Grove:
    narrator.chapter()
    script = found.script
    settings = noise.settings_of(script, script.clip, 0.0)

    def tick() -> None:
        narrator.progress(min(found.now_s / 35, 0.9), "SuperLink, driver, fogs and SuperNodes are starting")

    tree = stack.enter_context(grove.planted(found.folder / "grove", script, release, golden, settings, tick))
    found.note("cloud, SuperLink and two fogs are up; the offline keys lie with a person")
    narrator.tell(f"a cloud with its SuperLink, fogs {' and '.join(tree.ports)}, mutual TLS; release 1 is everywhere")
    return tree


def _enrol(found: Findings, tree: Grove, roles: Sequence[Role], narrator: Narrator, stack: ExitStack) -> list[Member]:
    crowd = stack.enter_context(members.enrolled(tree, roles, found.seed, narrator.tell))
    found.stories = {member.name: Story(member.role) for member in crowd}
    found.note("six devices have enrolled by one-time tokens")
    return crowd


def _meet(found: Findings, crowd: list[Member], oracle: Oracle, narrator: Narrator) -> None:
    narrator.chapter()
    for i, member in enumerate(crowd):
        story = found.stories[member.name]
        story.before = eye.read(oracle, member, (*found.old, *NEW), found.script.n_judged)
        story.observed, story.kept = members.observe(member)
        narrator.progress((i + 1) / len(crowd), f"{member.name} has met its people")
    before = _mean(found, "before", NEW)
    narrator.tell(f"each saw one new emotion, in looks of its own; of love and dizzy {before:.0%} are right so far")
    found.note("each device has met its people: all of them in love, or all of them dizzy")


# ---- 3: apart --------------------------------------------------------------------------------------------------------


def _learn(
    found: Findings, tree: Grove, crowd: list[Member], screen: Screen, oracle: Oracle, narrator: Narrator
) -> None:
    narrator.chapter()
    narrator.tell(f"{crowd[0].name} is asked for a picture every {found.script.picture_every_s:g} s from here on")
    trouble = Trouble(found, tree, screen, narrator)
    screen.during = "learning"

    def watch(share: float, words: str) -> None:
        trouble.tick(share)
        narrator.progress(0.9 * share, words)

    members.learn(crowd, found.script, watch)
    trouble.end()
    for member in crowd:
        result, story = member.result, found.stories[member.name]
        assert result is not None
        story.result = result
        found.note(f"{member.name}: {result.sentence}")
        if result.verdict != "accepted":
            raise EvergroveError(f"{member.name} could not learn its own: {result.sentence}")
    for member in crowd:
        found.stories[member.name].alone = eye.read(oracle, member, (*found.old, *NEW), found.script.n_judged)
    narrator.tell(
        f"alone, {_own(found, 'alone'):.0%} of what each was shown are right, {_unseen(found, 'alone'):.0%} of what it "
        "never saw"
    )


# ---- 4: intruders ----------------------------------------------------------------------------------------------------


def _layout(release: Release) -> Layout:
    manifest = release.manifest
    return params.layout_of(manifest, release.read(manifest.base), release.read(manifest.basis))


def _updates(crowd: list[Member], release: Release, layout: Layout) -> dict[str, Vector]:
    """What each device has learnt since the release, as its outbox has it before clipping."""
    assert release.manifest.adapter is not None
    given, found = learnt.decode(release.read(release.manifest.adapter)), {}
    for member in crowd:
        assert member.result is not None
        data = (members.versions(member.device.root) / f"{member.result.adapter}.safetensors").read_bytes()
        found[member.name] = carry.since(learnt.decode(data), given, layout)
    return found


def _knock(found: Findings, tree: Grove, layout: Layout, updates: Mapping[str, Vector], narrator: Narrator) -> None:
    narrator.chapter()
    found.updates = {name: params.norm(vector) for name, vector in updates.items()}
    found.update_bytes = layout.n_bytes("float16")
    folder = found.folder / "grove" / "rogues"
    folder.mkdir()
    found.attempts = rogues.knock(tree, "north", layout, updates["ada"], folder)
    for attempt in found.attempts:
        narrator.tell(f"{attempt.who}: {attempt.what}: {attempt.reason or 'LET IN'}")
    found.note(f"{rogues.refused(found.attempts)} of {len(found.attempts)} attempts refused at fog north")


# ---- 5 and 6: together -----------------------------------------------------------------------------------------------


def _consolidate(found: Findings, tree: Grove, crowd: list[Member], screen: Screen, narrator: Narrator) -> str | None:
    """The new release's name, once a person has signed it; None where the fleet's gate has refused it."""
    narrator.chapter()
    screen.during = "consolidating"

    def at(share: float, words: str) -> None:
        narrator.progress(share, words)

    tree.wait(
        "all six updates are counted", lambda: members.counted(crowd) >= len(crowd), WAIT_S,
        lambda: at(0.1, "devices send what they learnt"),
    )  # fmt: skip
    found.note("all six updates are counted, each fog has its cohort of three")
    narrator.tell(
        f"six updates of {found.update_bytes / 1000:.0f} kB are counted; each fog sums its three and deletes them"
    )
    found.protection = str(getattr(crowd[0].device.status().fleet, "protection", ""))

    def settled() -> str | None:
        with opened(tree.cloud, wait_s=grove.WAIT_LOCK_S) as rollouts:
            noise.check_work(tree.cloud)
            judged = [one.event for one in noise.read_cloud(tree.cloud)]
            looks = [one for one in judged if isinstance(one, cloud_events.FleetJudged)]
            if looks and looks[-1].verdict == "reject":
                return looks[-1].sentence
            asked = rollouts.waiting()
            return "" if asked is not None and (rollouts.files.candidate(asked.job) / "README.md").exists() else None

    tree.wait(
        "the fleet's gate has judged, and what passed waits for the offline keys", lambda: settled() is not None,
        WAIT_S, lambda: at(0.5, "two sums travel over Flower; the cloud consolidates and its gate measures"),
    )  # fmt: skip
    if refused := settled():
        found.note(f"the fleet's gate refused what the six have learnt: {refused}")
        narrator.tell(refused)
        return None
    with opened(tree.cloud, wait_s=grove.WAIT_LOCK_S) as rollouts:
        done = rollouts.sign(tree.signers, time.time(), (), at_once=True)
    found.served_version = done.version
    found.note(f"a person signed release {done.version} ({done.release[:8]}) with the offline keys")
    narrator.tell(f"the fleet's gate let it pass; a person signs it: version {done.version}, ε = ∞")
    return done.release


def _return(found: Findings, crowd: list[Member], release: str, screen: Screen, narrator: Narrator) -> None:
    screen.during = "taking the release"
    end_s = time.monotonic() + WAIT_S
    while (n := len(members.running(crowd, release))) < len(crowd):
        words = [members.chosen(member.log()) for member in crowd]
        refused = sum(word is not None and word[0] != "accept" for word in words)
        if n + refused == len(crowd) or time.monotonic() > end_s:
            break  # the verdict says who has not got it
        narrator.progress(n / len(crowd), f"{n} of {len(crowd)} devices serve the release")
        time.sleep(0.5)
    for member in crowd:
        story, word = found.stories[member.name], members.chosen(member.log())
        if word is not None:
            story.gamma, story.took = (word[1] if word[0] == "accept" else None), word[2]
        else:
            story.took = "no answer yet when the time was over"
        found.note(f"{member.name}: {story.took}")
        narrator.tell(f"{member.name}: {story.took}")


# ---- 7 to 9 ----------------------------------------------------------------------------------------------------------


def _with_noise(
    found: Findings,
    release: Release,
    layout: Layout,
    roles: Sequence[Role],
    updates: Mapping[str, Vector],
    golden: Pack,
    narrator: Narrator,
) -> None:
    narrator.chapter()
    began_s, expected_s = found.now_s, found.script.chapters[6][1]

    def tick() -> None:
        narrator.progress(min((found.now_s - began_s) / expected_s, 0.95), "the fleet's gate measures a noised release")

    folder = found.folder / "grove" / "with-noise"
    folder.mkdir()
    found.arm = noise.gathered_privately(folder, found.script, release, layout, roles, updates, golden, tick)
    last = found.arm.looks[-1]
    found.vocabulary = release.manifest.vocabulary
    narrator.tell(f"ε = {found.arm.epsilon:.2f}: the noise is {found.arm.noise_norm:.0f} times as long as an update")
    narrator.tell(f"{judgement(last.verdict, last.gamma, last.failed, found.vocabulary)}")


def _judge(found: Findings, crowd: list[Member], oracle: Oracle, narrator: Narrator) -> None:
    narrator.chapter()
    for i, member in enumerate(crowd):
        member.device.refresh()
        found.stories[member.name].after = eye.read(oracle, member, (*found.old, *NEW), found.script.n_judged)
        narrator.progress((i + 1) / len(crowd), f"{member.name}'s pictures are read")
    narrator.tell(
        f"{_own(found, 'after'):.0%} of what each was shown, {_unseen(found, 'after'):.0%} of what it never saw, "
        f"{_mean(found, 'after', found.old):.0%} of what all knew"
    )


def _keep_logs(found: Findings, crowd: list[Member], tree: Grove) -> None:
    for member in crowd:
        found.stories[member.name].log = member.log()
    found.cloud = [(one.at_s, one.event) for one in noise.read_cloud(tree.cloud)]


def _finish(found: Findings, configs: Mapping[str, object], narrator: Narrator) -> record.Outcome:
    """Numbers, verdict and report; the folder is complete when this returns."""
    numbers = verdict.metrics(found)
    claims = verdict.claims(numbers)
    numbers["ok"] = all(claim.holds for claim in claims)
    folder = found.folder
    record.write_json(folder / "metrics.json", numbers)
    logs = {name: story.log for name, story in found.stories.items()}
    logs["cloud"] = [ev.Stamped(at_s, event) for at_s, event in found.cloud]  # type: ignore[arg-type]  # its own union
    record.write_events(folder / "events.jsonl", logs)
    record.write_config(folder / "config.resolved.toml", configs)  # type: ignore[arg-type]
    path = pages.write_report(found, numbers, claims)
    shutil.copytree(folder / "grove" / "logs", folder / "logs", dirs_exist_ok=True)
    record.point_latest(folder)
    narrator.tell(f"{path}")
    lines = tuple(f"{'✓' if claim.holds else '✗'} {claim.text}" for claim in claims)
    return record.Outcome(numbers, lines, bool(numbers["ok"]), folder)


# ---- means over the devices ------------------------------------------------------------------------------------------


def _seen(story: Story, moment: str) -> Seen:
    seen: Seen | None = getattr(story, moment)
    assert seen is not None
    return seen


def _mean(found: Findings, moment: str, emotions: tuple[str, ...]) -> float:
    return sum(_seen(story, moment).mean(emotions) for story in found.stories.values()) / len(found.stories)


def _own(found: Findings, moment: str) -> float:
    stories = found.stories.values()
    return sum(_seen(story, moment).right[story.role.emotion] for story in stories) / len(stories)


def _unseen(found: Findings, moment: str) -> float:
    stories = found.stories.values()
    return sum(_seen(story, moment).right[story.role.unseen] for story in stories) / len(stories)
