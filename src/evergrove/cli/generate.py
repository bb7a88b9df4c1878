"""``evergrove generate``: pictures for a condition, drawn on this machine."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from evergrove.cli import show
from evergrove.cli.common import AsJson, DeviceOption, Settings, open_device, parse_condition
from evergrove.core.errors import UsageError

if TYPE_CHECKING:
    from evergrove.runtime.picture import Picture

COUNT_MAX = 400


def generate(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="FACTOR=VALUE", help="What the picture shows; a factor left out may be anything."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE.png", help="Where the picture goes.")] = Path(
        "picture.png"
    ),
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=COUNT_MAX, help="How many pictures.")] = 1,
    sheet: Annotated[bool, typer.Option("--sheet", help="All pictures on one sheet instead of a file each.")] = False,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="The same seed gives the same picture; by default a new one.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, max=32, help="Sampler steps: more is slower and finer.")
    ] = None,
    guidance: Annotated[
        float | None, typer.Option("--guidance", help="How strictly to follow the condition; 1 is none.")
    ] = None,
    device: DeviceOption = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Draw pictures of a condition, on this machine; never waits for learning or a network.

    With --count 3, face.png becomes face-1.png, face-2.png and face-3.png, or one file with --sheet.

    Example: evergrove generate emotion=happy hair=bob --seed 7 --out happy.png
    """
    condition = parse_condition(words or ())
    if out.suffix.lower() != ".png":
        raise UsageError(f"--out {out}: pictures are written as PNG; give a name that ends in .png")
    if not out.expanduser().absolute().parent.is_dir():
        raise UsageError(f"--out {out}: there is no folder '{out.expanduser().absolute().parent}'")
    images: list[Picture] = []
    with open_device(device, settings) as opened, show.Progress("drawing") as progress:
        for i in range(count):
            one_seed = None if seed is None else seed + i
            images.append(opened.generate(condition, seed=one_seed, steps=steps, guidance=guidance))
            progress.update(i + 1, count)
    paths = write(images, out.expanduser(), sheet)
    rows = [
        {
            "path": str(paths[0] if sheet else path),
            "seed": image.seed,
            "version": image.version,
            "latency_ms": round(image.latency_ms, 3),
            "id": image.id,
        }
        for path, image in zip(paths * len(images) if sheet else paths, images, strict=True)
    ]
    if as_json:
        show.json({"condition": condition, "images": rows})
        return
    heads = ("file", "seed", "version", "latency")
    shown = [
        (str(row["path"]), str(row["seed"]), show.version_name(image.version), f"{image.latency_ms:.1f} ms")
        for row, image in zip(rows, images, strict=True)
    ]
    show.table(shown, heads, right=(1, 3))


def write(images: "list[Picture]", out: Path, sheet: bool) -> list[Path]:
    """Write the pictures: one file, one sheet, or numbered files beside ``out``. Returns the paths."""
    if sheet:
        from evergrove.media.provenance import png_with_provenance
        from evergrove.media.sheets import contact_sheet

        n_columns = math.ceil(math.sqrt(len(images)))
        rows = [[image.array for image in images[i : i + n_columns]] for i in range(0, len(images), n_columns)]
        facts = [{"condition": image.condition, "seed": image.seed, "version": image.version} for image in images]
        title = " ".join(f"{factor}={value}" for factor, value in images[0].condition.items())
        sheet_image = contact_sheet(rows, title=title)
        out.write_bytes(png_with_provenance(sheet_image, msgspec.json.encode(facts).decode()))
        return [out]
    if len(images) == 1:
        images[0].save(out)
        return [out]
    n_digits = len(str(len(images)))
    paths = [out.with_name(f"{out.stem}-{i + 1:0{n_digits}d}{out.suffix}") for i in range(len(images))]
    for image, path in zip(images, paths, strict=True):
        image.save(path)
    return paths
