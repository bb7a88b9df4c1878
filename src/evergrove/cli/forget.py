"""``evergrove forget``: one observation, a condition or everything leaves the device, and whatever learnt from it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evergrove.cli import show
from evergrove.cli.common import AsJson, Yes, confirm, open_device, parse_condition
from evergrove.core.errors import UsageError

if TYPE_CHECKING:
    from evergrove.adapters.receipts import Receipt


def forget(
    device: Annotated[
        Path | None,
        typer.Argument(
            metavar="DEVICE", envvar="EVERGROVE_DEVICE", help="The device's folder; by default the current one."
        ),
    ] = None,
    observation: Annotated[
        str, typer.Option("--observation", metavar="ID", help="One observation, as `observe --json` named it.")
    ] = "",
    condition: Annotated[
        list[str] | None,
        typer.Option("--condition", metavar="FACTOR=VALUE", help="All that shows this. Repeatable: what shows both."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that the device was ever shown.")] = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Destroy what the device was shown, with its keys and every version that learnt from it; a receipt stays.

    Example: evergrove forget face --condition emotion=love --yes
    """
    if bool(observation) + bool(condition) + everything != 1:
        raise UsageError("what is to be forgotten? Say one of --observation ID, --condition FACTOR=VALUE and --all")
    wanted = parse_condition(condition or ())
    what = "everything that it was shown" if everything else f"observation {observation}"
    what = f"all that it was shown of {', '.join(condition)}" if condition else what
    with open_device(device) as opened:
        confirm(f"Let '{opened.root.name}' forget {what}, with every version that learnt from it, for good?", yes)
        receipt = opened.forget(observation=observation, condition=wanted, everything=everything)
        place = opened.root / "receipts" / f"{receipt.job}.json"
    if as_json:
        show.json({"receipt": str(place), **show.plain(receipt)})
        return
    for line in words(receipt):
        show.line(line)
    show.note(f"Receipt: {place}")


def words(receipt: "Receipt") -> list[str]:
    """A receipt for people."""
    gone = ", ".join(show.version_words(one) for one in receipt.versions) or "none had learnt from it"
    out = "; updates that waited are deleted, and it takes no further part in this generation"
    return [
        f"Forgotten: {show.plural(receipt.n_records, 'observation')}. Versions deleted: {gone}.",
        f"{show.sentence(show.version_words(receipt.serves))[:-1]} serves now{out if receipt.withdrawn else ''}.",
        "What cannot be undone:",
        *(f"  - {one}" for one in receipt.cannot_be_undone),
    ]
