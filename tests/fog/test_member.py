"""What a device sends its fog, by the real outbox: what it holds, what it never holds, and every fog there may be."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from members import LAYOUT, MINE, Member, adapter, tiny_plan, vector_of

from evergrove.adapters.files import Files
from evergrove.core import effects as do
from evergrove.core import events as ev
from evergrove.core import transport
from evergrove.core.errors import EvergroveError, InvalidInput, Unreachable, UpdateRefused
from evergrove.core.fog import Cohort, Receipt, Terms
from evergrove.rules import params
from evergrove.runtime.fleet import Ledger


class Fog:
    """A fog in memory. ``mood`` is raised, or called, instead of an answer to an update; counts each token once."""

    peer = "https://fog"

    def __init__(self) -> None:
        self.told = Terms("north", tiny_plan(), 0, 0.9, "noised")
        self.counted: dict[str, bytes] = {}
        self.frames: list[bytes] = []
        self.mood: Exception | Callable[[Receipt], Receipt] | None = None
        self.away = False

    def connect(self, ledger: Ledger) -> tuple[str, "Fog"]:
        """The line of the device that the fleet calls kitchen."""
        return "kitchen", self

    def terms(self) -> Terms:
        """Or nobody answers."""
        if self.away:
            raise Unreachable("the fog does not answer")
        return self.told

    def submit(self, frame: bytes) -> Receipt:
        """Counts it, unless its mood says otherwise."""
        if self.away:
            raise Unreachable("the fog does not answer")
        self.frames.append(frame)
        n = int.from_bytes(frame[:4], "little")
        head, body = transport.decode(frame[4 : 4 + n]), frame[4 + n :]
        assert isinstance(head, transport.Update)
        if isinstance(self.mood, Exception):
            raise self.mood
        receipt = Receipt(head.token, Cohort(LAYOUT.generation, len(self.counted)), head.token in self.counted)
        self.counted[head.token] = body
        return self.mood(receipt) if self.mood is not None else receipt

    def close(self) -> None:
        """Nothing to close."""


def first(version: str, given: str | None = None, heard: str = "") -> do.ShareLearnt:
    return do.ShareLearnt(version, given, heard)


@pytest.fixture
def fog() -> Fog:
    return Fog()


@pytest.fixture
def member(tmp_path: Path, fog: Fog) -> Member:
    return Member(tmp_path / "device", fog.connect)


def told_apart(facts: list[ev.Event]) -> ev.Event:
    """The last word, behind the terms."""
    return facts[-1]


# ---- what it holds ---------------------------------------------------------------------------------------------------


def test_an_update_is_what_was_learnt_since_the_last_clipped_to_the_terms(fog: Fog, member: Member) -> None:
    """v2 − v1 in float16, the norm at most C; each byte in the ledger before it left."""
    one, two = (member.versions.add(adapter(seed)) for seed in (1, 2))
    facts = member.fleet.share(first(one), None)
    assert facts[0] == ev.TermsRead("north", 1, 0.9, "noised")
    counted = told_apart(facts)
    assert isinstance(counted, ev.UpdateCounted)
    fog.told = msgspec.structs.replace(fog.told, cohort=1)
    (again,) = member.fleet.share(first(two, one, counted.token), facts[0])
    assert isinstance(again, ev.UpdateCounted)
    body = fog.counted[again.token]
    learnt = [params.flat({f"{n}.B": b for n, b in numbers(seed).items()}, MINE, LAYOUT) for seed in (1, 2)]
    assert np.allclose(vector_of(body), learnt[1] - learnt[0], atol=2e-5)
    assert [fact.category for fact in member.sent] == ["update", "update"]
    assert [fact.n_bytes for fact in member.sent] == [len(frame) for frame in fog.frames]

    fog.told = msgspec.structs.replace(fog.told, plan=tiny_plan(clip=1e-3, norm_max=10.0), cohort=2)
    (small,) = member.fleet.share(first(one, two, again.token), facts[0])
    assert isinstance(small, ev.UpdateCounted)
    assert params.norm(vector_of(fog.counted[small.token])) == pytest.approx(1e-3, rel=1e-2)


def test_eight_bits_are_the_devices_choice(fog: Fog, tmp_path: Path) -> None:
    """Half the bytes; the same update by two devices is rounded by a chance of their own."""
    fog.told = msgspec.structs.replace(fog.told, plan=tiny_plan(n_bytes=LAYOUT.sizes))
    bodies = []
    for i in range(2):
        device = Member(tmp_path / f"device-{i}", fog.connect, eight_bits=True)
        counted = told_apart(device.fleet.share(first(device.versions.add(adapter(1))), None))
        assert isinstance(counted, ev.UpdateCounted)
        bodies.append(fog.counted[counted.token])
    assert [len(body) for body in bodies] == [LAYOUT.n_bytes("int8")] * 2
    assert len(bodies[0]) < 0.6 * LAYOUT.n_bytes("float16")
    assert bodies[0] != bodies[1]
    learnt = params.flat({f"{n}.B": b for n, b in numbers(1).items()}, MINE, LAYOUT)
    for body in bodies:
        assert np.abs(vector_of(body) - learnt).max() <= np.abs(learnt).max() / 127


def numbers(seed: int) -> dict[str, np.ndarray]:
    """The B of ``adapter(seed)``, by layer."""
    from evergrove.learn.adapter_file import adapter_of_bytes

    return {name: b.numpy() for name, b in adapter_of_bytes(adapter(seed)).b.items()}


def test_nothing_personal_is_in_what_leaves(fog: Fog, member: Member, tmp_path: Path) -> None:
    """Neither the name of an invented value nor a number of its row; two devices that differ in these alone send the
    same body, and heads that differ in chance only."""
    other = MINE.extend({MINE.names[0]: "another secret"})
    bodies, heads = [], []
    for i, vocabulary in enumerate((MINE, other)):
        device = Member(tmp_path / f"device-{i}", fog.connect)
        version = device.versions.add(adapter(1, vocabulary))
        assert isinstance(told_apart(device.fleet.share(first(version), None)), ev.UpdateCounted)
        frame = fog.frames[-1]
        n = int.from_bytes(frame[:4], "little")
        bodies.append(frame[4 + n :])
        heads.append(msgspec.to_builtins(transport.decode(frame[4 : 4 + n])))
    assert bodies[0] == bodies[1]
    assert {key for key in heads[0] if heads[0][key] != heads[1][key]} == {"token"}
    for frame in fog.frames:
        for secret in ("Zoë", "auntie", "hat", "secret", "row."):
            assert secret.encode() not in frame
    assert len(bodies[0]) == LAYOUT.n_bytes("float16")


# ---- which fogs there are --------------------------------------------------------------------------------------------


def test_a_fog_that_is_away_gets_it_weeks_later_and_once(fog: Fog, member: Member) -> None:
    """Nothing is made while there are no terms; made and not acknowledged, it waits by its token."""
    one, two = (member.versions.add(adapter(seed)) for seed in (1, 2))
    fog.away = True
    assert told_apart(member.fleet.share(first(one), None)) == ev.UpdateDelayed(one, "", "the fog does not answer")
    assert (member.waiting, member.sent) == (0, [])
    fog.away, fog.mood = False, Unreachable("cut off")
    delayed = told_apart(member.fleet.share(first(one), None))
    assert isinstance(delayed, ev.UpdateDelayed)
    assert (delayed.token != "", member.waiting) == (True, 1)
    fog.mood, member.now_s = None, 3e6
    (counted,) = member.fleet.share(first(one), None)
    assert counted == ev.UpdateCounted(one, delayed.token, 1, 0)
    assert (member.waiting, len(fog.counted), two) == (0, 1, two)


@pytest.mark.parametrize(
    "lie",
    [
        lambda receipt: msgspec.structs.replace(receipt, token="00" * 32),
        lambda receipt: (_ for _ in ()).throw(InvalidInput("the fog's answer was not understood")),
    ],
)
def test_a_fog_that_lies_is_not_believed(fog: Fog, member: Member, lie: Callable[[Receipt], Receipt]) -> None:
    """A receipt for another update, an answer that is none: the update waits."""
    version = member.versions.add(adapter(1))
    fog.mood = lie
    delayed = told_apart(member.fleet.share(first(version), None))
    assert isinstance(delayed, ev.UpdateDelayed)
    assert member.waiting == 1
    fog.mood = None
    assert isinstance(told_apart(member.fleet.share(first(version), None)), ev.UpdateCounted)
    assert len(fog.counted) == 1


@pytest.mark.parametrize(
    ("reason", "kind"),
    [("busy", ev.UpdateDelayed), ("closed", ev.UpdateDelayed), ("too soon", ev.UpdateDelayed),
     ("too often", ev.UpdateRefused), ("wrong base", ev.UpdateRefused), ("revoked", ev.UpdateRefused)],
)  # fmt: skip
def test_a_refusal_is_what_the_fog_says_it_is(fog: Fog, member: Member, reason: str, kind: type[ev.Event]) -> None:
    """For now, or for good: then it is gone from the outbox. The fog's own words are the reason."""
    version = member.versions.add(adapter(1))
    fog.mood = UpdateRefused(reason, f"no: {reason}")
    answer = told_apart(member.fleet.share(first(version), None))
    assert isinstance(answer, kind)
    assert getattr(answer, "reason", "") == f"no: {reason}"
    assert member.waiting == (kind is ev.UpdateDelayed)


def test_a_fog_of_another_release_gets_nothing(fog: Fog, member: Member) -> None:
    """It may be this one's turn later: delayed."""
    version = member.versions.add(adapter(1))
    fog.told = msgspec.structs.replace(fog.told, plan=tiny_plan(releases=("99" * 32,)))
    answer = told_apart(member.fleet.share(first(version), None))
    assert isinstance(answer, ev.UpdateDelayed)
    assert "another release" in answer.reason
    assert (fog.frames, member.waiting) == ([], 0)


def test_the_device_holds_itself_to_the_limits_whatever_the_fog_allows(fog: Fog, member: Member) -> None:
    """k times, b cohorts apart, one home fog a generation: each in its own words, and nothing is sent."""
    versions = [member.versions.add(adapter(seed)) for seed in range(4)]
    heard = ""

    def share(version: str, **told: object) -> ev.Event:
        nonlocal heard
        plan = tiny_plan(participations=2, separation=3, **({"rounds": 5} if "rounds" in told else {}))
        told = {k: v for k, v in told.items() if k != "rounds"}
        fog.told = msgspec.structs.replace(fog.told, plan=plan, **told)
        answer = told_apart(member.fleet.share(first(version, None, heard), None))
        heard = getattr(answer, "token", "") or heard
        return answer

    assert isinstance(share(versions[0]), ev.UpdateCounted)
    soon = share(versions[1], cohort=2)
    assert isinstance(soon, ev.UpdateDelayed)
    assert soon.reason == "its turn comes 3 cohorts after the last one"
    assert isinstance(share(versions[1], cohort=3), ev.UpdateCounted)
    often = share(versions[2], cohort=9)
    assert isinstance(often, ev.UpdateRefused)
    assert "took part 2 times" in often.reason
    stranger = share(versions[2], cohort=9, fog="south")
    assert isinstance(stranger, ev.UpdateRefused)
    assert stranger.reason == "its fog for generation 1 is north, not south"
    assert len(fog.frames) == 2


def test_a_version_that_was_altered_is_not_sent(fog: Fog, member: Member) -> None:
    """Its file's hash is wrong: nothing leaves, and the reason names the file."""
    version = member.versions.add(adapter(1))
    member.versions.path_of(version).write_bytes(adapter(2))
    answer = told_apart(member.fleet.share(first(version), None))
    assert isinstance(answer, ev.UpdateDelayed)
    assert "altered" in answer.reason
    assert fog.frames == []


def test_a_ledger_that_cannot_be_written_stops_the_sending(fog: Fog, tmp_path: Path) -> None:
    """No line in it, no byte over the line."""
    member = Member(tmp_path / "device", fog.connect)

    def full(fact: ev.BytesSent) -> None:
        raise EvergroveError("no room for the ledger")

    member.fleet._ledger = full
    answer = told_apart(member.fleet.share(first(member.versions.add(adapter(1))), None))
    assert isinstance(answer, ev.UpdateDelayed)
    assert (answer.reason, fog.frames) == ("no room for the ledger", [])


# ---- kills -----------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """The power fails."""


@pytest.mark.parametrize("mood", ["counts", "acknowledges nothing", "refuses"])
def test_killed_at_every_write_it_is_counted_once_and_its_end_is_told(tmp_path: Path, mood: str) -> None:
    """The same order again, as the reducer gives it after a crash: one update, one end, nothing left behind."""
    n_writes = 0
    while True:
        fog, left = Fog(), n_writes
        device = Member(tmp_path / f"{mood}-{n_writes}", fog.connect)
        version = device.versions.add(adapter(1))

        def at(step: str, path: Path) -> None:
            nonlocal left
            left -= 1
            if left == -1:
                raise Killed

        if mood != "counts":
            cut, refused = Unreachable("cut off"), UpdateRefused("too often", "no")
            fog.mood = cut if mood == "acknowledges nothing" else refused
        dying = Member(tmp_path / f"{mood}-{n_writes}", fog.connect, Files(at))
        try:
            dying.fleet.share(first(version), None)
            killed = False
        except Killed:
            killed = True
        if mood == "acknowledges nothing":
            fog.mood = None
        again = Member(tmp_path / f"{mood}-{n_writes}", fog.connect)
        answer = told_apart(again.fleet.share(first(version), None))
        if isinstance(
            answer, ev.UpdateDelayed
        ):  # killed when it had taken part and there was no update yet: one turn less
            assert (answer.reason, len(fog.counted)) == ("its turn comes 1 cohorts after the last one", 0)
            fog.told = msgspec.structs.replace(fog.told, cohort=1)
            answer = told_apart(again.fleet.share(first(version), None))
        assert isinstance(answer, ev.UpdateRefused if mood == "refuses" else ev.UpdateCounted)
        assert len(fog.counted) == (mood != "refuses")
        assert device.waiting == 0
        assert not list((tmp_path / f"{mood}-{n_writes}" / "fleet" / "outbox").glob(".*"))
        if not killed:
            break
        n_writes += 1
    assert n_writes > 10
