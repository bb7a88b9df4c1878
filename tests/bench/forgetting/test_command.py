"""The command's own part: which strategies and streams, equal numbers of trials, and what the cost is made of."""

from dataclasses import replace
from pathlib import Path

import pytest

from evergrove.bench.forgetting import command, cost, plan, tuning
from evergrove.bench.forgetting.command import Wanted
from evergrove.bench.forgetting.plan import FORMS, Form
from evergrove.bench.forgetting.streams import Classes, Sizes
from evergrove.core.errors import UsageError
from evergrove.learn.rivals import RIVALS, rival_named
from evergrove.learn.strategies import Strategy

from .conftest import BUDGET, TINY, silent


@pytest.fixture
def small(classes: Classes, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Form:
    """The command's forms, as small as can be."""
    form = Form("S1", TINY, Sizes(n_lessons=3, n_train=6, n_real=8, n_asked=4), replace(BUDGET, steps=2))
    monkeypatch.setattr(plan, "classes_of", lambda name, data, small: classes)
    monkeypatch.setattr(command, "QUICK", form)
    monkeypatch.setitem(FORMS, "S1", form)
    monkeypatch.setitem(FORMS, "T1", replace(form, name="T1"))
    return form


def wanted(folder: Path, streams: str = "S1", strategies: str = "naive,isolated") -> Wanted:
    """Two seeds."""
    return Wanted(streams.split(","), strategies.split(","), 2, 0, folder, None)


def test_a_race_leaves_lines_and_a_page(small: Form, tmp_path: Path) -> None:
    """Two strategies, two seeds: four lines, a table of two rows, one page that names the command."""
    found = command.race(wanted(tmp_path), False, silent)
    assert found.results.read_text().count("\n") == 4
    assert [(row.strategy, row.n_seeds) for row in found.tables[0].rows] == [("naive", 2), ("isolated", 2)]
    assert "--stream S1 --seeds 2 --strategies naive,isolated" in found.page.read_text()


def test_what_there_is_not_is_refused(tmp_path: Path) -> None:
    """An unknown stream and an unknown strategy each name what there is."""
    with pytest.raises(UsageError, match="known: S1"):
        command.race(wanted(tmp_path, streams="S9"), False, silent)
    with pytest.raises(UsageError, match="evergrove"):
        command.race(wanted(tmp_path, strategies="magic"), False, silent)


def test_everyone_is_tuned_by_the_same_number_of_trials(small: Form, tmp_path: Path) -> None:
    """Different ones, on seeds and classes of no test; the best is the one with the least FID, and the one raced."""
    grid = tuning.trials()
    assert set(grid) == {"branches-fast", *RIVALS} - {"recombined", "evergrove"}
    assert {len(some) for some in grid.values()} == {tuning.N_TRIALS}
    assert all(_words(rival_named(name).strategy) in map(_words, some) for name, some in grid.items())
    assert all(len(set(map(_words, some))) == len(some) for some in grid.values())
    found = command.tuned(replace(wanted(tmp_path, strategies="naive"), n_seeds=1), silent)
    assert [trial.n for trial in found] == list(range(tuning.N_TRIALS))
    assert [trial.best for trial in found] == [trial.fid == min(t.fid for t in found) for trial in found]
    assert (tmp_path / "tuning.jsonl").read_text().count('"seed":1000') == tuning.N_TRIALS


def _words(strategy: Strategy) -> str:
    return str((strategy.lr, strategy.weights, strategy.shares))


def test_the_cost_of_a_job_is_its_preparation_and_its_steps() -> None:
    """Preparation is in the local ratio and not in the assisted one; ours has more rows than plain's new ones."""
    found = cost.measure("tiny", n_blocks=2, n_steps=3)
    assert found.prepare_s > 0
    assert found.step_s > found.plain_step_s
    assert found.local.mine == pytest.approx(found.prepare_s + found.steps * found.step_s, rel=0.3)
    assert found.local.ratio > found.assisted.ratio > 1
    assert found.met == (found.local.ratio <= cost.LOCAL_MAX and found.assisted.ratio <= cost.ASSISTED_MAX)
