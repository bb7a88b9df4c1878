"""The fog's loopback door, both ends over real HTTP: what is given, in which order, and what is refused."""

import numpy as np
import pytest
from fog_door import MemoryFog

from evergrove.adapters.flower.loopback import FogDoor, answer
from evergrove.adapters.flower.port import Question
from evergrove.core.errors import ConfigError, InvalidInput, Unreachable
from evergrove.core.rollout import DeviceReport
from evergrove.core.sums import NoisedSum, noised_sum


def made(number: int) -> NoisedSum:
    values = np.full(3, number, np.float32)
    return noised_sum(values, generation=1, base="b", basis="a", n_updates=2, denominator=2, noise=None, number=number)


def asked(after: str = "", acknowledge: tuple[str, ...] = (), wait_s: float = 0.0, limit: int = 8) -> Question:
    return Question(after, acknowledge, wait_s, limit)


def test_cohorts_come_in_their_order_after_the_last_one_taken() -> None:
    """An id that the fog does not have any more, or never had, means from the start."""
    one, two, three = made(1), made(2), made(3)
    with MemoryFog() as fog:
        for cohort in (one, two, three):
            fog.close_cohort(cohort)
        door = FogDoor(fog.url)
        assert answer(asked(), door, "north").sums == (one, two, three)
        assert answer(asked(one.id), door, "north").sums == (two, three)
        assert answer(asked(limit=2), door, "north").sums == (one, two)
        heard = answer(asked(one.id, (one.id,)), door, "north")
        assert (heard.acknowledged, heard.sums, heard.fog) == ((one.id,), (two, three), "north")
        assert answer(asked(one.id), door, "north").sums == (two, three)
        assert answer(asked("f" * 64), door, "north").sums == (two, three)
        door.close()


def test_acknowledging_twice_or_what_is_unknown_is_fine() -> None:
    """The cloud may not have heard that it was heard."""
    with MemoryFog() as fog:
        fog.close_cohort(made(1))
        door = FogDoor(fog.url)
        for _ in range(2):
            door.acknowledge(made(1).id)
        door.acknowledge("f" * 64)
        assert fog.acknowledged == [made(1).id]
        door.close()


def test_a_question_waits_for_a_cohort_and_no_longer_than_it_says() -> None:
    """Time is the caller's: nobody sleeps here."""
    with MemoryFog() as fog:
        door, clock, naps = FogDoor(fog.url), [0.0], []

        def sleep(s: float) -> None:
            naps.append(s)
            clock[0] += s
            if len(naps) == 3:
                fog.close_cohort(made(1))

        assert answer(asked(wait_s=10.0), door, "n", lambda: clock[0], sleep).sums == (made(1),)
        assert len(naps) == 3
        fog.acknowledge(made(1).id)
        clock[0], start = 0.0, len(naps)
        assert answer(asked(wait_s=2.2), door, "n", lambda: clock[0], sleep).sums == ()
        assert sum(naps[start:]) == pytest.approx(2.2)
        door.close()


def test_the_door_asks_for_its_token() -> None:
    """Without it nothing is given and nothing acknowledged."""
    with MemoryFog(token="secret") as fog:
        fog.close_cohort(made(1))
        stranger, ours = FogDoor(fog.url), FogDoor(fog.url, "secret")
        with pytest.raises(Unreachable, match="401"):
            stranger.cohorts("")
        with pytest.raises(Unreachable, match="401"):
            stranger.acknowledge(made(1).id)
        assert ours.cohorts("") == [made(1)]
        stranger.close()
        ours.close()


@pytest.mark.parametrize("url", ["https://127.0.0.1:1", "http://10.0.0.1:1", "http://fog.example", "127.0.0.1:80", ""])
def test_only_a_loopback_address_is_a_door(url: str) -> None:
    """What is not encrypted does not leave the machine."""
    with pytest.raises(ConfigError, match="loopback"):
        FogDoor(url)


def test_a_fog_that_is_away_is_unreachable() -> None:
    """In one clear error."""
    with MemoryFog() as fog:
        url = fog.url
    door = FogDoor(url)
    with pytest.raises(Unreachable, match="does not answer"):
        door.cohorts("")
    door.close()


def test_a_damaged_sum_never_goes_up() -> None:
    """The ClientApp refuses before the cloud has to."""
    with MemoryFog() as fog:
        good = made(1)
        fog.close_cohort(NoisedSum(good.id, 1, "b", "a", 2, 2, None, b"\0\0\0\0", 1))
        door = FogDoor(fog.url)
        with pytest.raises(InvalidInput, match="its content is"):
            answer(asked(), door, "north")
        door.close()


def test_what_devices_say_comes_along_and_ends_the_waiting() -> None:
    """After the position that was taken last, in order, at most a thousand at once."""
    with MemoryFog() as fog:
        door = FogDoor(fog.url)
        for device in ("a", "b"):
            fog.say(device)
        clock: list[float] = []
        heard = answer(asked(wait_s=10.0), door, "north", lambda: 0.0, clock.append)
        assert ([one.device for one in heard.reports], heard.sums, clock) == (["a", "b"], (), [])
        later = Question("", (), 0.0, 8, reports_after=1)
        assert [one.device for one in answer(later, door, "north").reports] == ["b"]
        for n in range(1200):
            fog.say(f"d{n}")
        assert len(answer(asked(), door, "north").reports) == 1000
        door.close()


@pytest.mark.parametrize(
    "bad",
    [
        DeviceReport(0, "a", "r", "failed"),
        DeviceReport(1, "", "r", "failed"),
        DeviceReport(1, "a" * 200, "r", "failed"),
    ],
)
def test_reports_of_no_order_or_size_never_go_up(bad: DeviceReport) -> None:
    """A position that does not grow, a name without letters or without an end."""
    with MemoryFog() as fog:
        fog.said_after = lambda position: [bad]  # type: ignore[method-assign]
        door = FogDoor(fog.url)
        with pytest.raises(InvalidInput, match=r"positions grow|a name of"):
            door.reports(0)
        door.close()


def test_a_fog_that_knows_no_reports_gives_none() -> None:
    """An older one answers 404."""
    with MemoryFog() as fog:
        door = FogDoor(fog.url + "/older")
        assert door.reports(0) == []
        door.close()
