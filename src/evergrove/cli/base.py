"""``evergrove base``: make a base, its teacher and its A, and look at them.

A release folder is the outcome: ``train`` makes it (with a random A, so that it can be used at once), ``adapt-basis``
learns a better A for it. Both go on where they were stopped.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evergrove.cli import show
from evergrove.cli.common import AsJson
from evergrove.core.errors import UsageError

if TYPE_CHECKING:
    from evergrove.cli.presets import Source
    from evergrove.learn.base_train import Progress, TrainPlan
    from evergrove.learn.dit import DiT, DiTConfig

app = typer.Typer(help="Make a base and its A, and look at them.", no_args_is_help=True)

Out = Annotated[Path, typer.Argument(help="The release folder.", metavar="FOLDER")]
Made = Annotated[str, typer.Argument(help="A release folder, or a packaged one: avatars, tiny.", metavar="RELEASE")]
Preset = Annotated[str, typer.Option(help="What to draw, where no --data is given: avatars or tiny.")]
Data = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="Pictures with a metadata.csv or metadata.jsonl that labels them.")
]
Seed = Annotated[int, typer.Option(help="The same seed gives the same release.")]
Threads = Annotated[int, typer.Option(help="Threads to compute with; 0: as many as there are cores.")]
WORK = ".training"


@app.command("train")
def train(
    folder: Out,
    data: Data = None,
    preset: Preset = "avatars",
    seed: Seed = 0,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of the base.")] = None,
    teacher_steps: Annotated[int | None, typer.Option(min=0, help="Steps of the teacher; 0: no teacher.")] = None,
    image_px: Annotated[int | None, typer.Option(min=8, max=256, help="Side of the pictures (with --data).")] = None,
    name: Annotated[str, typer.Option(help="The release's name; by default that of its pictures.")] = "",
    threads: Threads = 0,
    as_json: AsJson = False,
) -> None:
    """Train a base (and a teacher that it learns from) and write a release folder.

    Stopped or killed, the same command goes on from its last checkpoint.

    Example: evergrove base train digits-base --data digits
    """
    _use_threads(threads)
    from evergrove.cli import release
    from evergrove.core.release import Manifest
    from evergrove.learn import base, basis, oracle
    from evergrove.media.packs import write_pack

    source = _source(data, preset, image_px, seed)
    for note in source.notes:
        show.note(note)
    work = folder / WORK
    work.mkdir(parents=True, exist_ok=True)
    # 1. The teacher, then the base that learns from it and from the pictures.
    teacher = None
    if source.teacher is not None and source.teacher_plan is not None and teacher_steps != 0:
        plan = release.with_steps(source.teacher_plan, teacher_steps)
        teacher = _train_one("teacher", source, source.teacher, plan, work, None)
        (folder / base.TEACHER).write_bytes(base.base_bytes(teacher))
    student = _train_one("base", source, source.network, release.with_steps(source.plan, steps), work, teacher)
    (folder / base.BASE).write_bytes(base.base_bytes(student))
    # 2. What goes with it.
    reference = base.file_ref(folder, base.BASE)
    rows = basis.random_rows(student, source.basis.rank, seed)
    (folder / base.BASIS).write_bytes(basis.basis_bytes(rows, reference.sha256))
    for file_name, pack in ((base.GOLDEN, source.golden), (base.REHEARSAL, source.rehearsal), *source.extras):
        write_pack(folder / file_name, pack)
    if source.judged is not None:
        vocabulary, pack = source.judged
        with show.Progress("oracle") as progress:
            judge = oracle.train_oracle(
                vocabulary,
                pack.images,
                pack.codes,
                steps=source.oracle_steps,
                seed=seed,
                report=lambda done, loss: progress.update(done, source.oracle_steps, note=f"loss {loss:.4f}"),
            )
        oracle.save_oracle(judge, folder / release.ORACLE)
    # 3. The manifest last: now it is a release.
    manifest = Manifest(
        name=name or source.name,
        generation=1,
        version=1,
        image_px=source.network.image_px,
        vocabulary=source.vocabulary,
        rank=source.basis.rank,
        scale=source.basis.scale,
        base=reference,
        basis=base.file_ref(folder, base.BASIS),
        golden=base.file_ref(folder, base.GOLDEN),
        rehearsal=base.file_ref(folder, base.REHEARSAL),
        teacher=None if teacher is None else base.file_ref(folder, base.TEACHER),
        sampler=source.sampler,
    )
    base.write_manifest(folder, manifest)
    release.remove(work)
    release.describe(folder, as_json)
    show.note(f"its A is random so far: `evergrove base adapt-basis {folder}` learns one")


@app.command("adapt-basis")
def adapt_basis(
    folder: Out,
    data: Data = None,
    seed: Seed = 0,
    tasks: Annotated[int | None, typer.Option(min=1, help="How many pseudo-tasks A is learnt on.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of each task.")] = None,
    rank: Annotated[int | None, typer.Option(min=1, help="Rows of A per layer.")] = None,
    threads: Threads = 0,
    as_json: AsJson = False,
) -> None:
    """Learn A, the frozen half of every adapter, for a release: a new generation of it.

    The pseudo-tasks are made from the pictures that the release was trained on: those of --data, the avatars drawn
    anew, or else its rehearsal pack.

    Example: evergrove base adapt-basis digits-base --data digits
    """
    _use_threads(threads)
    import msgspec

    from evergrove.cli import release
    from evergrove.cli.presets import PRESETS, folder_source
    from evergrove.learn import base, basis
    from evergrove.media.packs import read_pack

    manifest = base.read_manifest(folder)
    if manifest.adapter is not None:
        raise UsageError(f"'{folder}' has an adapter that belongs to its A; learn another A on a release without one")
    model = base.load_base(folder)
    if data is not None or manifest.name in PRESETS:
        source = folder_source(data, manifest.image_px, seed) if data is not None else PRESETS[manifest.name](seed)
        if source.vocabulary != manifest.vocabulary:
            raise UsageError(f"these pictures are not those that '{folder}' was trained on: their factors differ")
        pack, plan = source.train, source.basis
    else:
        pack, plan = read_pack(folder / manifest.rehearsal.name), basis.BasisPlan(rank=manifest.rank, seed=seed)
    changes = {"tasks": tasks, "steps": steps, "rank": rank}
    plan = msgspec.structs.replace(plan, **{key: value for key, value in changes.items() if value is not None})
    checkpoint = folder / WORK / "basis.safetensors"
    with show.Progress("pseudo-tasks") as progress:
        rows = basis.learn_basis(
            model,
            pack.images,
            pack.codes,
            plan,
            checkpoint,
            lambda done, loss: progress.update(done, plan.tasks, note=f"loss {loss:.4f}"),
        )
    (folder / base.BASIS).write_bytes(basis.basis_bytes(rows, manifest.base.sha256))
    learnt = msgspec.structs.replace(
        manifest,
        basis=base.file_ref(folder, base.BASIS),
        rank=plan.rank,
        scale=plan.scale,
        version=manifest.version + 1,
    )
    base.write_manifest(folder, learnt)
    release.remove(folder / WORK)
    release.describe(folder, as_json)


@app.command("grow")
def grow(
    place: Made,
    folder: Annotated[Path, typer.Argument(help="The new release's folder.", metavar="FOLDER")],
    add: Annotated[
        list[str] | None, typer.Option("--add", metavar="FACTOR=VALUE", help="What the fleet is to learn; repeatable.")
    ] = None,
    version: Annotated[int | None, typer.Option(min=2, help="The release's version; by default the next.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a release whose fleet is to learn more: the same base with a wider vocabulary, and an adapter to begin with.

    What devices learn of these values they share; any other value that a device meets stays its own.

    Example: evergrove base grow avatars ours --add emotion=love --add emotion=dizzy
    """
    _use_threads(1)
    from evergrove.adapters.release import open_release
    from evergrove.adapters.release_write import grow as grow_release
    from evergrove.cli import release
    from evergrove.core.conditions import of_words

    additions = [of_words([word]) for word in add or ()]
    grown = grow_release(open_release(place), folder.absolute(), additions, version)
    release.describe(grown.folder, as_json)


@app.command("show")
def show_base(place: Made, as_json: AsJson = False) -> None:
    """What a release consists of: its conditions, files and settings, and how fast it is.

    Example: evergrove base show avatars
    """
    _use_threads(1)
    from evergrove.adapters.release import open_release
    from evergrove.cli import release

    release.describe(open_release(place).folder, as_json, timed=True)


@app.command("sheet")
def sheet(
    place: Made,
    out: Annotated[Path, typer.Option("--out", "-o", help="The PNG file to write.")] = Path("sheet.png"),
    columns: Annotated[int, typer.Option(min=1, max=40, help="Pictures of every value.")] = 10,
    steps: Annotated[int | None, typer.Option(min=1, max=32, help="Steps of the sampler.")] = None,
    teacher: Annotated[bool, typer.Option("--teacher", help="Let the teacher draw.")] = False,
    seed: Seed = 0,
    threads: Threads = 0,
    as_json: AsJson = False,
) -> None:
    """Draw a sheet of pictures, one row for every value of the first factor, and measure them where there is an oracle.

    Example: evergrove base sheet digits-base --out sheet.png
    """
    _use_threads(threads)
    from evergrove.adapters.release import open_release
    from evergrove.cli import release

    release.sheet(open_release(place).folder, out, columns, steps, teacher, seed, as_json)


def _train_one(
    label: str, source: "Source", config: "DiTConfig", plan: "TrainPlan", work: Path, teacher: "DiT | None"
) -> "DiT":
    """One network, or the finished one of an earlier try (its checkpoint is at the last step)."""
    from evergrove.learn.base_train import train as train_network

    with show.Progress(label) as progress:

        def report(at: "Progress") -> None:
            progress.update(at.step, at.n_steps, note=f"loss {at.loss:.4f}", eta_s=at.eta_s)

        pictures = source.train
        checkpoint = work / f"{label}.safetensors"
        return train_network(
            config, source.vocabulary, pictures.images, pictures.codes, plan, teacher, checkpoint, report
        )


def _source(data: Path | None, preset: str, image_px: int | None, seed: int) -> "Source":
    from evergrove.cli.presets import PRESETS, folder_source

    if data is not None:
        return folder_source(data, image_px, seed)
    if preset not in PRESETS:
        raise UsageError(f"unknown preset '{preset}'; known: {', '.join(PRESETS)}; or name a folder with --data")
    if image_px is not None:
        raise UsageError("--image-px goes with --data; a preset has its own size")
    return PRESETS[preset](seed)


def _use_threads(threads: int) -> None:
    import os

    if threads < 0:
        raise UsageError("--threads is 0 or more")
    # On a busy machine, threads that spin while they wait for one another cost more than half of a training's time.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch

    torch.set_num_threads(threads or os.cpu_count() or 1)
