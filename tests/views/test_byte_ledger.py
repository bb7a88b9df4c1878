"""The byte ledger: it adds up to what ever left, and its export shows any change at its place."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evergrove.core.errors import CorruptState
from evergrove.views.byte_ledger import Sending, book, export, read, totals

HELD = (Sending("update", "fog", 1, 100, 5.0), Sending("terms_request", "fog", 1, 20, 6.0))
SUMS = (Sending("update", "fog", 3, 250), Sending("terms_request", "fog", 1, 20))


def test_what_the_log_does_not_hold_any_more_comes_as_one_sum() -> None:
    """Three updates of 250 bytes in all, one of 100 is still held: two of 150 came before."""
    assert book(HELD, SUMS) == (Sending("update", "fog", 2, 150), *HELD)
    assert totals(book(HELD, SUMS)) == (Sending("terms_request", "fog", 1, 20), Sending("update", "fog", 3, 250))


@pytest.mark.parametrize("sums", [SUMS[:1], (Sending("update", "fog", 1, 99), SUMS[1]), ()])
def test_a_log_that_tells_of_more_than_its_sums_was_altered(sums: tuple[Sending, ...]) -> None:
    """A kind that is missing, a byte too few."""
    with pytest.raises(CorruptState, match="does not add up"):
        book(HELD, sums)


def test_peers_past_the_limit_are_counted_as_others() -> None:
    """The log still has their names."""
    sums = (Sending("update", "fog", 1, 100), Sending("terms_request", "others", 5, 100))
    assert book(HELD, sums) == (Sending("terms_request", "others", 4, 80), *HELD)


sendings = st.lists(
    st.builds(
        Sending, st.text(max_size=9), st.text(max_size=9), st.integers(1, 9), st.integers(0, 2**40), st.floats(0, 2e9)
    ),
    max_size=12,
)


@given(sendings)
def test_an_export_comes_back(found: list[Sending]) -> None:
    """Equal, with its head."""
    head, again = read(export("kitchen", found))
    assert again == tuple(found)
    assert (head.place, head.lines, head.n_bytes) == ("kitchen", len(found), sum(one.n_bytes for one in found))


@given(sendings.filter(lambda found: len(found) >= 2), st.data())
def test_any_change_is_named_by_its_line(found: list[Sending], data: st.DataObject) -> None:
    """Altered, left out, doubled, cut off: never later than the line after it."""
    lines = list(export("kitchen", found))
    at = data.draw(st.integers(0, len(lines) - 1))
    kind = data.draw(st.sampled_from(["alter", "leave out", "double", "cut off"]))
    if kind == "alter":
        whole = msgspec.json.decode(lines[at])
        inner = whole.get("head") or whole["sending"]
        inner["n_bytes"] += 1
        lines[at] = msgspec.json.encode(whole).decode()
    elif kind == "leave out":
        del lines[at]
    elif kind == "double":
        lines.insert(at, lines[at])
    else:
        del lines[at + (at == 0) :]
        at = len(lines)
    with pytest.raises(CorruptState, match=rf"broken at line ({at + 1}|{at + 2}|{len(lines) + 1})\b"):
        read(lines)


def test_what_is_no_ledger_is_said() -> None:
    """Nothing, and something else."""
    for lines in ([], [""], ["{}"], ['{"head": 1}']):
        with pytest.raises(CorruptState, match="broken at line 1"):
            read(lines)
