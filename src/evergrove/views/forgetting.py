"""What a model still knows, condition by condition and moment by moment, and how much of it was lost.

``Matrix`` holds one value per condition and moment, the usual table of continual learning (Lopez-Paz & Ranzato 2017);
``forgetting`` is the measure of Chaudhry et al. 2018. ``losses(lines)`` folds a log: what the golden set saw at each
measured candidate. A matrix of accuracies comes from whoever has an independent judge.
"""

from collections.abc import Iterable, Sequence

import msgspec

from evergrove.core import events
from evergrove.core.conditions import Vocabulary
from evergrove.core.errors import UsageError
from evergrove.views.sentences import name, version


class Matrix(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``values[i][j]`` belongs to ``conditions[i]`` at ``moments[j]``; None where nothing was measured."""

    conditions: tuple[str, ...]
    moments: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]

    def __post_init__(self) -> None:
        if len(self.values) != len(self.conditions) or any(len(row) != len(self.moments) for row in self.values):
            raise UsageError(
                f"a matrix of {len(self.conditions)} conditions and {len(self.moments)} moments needs as many values"
            )

    def row(self, condition: str) -> tuple[float | None, ...]:
        """One condition's values over time. Raises ``UsageError`` for a condition that is not in the matrix."""
        if condition not in self.conditions:
            raise UsageError(f"no condition '{condition}' in this matrix; known: {', '.join(self.conditions)}")
        return self.values[self.conditions.index(condition)]

    def mean(self, moment: int, conditions: Sequence[str] | None = None) -> float | None:
        """The mean over conditions (all of them by default) at one moment; None where nothing was measured."""
        rows = self.values if conditions is None else [self.row(c) for c in conditions]
        known = [v for row in rows if (v := row[moment]) is not None]
        return sum(known) / len(known) if known else None


def matrix(columns: Sequence[tuple[str, dict[str, float]]]) -> Matrix:
    """A matrix from one ``(moment, {condition: value})`` per column; conditions in the order of first appearance."""
    conditions = tuple(dict.fromkeys(c for _, values in columns for c in values))
    rows = tuple(tuple(values.get(c) for _, values in columns) for c in conditions)
    return Matrix(conditions, tuple(moment for moment, _ in columns), rows)


def forgetting(accuracies: Matrix) -> dict[str, float]:
    """Per condition: its best earlier accuracy minus its last one (below 0 where it still got better).

    Conditions that were measured less than twice are left out.
    """
    lost = {}
    for condition, row in zip(accuracies.conditions, accuracies.values, strict=True):
        known = [v for v in row if v is not None]
        if len(known) > 1:
            lost[condition] = max(known[:-1]) - known[-1]
    return lost


def average_forgetting(accuracies: Matrix) -> float:
    """The mean of ``forgetting`` over the conditions; 0 where nothing can be said yet."""
    lost = forgetting(accuracies)
    return sum(lost.values()) / len(lost) if lost else 0.0


def losses(lines: Iterable[events.Stamped], vocabulary: Vocabulary | None = None) -> Matrix:
    """The relative change of the golden loss against the release, per condition and measured candidate.

    Above 0 is harm; a moment is named by the candidate and, where it was weakened, its strength.
    """
    columns = []
    for line in lines:
        if isinstance(line.event, events.CandidateMeasured):
            weaker = "" if line.event.gamma >= 1.0 else f" at {line.event.gamma:g}"
            column = {name(c.condition, vocabulary): c.mean for c in line.event.comparisons if c.kind == "release"}
            columns.append((version(line.event.candidate) + weaker, column))
    return matrix(columns)
