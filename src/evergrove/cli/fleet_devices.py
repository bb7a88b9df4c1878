"""``evergrove device list|revoke|pin``: the devices of a fleet, as a fog that enrols them or the cloud knows them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evergrove.cli import show, status_cloud
from evergrove.cli.common import AsJson, Yes, confirm
from evergrove.cli.keys import now_s
from evergrove.core.errors import UsageError

if TYPE_CHECKING:
    from evergrove.adapters.authority import Authority

Place = Annotated[Path, typer.Argument(metavar="FOLDER", help="A fog's folder, or a cloud's.")]
Name = Annotated[str, typer.Argument(metavar="DEVICE", help="The device's name.")]
WAIT_S = 30.0


def list_(folder: Place, as_json: AsJson = False) -> None:
    """List the devices: enrolled or revoked where FOLDER enrols them; the last word on a release where it is a cloud's.

    Example: evergrove device list ~/grove
    """
    from evergrove.core.rollout import held_as

    authority = find_authority(folder)
    found: dict[str, dict[str, object]] = {}
    for name, revoked in [] if authority is None else authority.devices():
        found[name] = {"enrolled": True, "revoked": revoked}
    if status_cloud.is_cloud(folder):
        from evergrove.runtime.rollouts import opened

        with opened(folder, wait_s=WAIT_S) as rollouts:
            held, heard = rollouts.state.held, rollouts.files.heard()
            for name in rollouts.known_devices():
                found.setdefault(name, {})
        for name, word in heard.items():
            found[name] |= {"fog": word.fog, "rollout": word.rollout, "mark": word.mark, "shadow": word.shadow}
        for name, about in found.items():
            if held_as(name) in held:
                about["held_at"] = held[held_as(name)]
    elif authority is None:
        raise UsageError(f"'{folder}' is neither a cloud's folder nor one of a fog that enrols devices")
    if as_json:
        show.json({"devices": [{"device": name, **about} for name, about in sorted(found.items())]})
        return
    if not found:
        show.line("No device is known yet.")
        return
    rows = [(name, _standing(about), _word(about), _held(about)) for name, about in sorted(found.items())]
    show.table(rows, ("device", "enrolment", "last word on a release", ""))


def revoke(
    folder: Place,
    device: Name,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; it is kept.")] = "not stated",
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Revoke a device, for good: no fog of this authority talks to it any more, and its name enrols no other.

    What it sent before stays in the sums that it went into.

    Example: evergrove device revoke ~/fog kitchen-display --reason "stolen" --yes
    """
    authority = find_authority(folder)
    if authority is None:
        raise UsageError(f"'{folder}' enrols no devices: revoke it at the fog, or the authority, that enrolled it")
    confirm(f"Revoke {device} for good?", yes)
    authority.revoke(device, reason, now_s())
    if as_json:
        show.json({"device": device, "revoked": True, "list": str(authority.list_path)})
        return
    show.line(f"{device} is revoked; a fog that reads {authority.list_path} refuses it from its next request on.")


def pin(
    cloud: Annotated[Path, typer.Argument(metavar="CLOUD", help="The cloud's folder.")],
    device: Name,
    version: Annotated[
        int | None, typer.Argument(metavar="[VERSION]", min=1, help="The highest version that it may take.")
    ] = None,
    release: Annotated[bool, typer.Option("--release", help="Let it go on with the others.")] = False,
    as_json: AsJson = False,
) -> None:
    """Hold a device at a version: it takes no release above it, until --release. It never goes back to a lower one.

    Example: evergrove device pin ~/grove kitchen-display 3
    """
    from evergrove.runtime.rollouts import opened

    if (version is None) != release:
        raise UsageError("say the VERSION to hold it at, or --release to let it go")
    with opened(cloud, wait_s=WAIT_S) as rollouts:
        if device not in rollouts.known_devices():
            raise UsageError(f"no device '{device}' is known here; `evergrove device list {cloud}` shows them")
        rollouts.hold(device, version, now_s())
    if as_json:
        show.json({"device": device, "held_at": version})
        return
    show.line(f"{device} goes on with the others." if release else f"{device} takes nothing above version {version}.")


def find_authority(folder: Path) -> "Authority | None":
    """The certificate authority of a fog's or a cloud's folder, None where it has none."""
    from evergrove.adapters.authority import CA_KEY, Authority

    place = folder / "authority"
    return Authority(place) if (place / CA_KEY).exists() else None


def _standing(about: dict[str, object]) -> str:
    if "enrolled" not in about:
        return "elsewhere"
    return "revoked" if about["revoked"] else "enrolled"


def _word(about: dict[str, object]) -> str:
    if "mark" not in about:
        return "none yet"
    return f"{about['mark']} {about['rollout']}" + (", in the shadow" if about["shadow"] else "")


def _held(about: dict[str, object]) -> str:
    return f"held at version {about['held_at']}" if "held_at" in about else ""
