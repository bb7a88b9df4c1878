"""The cloud's inbox: durable, in order, each sum once and its name for ever."""

from pathlib import Path

import numpy as np
import pytest

from evergrove.adapters.flower.inbox import Inbox
from evergrove.core.errors import CorruptState
from evergrove.core.rollout import DeviceReport, Mark
from evergrove.core.sums import NoisedSum, noised_sum


def made(number: int) -> NoisedSum:
    values = np.full(4, number, np.float32)
    return noised_sum(
        values, generation=1, base="b", basis="a", n_updates=2, denominator=2, noise={"std": 1.0}, number=number
    )


def test_what_was_taken_waits_in_order_until_it_is_counted(tmp_path: Path) -> None:
    """Also over a new start; the name stays known when the content is gone."""
    inbox = Inbox(tmp_path / "inbox.db")
    for number in (2, 1):
        inbox.take("7", made(number))
    inbox.take("8", made(1))  # two fogs may hand up the same content
    inbox.close()
    again = Inbox(tmp_path / "inbox.db")
    waiting = again.waiting()
    assert [(one.fog, one.sum) for one in waiting] == [("7", made(2)), ("7", made(1)), ("8", made(1))]
    again.counted(waiting[0].position)
    assert [one.sum.number for one in again.waiting()] == [1, 1]
    assert [one.fog for one in again.waiting(after=waiting[1].position)] == ["8"]
    assert again.taken("7", made(2).id)
    assert not again.taken("8", made(2).id)
    again.close()


def test_taking_twice_is_our_own_mistake(tmp_path: Path) -> None:
    """The file itself refuses it, counted or not."""
    inbox = Inbox(tmp_path / "inbox.db")
    inbox.take("7", made(1))
    inbox.counted(inbox.waiting()[0].position)
    with pytest.raises(AssertionError, match="twice"):
        inbox.take("7", made(1))
    inbox.close()


def test_a_file_that_is_no_inbox_is_refused(tmp_path: Path) -> None:
    """In one clear error."""
    (tmp_path / "inbox.db").write_bytes(b"not a database, but long enough to be read as one" * 100)
    with pytest.raises(CorruptState, match="restore"):
        Inbox(tmp_path / "inbox.db")


def said(position: int, device: str = "a", mark: Mark = "accepted") -> DeviceReport:
    return DeviceReport(position, device, "r1", mark)


def test_what_devices_say_is_heard_once_and_the_last_word_of_each_stays(tmp_path: Path) -> None:
    """Told again before and after it was counted: not again. Two fogs have positions of their own."""
    inbox = Inbox(tmp_path / "inbox.db")
    inbox.hear("7", [said(1), said(2, "b")])
    inbox.hear("7", [said(1), said(2, "b"), said(5, "a", "confirmed")])
    inbox.hear("8", [said(1, "c")])
    waiting = inbox.reports()
    assert [(fog, one.position) for fog, one in waiting] == [("7", 1), ("7", 2), ("7", 5), ("8", 1)]
    inbox.reported(waiting)
    inbox.close()
    again = Inbox(tmp_path / "inbox.db")
    again.hear("7", [said(2, "b"), said(5, "a", "confirmed")])
    assert again.reports() == []
    assert {device: (heard.fog, heard.mark) for device, heard in again.devices().items()} == {
        "a": ("7", "confirmed"), "b": ("7", "accepted"), "c": ("8", "accepted"),
    }  # fmt: skip
    again.close()
