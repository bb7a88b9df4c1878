"""``evergrove adapters``: the adapters that a device holds, one in detail, and one from elsewhere through the gate."""

from pathlib import Path
from typing import Annotated

import typer

from evergrove.cli import show
from evergrove.cli.common import AsJson, DeviceOption, Settings, find_device, open_device
from evergrove.cli.learn import finish, follow, wait_for_turn
from evergrove.core.errors import InvalidArtefact, UsageError

app = typer.Typer(
    no_args_is_help=True, help="The adapters of a device: list them, look at one, offer one from elsewhere."
)


@app.command("list")
def list_(device: DeviceOption = None, as_json: AsJson = False) -> None:
    """List the adapters that the device holds: the active, the previous, and the latest that were not accepted.

    Example: evergrove adapters list
    """
    from evergrove.adapters.headers import read_header
    from evergrove.adapters.versions import Versions

    folder = find_device(device) / "versions"
    pointer = Versions(folder).read_pointer()
    active = "active, on probation" if pointer.probation else "active"
    roles = {pointer.previous: "previous", pointer.current: active}
    found = []
    for path in sorted(folder.glob("*.safetensors"), key=lambda path: -path.stat().st_mtime):
        try:
            header = read_header(path)
        except InvalidArtefact as fault:
            show.note(f"warning: {fault}")
            continue
        found.append((header, roles.get(path.stem, "candidate, not accepted")))
    if as_json:
        adapters = [
            {
                "sha256": header.sha256,
                "role": role,
                "n_bytes": header.n_bytes,
                "rank": header.rank,
                "learnt": header.rows,
            }
            for header, role in found
        ]
        show.json({"active": pointer.current, "adapters": adapters})
        return
    if not pointer.current:
        show.line("The release alone is active.")
    rows = [
        (show.version_name(header.sha256), role, show.size(header.n_bytes), str(header.rank), ", ".join(header.rows))
        for header, role in found
    ]
    if rows:
        show.table(rows, ("version", "role", "size", "rank", "conditions learnt"), right=(2, 3))


@app.command("show")
def show_(
    which: Annotated[
        str,
        typer.Argument(metavar="[VERSION|FILE]", help="A version's first digits, or a file; by default the active."),
    ] = "active",
    device: DeviceOption = None,
    as_json: AsJson = False,
) -> None:
    """Show one adapter: what it was learnt on, what it learnt, its size, and whether its numbers are sound.

    Example: evergrove adapters show 3f9a
    """
    from evergrove.adapters.headers import read_header

    header = read_header(find_adapter(which, device))
    if as_json:
        show.json({**{name: getattr(header, name) for name in header.__struct_fields__}, "n_numbers": header.n_numbers})
        return
    rows = [
        ("version", header.sha256),
        ("size", f"{show.size(header.n_bytes)}, {header.n_numbers:,} numbers in {len(header.tensors)} tensors"),
        ("learnt", ", ".join(header.rows) or "no new condition"),
        ("base model", header.base),
        ("generation's A", header.basis),
        ("rank, scale", f"{header.rank}, {header.scale:g}"),
        ("numbers", "all finite" if header.finite else "NOT FINITE: it would be refused"),
    ]
    show.table(rows)


@app.command("offer")
def offer(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An adapter as .safetensors, made for this release.")],
    device: DeviceOption = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Offer the device an adapter made elsewhere; it must pass the same golden gate as the device's own.

    Exits with 5 where the gate rejects it, with 1 where it is refused unmeasured: then nothing has changed.

    Example: evergrove adapters offer love.safetensors
    """
    if not file.is_file():
        raise UsageError(f"there is no file '{file}'")
    with open_device(device, settings) as opened, show.Progress("measuring") as progress:
        wait_for_turn(opened)
        result = opened.offer(file, progress=follow(progress))
    finish(result, as_json)


def find_adapter(which: str, device: Path | None) -> Path:
    """The file behind a path, a version's first digits, or ``active``. Raises ``UsageError`` where there is none."""
    if which.endswith(".safetensors"):
        if not Path(which).is_file():
            raise UsageError(f"there is no file '{which}'")
        return Path(which)
    from evergrove.adapters.versions import Versions

    folder = find_device(device) / "versions"
    if which == "active":
        current = Versions(folder).read_pointer().current
        if current is None:
            raise UsageError("the release alone is active, no adapter; `evergrove adapters list` shows what there is")
        return folder / f"{current}.safetensors"
    found = sorted(folder.glob("*.safetensors"))
    matches = [path for path in found if path.stem.startswith(which.lower())]
    if len(matches) != 1:
        known = ", ".join(path.stem[:8] for path in found) or "none"
        what = "no version begins" if not matches else "several versions begin"
        raise UsageError(f"{what} with '{which}'; the device holds: {known}")
    return matches[0]
