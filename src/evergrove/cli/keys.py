"""``evergrove keys``: what signs releases: make keys, look at them, change them, keep their signatures fresh."""

import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import typer

from evergrove.cli import show
from evergrove.cli.common import AsJson, Yes, confirm
from evergrove.core.errors import UsageError

app = typer.Typer(
    no_args_is_help=True, help="The keys that sign releases: offline ones of yours, online ones of the cloud."
)

PASSPHRASE = "EVERGROVE_KEYS_PASSPHRASE"
Role = Literal["root", "targets", "snapshot", "timestamp", "rollout"]
Cloud = Annotated[Path, typer.Option("--cloud", metavar="FOLDER", help="The cloud's folder.")]
CloudFolder = Annotated[Path, typer.Argument(metavar="CLOUD", help="The cloud's folder.")]
KeyFolder = Annotated[
    Path, typer.Argument(metavar="KEYS", help="The folder of the offline keys, on a disk of its own.")
]
NoPassphrase = Annotated[
    bool, typer.Option("--no-passphrase", help="Leave the offline keys readable to who has the disk.")
]
Count = Annotated[int, typer.Option(min=1, max=16)]


@app.command("create")
def create(
    keys: KeyFolder,
    cloud: Cloud,
    root_keys: Annotated[int, typer.Option(min=1, max=16, help="How many root keys.")] = 3,
    root_threshold: Annotated[int, typer.Option(min=1, max=16, help="How many of them must sign.")] = 2,
    targets_keys: Annotated[int, typer.Option(min=1, max=16, help="How many keys for releases.")] = 3,
    targets_threshold: Annotated[int, typer.Option(min=1, max=16, help="How many of them must sign.")] = 2,
    no_passphrase: NoPassphrase = False,
    as_json: AsJson = False,
) -> None:
    """Make the keys of a fleet and the cloud's repository, which they have signed.

    The offline keys (root and targets) go to KEYS, encrypted by a passphrase that is asked for or read from
    EVERGROVE_KEYS_PASSPHRASE: keep that disk in a drawer. What the cloud may sign by itself goes to its own folder.

    Example: evergrove keys create /media/stick/keys --cloud cloud
    """
    thresholds = {"root": root_threshold, "targets": targets_threshold, "snapshot": 1, "timestamp": 1, "rollout": 1}
    counts = {"root": root_keys, "targets": targets_keys, "snapshot": 1, "timestamp": 1, "rollout": 1}
    for role, threshold in thresholds.items():
        if threshold > counts[role]:
            raise UsageError(f"{counts[role]} {role} keys can never reach a threshold of {threshold}")
    if keys.resolve().is_relative_to(cloud.resolve()):
        raise UsageError(f"the offline keys would lie inside the cloud's folder: keep them apart from '{cloud}'")
    if keys.is_dir() and any(keys.iterdir()):
        raise UsageError(f"'{keys}' is not empty; name a new folder")
    from evergrove.adapters.tuf_keys import OFFLINE, ONLINE, new_signers, save_keys
    from evergrove.adapters.tuf_repository import Repository

    repository = Repository(cloud / "repository")
    if repository.exists:
        raise UsageError(f"'{cloud}' has its keys already; `evergrove keys rotate` changes them")
    phrase = None if no_passphrase else ask_passphrase(new=True)
    signers = new_signers(counts)
    save_keys(keys, {role: signers[role] for role in OFFLINE}, phrase)
    save_keys(cloud / "keys", {role: signers[role] for role in ONLINE}, None)
    repository.create(signers, now_s(), thresholds)
    root = cloud / "repository" / "metadata" / "1.root.json"
    if as_json:
        show.json(
            {"keys": str(keys), "cloud": str(cloud), "root": str(root), "thresholds": thresholds, "counts": counts}
        )
        return
    show.line(f"{root_keys} root and {targets_keys} targets keys are in {keys}; take them off this machine.")
    show.line(f"The cloud's own are in {cloud / 'keys'}. Devices are made with {root}.")


@app.command("show")
def show_(cloud: CloudFolder, as_json: AsJson = False) -> None:
    """Show which keys count for what, how many must sign, and until when their signatures hold.

    Example: evergrove keys show cloud
    """
    from evergrove.adapters.tuf_keys import ROLES
    from evergrove.adapters.tuf_repository import Repository

    now = Repository(cloud / "repository").current()
    found = []
    for role in ROLES:
        holder = now.targets.signed if role == "rollout" else now.root.signed
        rule, until = holder.get_delegated_role(role), now.of(role).signed.expires
        found.append((role, list(rule.keyids), rule.threshold, until))
    if as_json:
        roles = {role: {"keys": ids, "threshold": n, "expires_s": until.timestamp()} for role, ids, n, until in found}
        show.json({"root_version": now.root.signed.version, "roles": roles})
        return
    rows = [
        (role, f"{n} of {len(ids)}", until.strftime("%Y-%m-%d %H:%M UTC"), ", ".join(i[:12] for i in ids))
        for role, ids, n, until in found
    ]
    show.table(rows, ("role", "must sign", "signatures hold until", "keys"))
    if late := [role for role, _, _, until in found if until < datetime.now(UTC)]:
        show.note(f"warning: expired: {', '.join(late)}; devices refuse the repository")


@app.command("rotate")
def rotate(
    role: Annotated[Role, typer.Argument(metavar="ROLE", help="root, targets, snapshot, timestamp or rollout.")],
    keys: KeyFolder,
    cloud: Cloud,
    no_passphrase: NoPassphrase = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Change the keys of a role: as many new ones, signed in by the root keys (by targets keys for rollout).

    Devices follow by themselves, also those that were made with an older root. The old keys are deleted.

    Example: evergrove keys rotate targets /media/stick/keys --cloud cloud
    """
    from evergrove.adapters.tuf_keys import OFFLINE, ONLINE, load_keys, new_signers, remove_keys, save_keys
    from evergrove.adapters.tuf_repository import Repository

    repository = Repository(cloud / "repository")
    now = repository.current()
    confirm(f"Replace the {role} keys and delete the old ones?", yes)
    phrase = None if no_passphrase else ask_passphrase()
    signers = {**load_keys(cloud / "keys", None, ONLINE), **load_keys(keys, phrase, OFFLINE)}
    holder = now.targets.signed if role == "rollout" else now.root.signed
    fresh = new_signers({role: len(holder.get_delegated_role(role).keyids)})
    place = keys if role in OFFLINE else cloud / "keys"
    save_keys(place, fresh, phrase if role in OFFLINE else None)
    repository.rotate(role, fresh[role], signers, now_s())
    gone = remove_keys(place, [one.public_key.keyid for one in fresh[role]], [role])
    if as_json:
        show.json({"role": role, "keys": [one.public_key.keyid for one in fresh[role]], "deleted": gone})
        return
    show.line(
        f"{show.plural(len(fresh[role]), f'new {role} key')} in {place}; deleted {show.plural(len(gone), 'old one')}."
    )


@app.command("refresh")
def refresh(cloud: CloudFolder, as_json: AsJson = False) -> None:
    """Sign a new timestamp, and whatever else of the cloud's own is about to expire. At least once in 24 hours.

    Example: evergrove keys refresh cloud
    """
    from evergrove.adapters.tuf_keys import ONLINE, load_keys
    from evergrove.adapters.tuf_repository import Repository

    repository = Repository(cloud / "repository")
    repository.current()
    repository.refresh(load_keys(cloud / "keys", None, ONLINE), now_s())
    until_s = repository.expires_s()
    if as_json:
        show.json({"expires_s": until_s})
        return
    left = show.duration(min(until_s["timestamp"], until_s["snapshot"], until_s["rollout"]) - now_s())
    show.line(f"Devices believe this repository for another {left}.")


def ask_passphrase(new: bool = False) -> bytes:
    """The offline keys' passphrase, from the environment or a person. Raises ``UsageError`` where there is none."""
    said = os.environ.get(PASSPHRASE)
    if not said and sys.stdin.isatty():
        said = typer.prompt("Passphrase of the offline keys", hide_input=True, confirmation_prompt=new, err=True)
    if not said:
        raise UsageError(f"the offline keys need a passphrase: set {PASSPHRASE}, or add --no-passphrase")
    return said.encode()


def now_s() -> float:
    """Seconds since 1970."""
    return datetime.now(UTC).timestamp()
