"""``evergrove golden``: what updates are measured on, and a re-check of the version that serves."""

from collections import Counter

import typer

from evergrove.cli import show
from evergrove.cli.common import AsJson, DeviceOption, Settings, find_device, open_device
from evergrove.cli.learn import finish, follow, wait_for_turn

app = typer.Typer(no_args_is_help=True, help="The golden sets: what every update is measured on, and never trained on.")


@app.command("show")
def show_(device: DeviceOption = None, as_json: AsJson = False) -> None:
    """Show the golden sets: the release's, frozen by its hash, and the device's own for what it learnt itself.

    Example: evergrove golden show
    """
    from evergrove.bootstrap import read_identity, read_release
    from evergrove.media.packs import pack_of_bytes

    folder = find_device(device)
    release = read_release(folder, read_identity(folder))
    manifest = release.manifest
    pack = pack_of_bytes(release.read(manifest.golden), manifest.golden.name)
    with open_device(device) as opened:
        now = opened.status()
    counts = {
        factor.name: {value: int((pack.codes[:, f] == v + 1).sum()) for v, value in enumerate(factor.values)}
        for f, factor in enumerate(manifest.vocabulary.factors)
    }
    if as_json:
        files = {"file": manifest.golden.name, "sha256": manifest.golden.sha256, "intact": True}
        show.json({"release": {**files, "n_items": len(pack), "counts": counts}, "device": now.golden})
        return
    show.line(f"Of the release '{manifest.name}': {len(pack)} pictures in {manifest.golden.name}, unchanged")
    show.line(f"  sha256 {manifest.golden.sha256}")
    show.table((f"  {name}", spread(by_value)) for name, by_value in counts.items())
    if not now.golden:
        show.line("\nThe device's own: empty; it grows when the device meets something new.")
        return
    show.line(f"\nThe device's own: {show.plural(sum(now.golden.values()), 'picture')}")
    show.table(((f"  {name}", str(n)) for name, n in sorted(now.golden.items())), right=(1,))


@app.command("check")
def check(device: DeviceOption = None, settings: Settings = None, as_json: AsJson = False) -> None:
    """Measure the version that serves on the golden sets again, without an update.

    Exits with 5 where it raises an alarm: then the device goes back to the version before.

    Example: evergrove golden check
    """
    with open_device(device, settings) as opened, show.Progress("measuring") as progress:
        wait_for_turn(opened)
        result = opened.recheck(progress=follow(progress))
        now = opened.status()
    if result.verdict == "passed" and not as_json:
        show.line(f"Passed: {show.version_words(now.active)} is as good on the golden sets as it was.")
        return
    finish(result, as_json)


def spread(counts: dict[str, int]) -> str:
    """Counts by value in few words: ``happy, sad: 48 each`` where they are equal."""
    if len(set(counts.values())) == 1:
        return f"{', '.join(counts)}: {next(iter(counts.values()))} each"
    return ", ".join(f"{value} {n}" for value, n in Counter(counts).most_common())
