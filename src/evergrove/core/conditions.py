"""What is asked of a generator: a set of categorical factors, each with a null entry for guidance.

A *condition* is a mapping such as ``{"emotion": "happy", "hair": "bob"}``. A *vocabulary* turns it into one small
integer per factor (0 is the null entry) and back. A device may *extend* a vocabulary by new values; old values keep
their numbers for ever, so that an embedding row never changes its meaning.
"""

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches

import msgspec

from evergrove.core.errors import UnknownCondition, UsageError

Condition = Mapping[str, str]
Code = tuple[int, ...]
"""A condition as numbers: one per factor in the vocabulary's order, 0 for 'not said'."""


def nearest(word: str, known: list[str]) -> str:
    """A hint for an error message: ``"; did you mean 'x'?"``, or what is known when nothing is near."""
    match = get_close_matches(word, known, n=1, cutoff=0.5)
    if match:
        return f"; did you mean '{match[0]}'?"
    return "; known: " + ", ".join(known[:40])


def of_words(words: Iterable[str]) -> dict[str, str]:
    """``["emotion=happy", "hair=bob"]`` → a condition. Raises ``UsageError`` for any other form."""
    condition: dict[str, str] = {}
    for word in words:
        factor, equals, value = (part.strip() for part in word.partition("="))
        if not (factor and equals and value):
            raise UsageError(f"'{word}' is not of the form factor=value, for instance emotion=happy")
        if factor in condition:
            raise UsageError(f"{factor} is given twice: '{condition[factor]}' and '{value}'")
        condition[factor] = value
    return condition


class Factor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One categorical factor: its name and its values, of which value ``i`` has the number ``i + 1``."""

    name: str
    values: tuple[str, ...]


class Vocabulary(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The factors that a generator understands, in the order of its embedding tables."""

    factors: tuple[Factor, ...]

    @property
    def names(self) -> list[str]:
        """The factors' names, in order."""
        return [f.name for f in self.factors]

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many values each factor has, the null entry not counted."""
        return tuple(len(f.values) for f in self.factors)

    def encode(self, condition: Condition) -> Code:
        """The numbers of a condition; factors that it does not name become 0.

        Raises ``UnknownCondition``, which names the nearest known factor or value.
        """
        for name in condition:
            if name not in self.names:
                raise UnknownCondition(f"unknown factor '{name}'{nearest(name, self.names)}")
        code = []
        for factor in self.factors:
            value = condition.get(factor.name)
            if value is None:
                code.append(0)
            elif value in factor.values:
                code.append(factor.values.index(value) + 1)
            else:
                raise UnknownCondition(f"unknown {factor.name} '{value}'{nearest(value, list(factor.values))}")
        return tuple(code)

    def decode(self, code: Code) -> dict[str, str]:
        """The condition behind some numbers; null entries are left out."""
        if len(code) != len(self.factors):
            raise UsageError(f"a code of {len(code)} numbers for {len(self.factors)} factors")
        return {f.name: f.values[i - 1] for f, i in zip(self.factors, code, strict=True) if i}

    def extend(self, condition: Condition) -> "Vocabulary":
        """A vocabulary that also knows every value of ``condition``; the factors stay as they are."""
        for name in condition:
            if name not in self.names:
                raise UnknownCondition(f"unknown factor '{name}'{nearest(name, self.names)}")
        return Vocabulary(
            tuple(
                Factor(f.name, (*f.values, condition[f.name]))
                if f.name in condition and condition[f.name] not in f.values
                else f
                for f in self.factors
            )
        )

    def without_name(self, factor: int, number: int) -> "Vocabulary":
        """The vocabulary with value ``number`` of a factor still there, but its name gone: old numbers never change."""
        names = list(self.factors[factor].values)
        names[number - 1] = f"(forgotten {number})"
        while names.count(names[number - 1]) > 1:
            names[number - 1] = f"({names[number - 1]})"
        changed = Factor(self.factors[factor].name, tuple(names))
        return Vocabulary((*self.factors[:factor], changed, *self.factors[factor + 1 :]))

    def added(self, base: "Vocabulary") -> tuple[tuple[int, int], ...]:
        """The (factor index, value number) pairs that ``self`` knows and ``base`` does not, in order."""
        return tuple(
            (i, n + 1)
            for i, (mine, theirs) in enumerate(zip(self.factors, base.factors, strict=True))
            for n in range(len(theirs.values), len(mine.values))
        )


def within(code: Code, condition: Code) -> bool:
    """Whether a code shows all that ``condition`` says; the numbers that it leaves open (0) may be any."""
    return all(wanted in (0, n) for wanted, n in zip(condition, code, strict=True))


def group(code: Code, known: tuple[int, ...]) -> Code:
    """The condition that a code counts for when things are balanced, split and judged *per condition*.

    A code with values beyond ``known`` (the release's sizes) counts for those new values alone: ``emotion=love`` in any
    look. Any other code counts for its first factor that is said: ``emotion=happy`` in any look. Everything else is 0.
    """
    new = tuple(n if n > size else 0 for n, size in zip(code, known, strict=True))
    if any(new):
        return new
    first = next((i for i, n in enumerate(code) if n), None)
    return tuple(n if i == first else 0 for i, n in enumerate(code))


def everything(conditions: Sequence[Code]) -> Code:
    """The masked code of no condition in particular, of as many factors as these: it counts for every picture."""
    return (0,) * len(conditions[0])
