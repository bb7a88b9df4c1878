"""Many processes at one race: the same lines as one, and nothing begun that would not end in time."""

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from evergrove.bench.forgetting import crowd, lines, plan
from evergrove.bench.forgetting.crowd import Job
from evergrove.bench.forgetting.lines import Line
from evergrove.bench.forgetting.plan import Form, Places
from evergrove.bench.forgetting.streams import Sizes
from evergrove.core.errors import EvergroveError
from evergrove.learn.rivals import RIVALS

from .conftest import BUDGET, TINY, silent

FORM = Form("S1", TINY, Sizes(n_lessons=2, n_train=6, n_real=8, n_asked=4), replace(BUDGET, steps=2), small=True)


def test_a_crowd_makes_the_lines_of_one(tmp_path: Path) -> None:
    """Two processes, three jobs, to the digit what one process makes; a second race finds nothing to do."""
    pytest.importorskip("sklearn")
    places = Places(None, tmp_path / "worlds", tmp_path / "lines.jsonl")
    jobs = [Job(FORM, RIVALS[name], 0) for name in ("naive", "isolated", "evergrove")]
    alone = plan.run(FORM, [job.rival for job in jobs], [0], replace(places, results=tmp_path / "alone.jsonl"), silent)
    told: list[str] = []

    def ended(job: Job, line: Line, seconds: float) -> None:
        told.append(job.name)

    assert crowd.race_all(jobs, places, 2, ended) == 0
    found = lines.read(places.results)
    for line in alone:
        assert msgspec.structs.replace(found[line.key], cpu_s=line.cpu_s) == line
    assert sorted(told) == ["S1 evergrove, seed 0", "S1 isolated, seed 0", "S1 naive, seed 0"]
    assert crowd.race_all(jobs, places, 2, ended) == 0
    assert len(told) == 3
    # A job that fails is heard of, and what ran beside it is written.
    broken = replace(RIVALS["naive"], name="broken", begin=refuse)
    with pytest.raises(EvergroveError, match="on purpose"):
        crowd.race_all([Job(FORM, broken, 0), Job(FORM, RIVALS["full"], 0)], places, 2, ended)
    assert ("S1", "full", 0) in lines.read(places.results)


def refuse(*given: object) -> None:
    """Fails."""
    raise EvergroveError("on purpose")


def test_what_would_not_end_in_time_waits_and_a_quick_one_goes_first() -> None:
    """10 s left: an S1 of 9 s does not fit with its seventh on top, an S2 of 8 s does; what never ran is tried."""
    slow, quick = Job(FORM, RIVALS["naive"], 0), Job(replace(FORM, name="S2"), RIVALS["naive"], 0)
    took_s = {"S1": 9.0, "S2": 8.0}
    assert crowd._next([slow, quick], took_s, None) == 0
    assert crowd._next([slow, quick], took_s, 10.0) == 1
    assert crowd._next([slow], took_s, 10.0) is None
    assert crowd._next([slow], {}, 10.0) == 0
