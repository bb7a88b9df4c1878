"""``evergrove observe``: show pictures to a device, and hear what it kept and why."""

from collections import Counter
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from evergrove.cli import show
from evergrove.cli.common import AsJson, DeviceOption, Settings, open_device, parse_condition
from evergrove.core.conditions import Vocabulary
from evergrove.core.errors import InvalidMedia, UsageError

if TYPE_CHECKING:
    from evergrove import Device


class Item(msgspec.Struct, frozen=True):
    """What became of one picture: ``outcome`` is kept, dropped or refused; ``split`` is train, golden or empty."""

    path: str
    outcome: str
    split: str
    reason: str
    message: str = ""


def observe(
    words: Annotated[
        list[str],
        typer.Argument(metavar="FILE|FOLDER|FACTOR=VALUE", help="Pictures, and what they show.", show_default=False),
    ],
    device: DeviceOption = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Show pictures to the device. It keeps the few that are worth keeping, encrypted, and says why.

    FACTOR=VALUE says what all of them show; a value that is new to the device becomes a new condition to learn.

    A folder may have a metadata.csv or metadata.jsonl instead: a column file_name, and one for each factor.

    Exits with 1 if no picture could be used.

    Example: evergrove observe party/ photo.png emotion=love
    """
    pictures = gather(words)
    items: list[Item] = []
    new_values: list[str] = []
    with open_device(device, settings) as opened, show.Progress("observing") as progress:
        known = opened.vocabulary
        for factor in dict.fromkeys(factor for _, condition in pictures for factor in condition):
            known.encode({factor: value_of(known, factor)})  # an unknown factor is refused before anything is changed
        for path, condition in pictures:
            item, new = look(opened, path, condition)
            items.append(item)
            new_values += new
            progress.update(len(items), len(pictures))
    for value in new_values:
        warn_of_typo(value, known)
    refused = [item for item in items if item.outcome == "refused"]
    if len(items) == 1 and refused:
        raise InvalidMedia(refused[0].reason, refused[0].message)
    if as_json:
        totals = Counter(item.outcome for item in items)
        show.json(
            {
                "observed": len(items),
                **{outcome: totals[outcome] for outcome in ("kept", "dropped", "refused")},
                "reasons": dict(Counter(f"{item.outcome}: {item.reason}" for item in items)),
                "new_values": new_values,
                "items": items,
            }
        )
    else:
        tell(items, new_values)
    if len(refused) == len(items):
        raise typer.Exit(1)


def gather(words: list[str]) -> list[tuple[Path, dict[str, str]]]:
    """Paths and ``factor=value`` words as pictures with their conditions; the words win over a folder's table."""
    from evergrove.media.listing import list_pictures

    places = [word for word in words if "=" not in word or Path(word).expanduser().exists()]
    shared = parse_condition(word for word in words if word not in places)
    if not places:
        raise UsageError(f"which pictures? {' '.join(words)} says only what they show; name a file or a folder as well")
    pictures = [
        (path, {**condition, **shared})
        for place in places
        for path, condition in list_pictures(Path(place).expanduser())
    ]
    unlabelled = next((path for path, condition in pictures if not condition), None)
    if unlabelled is not None:
        raise UsageError(f"what does '{unlabelled}' show? Add it as factor=value, for instance emotion=happy")
    return pictures


def look(device: "Device", path: Path, condition: dict[str, str]) -> tuple[Item, tuple[str, ...]]:
    """Show one picture to the device; gives what became of it, and the values that were new."""
    try:
        seen = device.observe(path, condition)
    except InvalidMedia as fault:
        return Item(str(path), "refused", "", fault.reason, f"{path}: {fault}"), ()
    return Item(str(path), "kept" if seen.kept else "dropped", seen.split, seen.reason), seen.new_values


def value_of(vocabulary: Vocabulary, factor: str) -> str:
    """Some value that the vocabulary has for a factor; empty where it has no such factor."""
    return next((known.values[0] for known in vocabulary.factors if known.name == factor and known.values), "")


def warn_of_typo(new: str, known: Vocabulary) -> None:
    """Say so where a new value is spelt almost like a known one."""
    factor, _, value = new.partition("=")
    values = next(f.values for f in known.factors if f.name == factor)
    if close := get_close_matches(value, values, n=1, cutoff=0.75):
        show.note(f"warning: {new} is new to this device, and spelt almost like {factor}={close[0]}: a typing error?")


def tell(items: list[Item], new_values: list[str]) -> None:
    """One sentence for one picture, a table by reason for several."""
    if len(items) == 1:
        split = ", for its golden set" if items[0].split == "golden" and "golden" not in items[0].reason else ""
        reason = items[0].reason.removeprefix("kept: ")
        show.line(f"{items[0].outcome.capitalize()}{split}: {reason}.")
    else:
        counts = Counter((item.outcome, item.reason.removeprefix("kept: ")) for item in items)
        order = ("kept", "dropped", "refused")
        rows = sorted(counts.items(), key=lambda row: (order.index(row[0][0]), -row[1]))
        show.table(((outcome, str(n), reason) for (outcome, reason), n in rows), right=(1,))
        totals = Counter(item.outcome for item in items)
        kept, refused = totals["kept"], totals["refused"]
        show.line(
            f"\nKept {kept} of {show.plural(len(items), 'picture')}." + (f" Refused {refused}:" if refused else "")
        )
        for item in items:
            if item.outcome == "refused":
                show.line(f"  {item.message}")
    if new_values:
        show.line(f"New to this device: {', '.join(new_values)}. `evergrove learn` teaches it.")
