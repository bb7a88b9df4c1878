"""Names in adapter files: taken out and put in again without torch, to the byte."""

import pytest
import torch

from evergrove.adapters.relabel import nameless, relabel, vocabulary_of
from evergrove.core.conditions import Factor, Vocabulary
from evergrove.core.errors import InvalidArtefact
from evergrove.learn.adapter import Adapter
from evergrove.learn.adapter_file import adapter_bytes, adapter_of_bytes

RELEASED = Vocabulary((Factor("emotion", ("sad", "happy")), Factor("hair", ("bob",))))
OWN = RELEASED.extend({"emotion": "Grandma’s smile"}).extend({"hair": "tuft"})


def adapter(vocabulary: Vocabulary) -> bytes:
    """An adapter file for that vocabulary."""
    b = {"layer": torch.ones(4, 2)}
    return adapter_bytes(Adapter("b", "a", 2, 1.0, vocabulary, b, {"0:3": torch.ones(3), "1:2": torch.ones(3)}))


def test_the_user_s_names_become_numbers() -> None:
    """The release's names stay, the user's own become their numbers."""
    assert nameless(OWN, RELEASED).factors == (Factor("emotion", ("sad", "happy", "#3")), Factor("hair", ("bob", "#2")))
    assert nameless(RELEASED, RELEASED) == RELEASED


def test_relabelling_is_the_file_that_would_have_been_written() -> None:
    """There and back gives the same bytes, and in between no byte of the name is left."""
    numbers = nameless(OWN, RELEASED)
    without = relabel(adapter(OWN), numbers)
    assert without == adapter(numbers)
    assert b"Grandma" not in without
    assert relabel(without, OWN) == adapter(OWN)
    assert vocabulary_of(without) == numbers
    assert adapter_of_bytes(without).vocabulary == numbers


def test_what_does_not_fit_is_refused() -> None:
    """Another number of values, a file cut short, and what is no adapter."""
    with pytest.raises(InvalidArtefact, match="cannot be given names"):
        relabel(adapter(OWN), RELEASED)
    for bad in (b"", adapter(OWN)[:100], (2).to_bytes(8, "little") + b"[]", (2).to_bytes(8, "little") + b"{}"):
        with pytest.raises(InvalidArtefact, match="no adapter of ours"):
            vocabulary_of(bad)
