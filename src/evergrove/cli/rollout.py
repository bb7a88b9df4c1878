"""``evergrove rollout``: a signed release goes to the devices in stages, and back by one command."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import typer

from evergrove.cli import show
from evergrove.cli.common import AsJson, Yes, confirm
from evergrove.cli.keys import CloudFolder, NoPassphrase, ask_passphrase, now_s
from evergrove.core import cloud_events as ev
from evergrove.core.errors import UsageError
from evergrove.core.rollout import Policy

app = typer.Typer(no_args_is_help=True, help="Releases on their way to the devices: shadow, 5, 25, 100 %, and back.")

DEFAULT = Policy()
WAIT_S = 30.0
"""How long a command waits for the running cloud to finish what it is doing."""
Keys = Annotated[Path, typer.Option("--keys", metavar="FOLDER", help="The folder of the offline keys.")]
Mark = Literal["accepted", "confirmed", "rejected", "rolled_back", "failed"]


@app.command("start")
def start(
    cloud: CloudFolder,
    release: Annotated[str, typer.Argument(metavar="RELEASE", help="A release's folder, or a packaged name.")],
    keys: Keys,
    epsilon: Annotated[
        float,
        typer.Option(min=0.0, help="What it spent of its users' privacy: inf without noise, 0 without user data."),
    ],
    delta: Annotated[float, typer.Option(min=0.0, max=1.0, help="The δ of that ε.")] = 0.0,
    devices: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The devices heard of lately, one a line. [CLOUD/devices.txt]")
    ] = None,
    at_once: Annotated[bool, typer.Option("--at-once", help="To everybody, without stages.")] = False,
    shadow: Annotated[
        float, typer.Option(min=0.0, max=100.0, help="Per cent that only measure, first.")
    ] = DEFAULT.shadow,
    errors: Annotated[float, typer.Option(help="Share of devices that may fail.")] = DEFAULT.errors_share,
    hours: Annotated[float, typer.Option(help="How long a stage may take.")] = DEFAULT.stage_s / 3600,
    trained_on: Annotated[str, typer.Option(help="For the model card of a release that has none.")] = "",
    no_passphrase: NoPassphrase = False,
    as_json: AsJson = False,
) -> None:
    """Sign a release and start its way to the devices: some measure it first, then 5, 25 and 100 % serve it.

    Example: evergrove rollout start cloud release-7 --keys /media/stick/keys --epsilon 1
    """
    from evergrove.adapters.tuf_keys import OFFLINE, load_keys
    from evergrove.runtime.rollouts import opened

    policy = Policy(shadow=shadow, errors_share=errors, stage_s=hours * 3600)
    passphrase = None if no_passphrase else ask_passphrase()
    with opened(cloud, wait_s=WAIT_S) as rollouts:
        known = [] if at_once else _devices(cloud, devices)
        signers = load_keys(keys, passphrase, OFFLINE)
        done = rollouts.start(
            release, signers, now_s(), policy, known,
            epsilon=epsilon, delta=delta, trained_on=trained_on, at_once=at_once,
        )  # fmt: skip
    if math.isinf(epsilon):
        show.note("note: ε = ∞. What a single user's device learnt may be found in this release.")
    _say(cloud, as_json, f"Signed {done.name} ({done.release[:8]}) as version {done.version}.")


@app.command("sign")
def sign(
    cloud: CloudFolder,
    keys: Keys,
    devices: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Devices beside those that have reported. [CLOUD/devices.txt]")
    ] = None,
    at_once: Annotated[bool, typer.Option("--at-once", help="To everybody, without stages.")] = False,
    no_passphrase: NoPassphrase = False,
    as_json: AsJson = False,
) -> None:
    """Sign the candidate that the fleet has made and the gate has let pass, and start its way to the devices.

    It lies in CLOUD/candidates, with its model card: read that first. The stages are those of CLOUD/cloud.toml.

    Example: evergrove rollout sign cloud --keys /media/stick/keys
    """
    from evergrove.adapters.tuf_keys import OFFLINE, load_keys
    from evergrove.runtime.rollouts import opened

    passphrase = None if no_passphrase else ask_passphrase()
    with opened(cloud, wait_s=WAIT_S) as rollouts:
        signers = load_keys(keys, passphrase, OFFLINE)
        done = rollouts.sign(signers, now_s(), [] if at_once else _devices(cloud, devices), at_once=at_once)
    if math.isinf(done.epsilon):
        show.note("note: ε = ∞. What a single user's device learnt may be found in this release.")
    _say(cloud, as_json, f"Signed {done.name} ({done.release[:8]}) as version {done.version}.")


@app.command("golden")
def golden(
    cloud: CloudFolder,
    pictures: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Pictures with a metadata.csv: file_name, and what they show.")
    ],
    as_json: AsJson = False,
) -> None:
    """Take held-back pictures of what the fleet is to learn: candidates must be better on them on the whole.

    They are never trained on. About 24 pictures of each condition, or more, tell small harm from none.

    Example: evergrove rollout golden cloud ~/held-back
    """
    from evergrove.runtime.rollouts import opened

    with opened(cloud, wait_s=WAIT_S) as rollouts:
        asked = rollouts.take_golden(pictures, now_s())
    if as_json:
        show.json({"conditions": list(asked.conditions), "learning": list(asked.learning)})
        return
    n = show.plural(len(asked.learning), "condition")
    show.line(f"The fleet's gate asks for a gain on {n} and for no loss of {len(asked.conditions)} others.")


@app.command("refuse")
def refuse(
    cloud: CloudFolder,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; it is kept in the cloud's log.")],
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Give the candidate up that waits for a signature. What its cohorts have learnt is lost.

    Example: evergrove rollout refuse cloud --reason "its pictures look wrong" --yes
    """
    from evergrove.runtime.rollouts import opened

    confirm("Give this candidate up for good?", yes)
    with opened(cloud, wait_s=WAIT_S) as rollouts:
        waiting = rollouts.waiting()
        if waiting is None:
            raise UsageError("nothing waits for a signature")
        rollouts.feed(ev.SigningRefused(waiting.job, "a person", reason), now_s())
    _say(cloud, as_json, f"Given up: {waiting.job}.")


@app.command("merge")
def merge(
    cloud: CloudFolder,
    clip: Annotated[
        float | None,
        typer.Option(
            "--clip", metavar="C", help="Norm that its updates are clipped to. [what this one's norms ask for]"
        ),
    ] = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Ask for the next generation: what was released is merged into the base, and a new A is learnt.

    Devices carry over what they have learnt, and send updates of the new generation once it is signed and everywhere.
    Its clip is signed with it, and fogs that follow the repository take it from there. By default it is the private
    quantile that `evergrove status CLOUD` shows; a number that you read off single updates would stand outside ε.

    Example: evergrove rollout merge cloud --yes
    """
    from evergrove.rules.privacy.clipping import CLIP_MAX, CLIP_MIN
    from evergrove.runtime.rollouts import opened

    if clip is not None and not CLIP_MIN <= clip <= CLIP_MAX:
        raise UsageError(f"--clip {clip:g}: say one from {CLIP_MIN:g} to {CLIP_MAX:g}")
    with opened(cloud, wait_s=WAIT_S) as rollouts:
        seen = rollouts.proposed()
    chosen, why = (seen.clip, seen.says) if clip is None else (clip, "as you say")
    words = f"The next generation clips updates to {chosen:g}, this one to {seen.now:g}: {why}."
    lost = "Sums of this one that wait are dropped when it is everywhere."
    confirm(f"Begin the next generation? {words} {lost}", yes)
    with opened(cloud, wait_s=WAIT_S) as rollouts:
        rollouts.feed(ev.MergeRequested("a person", chosen), now_s())
    _say(cloud, as_json, words)


@app.command("status")
def status(cloud: CloudFolder, as_json: AsJson = False) -> None:
    """Show how far the rollout is, what the devices have said, and what the rule makes of it.

    `evergrove status CLOUD` shows the rest: what was counted, what waits for a signature, ε of each release.

    Example: evergrove rollout status cloud
    """
    _say(cloud, as_json)


@app.command("pause")
def pause(cloud: CloudFolder, as_json: AsJson = False) -> None:
    """Nobody new gets the release until `resume`; who has it keeps it.

    Example: evergrove rollout pause cloud
    """
    _order(cloud, lambda name: ev.RolloutPaused(name, "a person"))
    _say(cloud, as_json)


@app.command("resume")
def resume(
    cloud: CloudFolder,
    without_silent: Annotated[
        bool, typer.Option("--without-silent", help="Wait no longer for devices of this stage that have said nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Go on after a pause or a time-out; the stage has its whole time again.

    Example: evergrove rollout resume cloud
    """
    _order(cloud, lambda name: ev.RolloutResumed(name, "a person", without_silent))
    _say(cloud, as_json)


@app.command("abort")
def abort(cloud: CloudFolder, yes: Yes = False, as_json: AsJson = False) -> None:
    """Give the release up: no further device gets it. Those that have it need `back`, or the next release.

    Example: evergrove rollout abort cloud --yes
    """
    confirm("Give this release up for good?", yes)
    _order(cloud, lambda name: ev.RolloutAborted(name, "a person"))
    _say(cloud, as_json)


@app.command("back")
def back(
    cloud: CloudFolder, keys: Keys, no_passphrase: NoPassphrase = False, yes: Yes = False, as_json: AsJson = False
) -> None:
    """Give the release up everywhere, for the one before it: signed again, under a new and higher version.

    Example: evergrove rollout back cloud --keys /media/stick/keys --yes
    """
    from evergrove.adapters.tuf_keys import OFFLINE, load_keys
    from evergrove.runtime.rollouts import opened

    with opened(cloud, wait_s=WAIT_S) as rollouts:
        leaving = rollouts.state.version
    confirm(f"Take version {leaving} back from every device?", yes)
    passphrase = None if no_passphrase else ask_passphrase()
    with opened(cloud, wait_s=WAIT_S) as rollouts:
        if rollouts.state.version != leaving:
            raise UsageError(f"version {rollouts.state.version} is out meanwhile; look at it first")
        done = rollouts.back(load_keys(keys, passphrase, OFFLINE), now_s())
    words = f"Version {done.version} is {done.name} ({done.release[:8]}) again, in place of version {leaving}."
    _say(cloud, as_json, words)


@app.command("report")
def report(
    cloud: CloudFolder,
    device: Annotated[str, typer.Argument(metavar="DEVICE", help="The device's name.")],
    mark: Annotated[Mark, typer.Argument(metavar="MARK", help="accepted, confirmed, rejected, rolled_back or failed.")],
    shadow: Annotated[bool, typer.Option("--shadow", help="It only measured the release.")] = False,
    as_json: AsJson = False,
) -> None:
    """Enter by hand what a device says of the release: for devices that no fog reaches.

    Example: evergrove rollout report cloud kitchen confirmed
    """
    _order(cloud, lambda name: ev.ReleaseReported(name, device, mark, shadow))
    _say(cloud, as_json)


@app.command("tick")
def tick(cloud: CloudFolder, as_json: AsJson = False) -> None:
    """Do what time asks for: end a stage that took too long, keep the signatures fresh. For a timer, every hour.

    Example: evergrove rollout tick cloud
    """
    from evergrove.runtime.rollouts import opened

    with opened(cloud, wait_s=WAIT_S) as rollouts:
        rollouts.tick(now_s())
    _say(cloud, as_json)


def _devices(cloud: Path, devices: Path | None) -> list[str]:
    """The devices that stages are planned for: those of a file, and those that have reported through a fog."""
    from evergrove.runtime.cloud_folder import CloudFolder as Folder
    from evergrove.runtime.rollouts import read_devices

    path, heard = devices or cloud / "devices.txt", Folder(cloud).heard()
    return sorted({*(read_devices(path) if path.exists() or not heard else ()), *heard})


def _order(cloud: Path, fact_for: Callable[[str], ev.RolloutEvent]) -> None:
    from evergrove.runtime.rollouts import opened

    with opened(cloud, wait_s=WAIT_S) as rollouts:
        rollouts.order(fact_for(rollouts.state.rollout), now_s())


def _say(cloud: Path, as_json: bool, first: str = "") -> None:
    """The rollout as it stands."""
    from evergrove.runtime.rollouts import opened
    from evergrove.views import rollout as views

    with opened(cloud, wait_s=WAIT_S) as rollouts:
        view = views.of(rollouts.state, now_s())
    if as_json:
        show.json(view)
        return
    if first:
        show.line(first)
    if view.status == "none":
        show.line("No release has been rolled out yet.")
        return
    left = f", {show.duration(view.left_s)} left" if view.left_s is not None else ""
    show.line(f"Version {view.version} ({view.release[:8]}) is {view.status}{left}: {view.says}")
    rows = [
        (
            stage.name, stage.progress, str(stage.members), str(stage.good), str(stage.bad), str(stage.on_probation),
            "" if stage.good + stage.bad == 0 else f"{stage.error_rate[0]:.1%} to {stage.error_rate[1]:.1%}",
        )
        for stage in view.stages
    ]  # fmt: skip
    if rows:
        heads = ("stage", "", "devices", "good", "failed", "on probation", "error rate")
        show.table(rows, heads, right=(2, 3, 4, 5, 6))
    if view.good_version and view.good_version != view.version:
        show.line(f"Everybody else runs version {view.good_version} ({view.good_release[:8]}).")
