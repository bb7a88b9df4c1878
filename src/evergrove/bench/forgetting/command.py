"""``evergrove bench forgetting``: words become a race, lines become tables and a page."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evergrove.bench.forgetting import plan, retention
from evergrove.bench.forgetting.lines import Line
from evergrove.bench.forgetting.page import page
from evergrove.bench.forgetting.plan import FORMS, QUICK, QUICK_ORDER, QUICK_STRATEGIES, Form, Places, Report
from evergrove.bench.forgetting.tables import Table, in_order, table_of
from evergrove.bench.forgetting.tuning import Trial, trials, tune
from evergrove.core.errors import UsageError
from evergrove.learn.place import check_device
from evergrove.learn.rivals import RIVALS, Rival, rival_named

QUICK_SEEDS = 3


@dataclass(frozen=True)
class Wanted:
    """What was asked for; no ``strategies`` means all of them."""

    streams: Sequence[str]
    strategies: Sequence[str]
    n_seeds: int
    first_seed: int
    out: Path
    data: Path | None
    device: str = "cpu"


@dataclass(frozen=True)
class Found:
    """A table a stream, where lines and page lie, and whether a quick race found the known order (True for others)."""

    tables: tuple[Table, ...]
    results: Path
    page: Path
    in_order: bool


def race(wanted: Wanted, quick: bool, report: Report) -> Found:
    """Runs what is not done yet. Raises ``UsageError`` for an unknown stream, strategy or device."""
    forms = [QUICK] if quick else [_form(name) for name in wanted.streams]
    names = [name.strip() for name in wanted.strategies] or list(QUICK_STRATEGIES if quick else RIVALS)
    n_seeds = min(QUICK_SEEDS, wanted.n_seeds) if quick else wanted.n_seeds
    seeds = range(wanted.first_seed, wanted.first_seed + n_seeds)
    results = wanted.out / ("quick.jsonl" if quick else "lines.jsonl")
    places = Places(wanted.data, wanted.out / "worlds", results, check_device(wanted.device))
    tables: list[Table] = []
    lines: list[Line] = []
    for form in forms:
        rivals = _curve(names if wanted.strategies else ()) if form.name == "R1" else [rival_named(n) for n in names]
        found = plan.run(form, rivals, seeds, places, report)
        lines += found
        tables.append(table_of(found))
    path = wanted.out / ("quick.html" if quick else "forgetting.html")
    path.write_text(page(tables, lines, _command(wanted, quick)), encoding="utf-8")
    return Found(tuple(tables), results, path, not quick or in_order(tables[0], QUICK_ORDER))


def tuned(wanted: Wanted, report: Report) -> list[Trial]:
    """Every strategy's trials on the tuning stream."""
    names = [rival_named(name.strip()).name for name in wanted.strategies] or list(trials())
    places = Places(wanted.data, wanted.out / "worlds", wanted.out / "tuning.jsonl", check_device(wanted.device))
    return tune(FORMS["T1"], names, wanted.n_seeds, places, report)


def _form(name: str) -> Form:
    if name.strip() not in FORMS:
        raise UsageError(f"unknown stream '{name.strip()}'; known: {', '.join(FORMS)}")
    return FORMS[name.strip()]


def _curve(names: Sequence[str]) -> list[Rival]:
    """The points of the retention curve of those names (``herding-5``), or all of them."""
    known = {keep.name: keep for keep in retention.keeps()}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UsageError(f"unknown selection '{unknown[0]}'; known: {', '.join(known)}")
    return [retention.rival_of(known[name]) for name in names or known]


def _command(wanted: Wanted, quick: bool) -> str:
    words = ["evergrove bench forgetting"]
    words += ["--quick"] if quick else [f"--stream {','.join(wanted.streams)}", f"--seeds {wanted.n_seeds}"]
    if wanted.strategies:
        words.append(f"--strategies {','.join(wanted.strategies)}")
    if wanted.device != "cpu":
        words.append(f"--device {wanted.device}")
    return " ".join(words)
