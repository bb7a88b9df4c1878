"""What may leave a device, and that nothing else does: the encoder's refusals, and non-interference of the reducer."""

import hashlib
import typing
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evergrove.core import effects as do
from evergrove.core import events as ev
from evergrove.core import transport
from evergrove.core.conditions import Code, Factor, Vocabulary
from evergrove.core.config import Config, Fleet, Fog, Gate, Learn, Novelty, Placement
from evergrove.core.errors import InvalidInput, UsageError
from evergrove.core.measures import Comparison, Facts
from evergrove.core.telemetry import Telemetry, Value
from evergrove.tiers.device import State, step

RELEASE = "ab" * 32
FLEET = Fleet(fog="https://fog")
ASSISTED = Config(
    learn=Learn(min_new=3, steps=10),
    novelty=Novelty(golden_every=3),
    gate=Gate(items_min=1),
    fog=Fog(assist_key="00" * 32, assist_url="somewhere"),
    placement=Placement(assist_bytes=1, assist_wait_s=0.0, ceiling_low=1.0),
)
BODY = Telemetry(
    n_cores=2,
    on_mains=Value(1.0),
    load_share=Value(0.1),
    memory_free_bytes=Value(4e9),
    network_up=Value(1.0),
)


class Seen(NamedTuple):
    """One observation as the reducer meets it."""

    record: str
    code: Code
    n_bytes: int
    facts: Facts


# ---- the encoder -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        transport.AssistRequest(RELEASE),
        transport.TrustedRequest(RELEASE, b"sealed"),
        transport.Update(RELEASE, "cd" * 32, "ef" * 32, 3, "01" * 32, "23" * 32, 250_000),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_message_survives_its_encoding(message: transport.OutboundMessage) -> None:
    """decode(encode(m)) == m."""
    assert transport.decode(transport.encode(message)) == message


def test_an_assist_request_holds_a_release_and_nothing_else() -> None:
    """Neither job nor device nor condition: all devices of a release send the very same bytes."""
    first, second = (transport.request_of(do.FetchAssist(job, RELEASE)) for job in ("job-00001", "job-00777"))
    assert transport.encode(first) == transport.encode(second)
    assert msgspec.to_builtins(first) == {"kind": "assist_request", "release": RELEASE, "version": 1}


@pytest.mark.parametrize("kind", typing.get_args(ev.Event), ids=lambda kind: kind.__name__)
def test_no_fact_of_the_log_can_be_encoded(kind: type[Any]) -> None:
    """Every kind of event is local, and refused at run time; that mypy refuses it too stands in the module."""
    fact = kind(*([None] * sum(1 for f in msgspec.structs.fields(kind) if f.required)))
    assert kind.scope == "local"
    with pytest.raises(UsageError, match=f"{kind.__name__} never leaves a device"):
        transport.encode(fact)


def test_a_new_message_must_be_listed_first() -> None:
    """Not even a shared struct goes out before its variable fields are declared."""

    class Sneaky(transport.Outbound, frozen=True, tag="sneaky"):
        mood: str

    with pytest.raises(UsageError, match="only AssistRequest, TrustedRequest, Update, Report do"):
        transport.encode(Sneaky("happy"))  # type: ignore[arg-type]
    assert set(transport.VARIABLE) == set(typing.get_args(transport.OutboundMessage))
    assert set(transport.VARIABLE) >= transport.TIMING | transport.HEALTH
    for kind, fields in transport.VARIABLE.items():
        assert set(fields) <= set(kind.__struct_fields__)


def test_what_is_not_understood_is_refused() -> None:
    """Unknown kinds and fields, other versions, damage and size, each with the path or the number."""
    for bad, reason in (
        ({"kind": "telemetry_read"}, r"\$\.kind"),
        ({"kind": "assist_request", "release": "r", "mood": 1}, "unknown field `mood`"),
        ({"kind": "assist_request", "release": "r", "version": 2}, "version 2"),
        ({"kind": "assist_request", "release": 5}, r"\$\.release"),
        ({"kind": "update", "release": RELEASE.upper()}, r"\$\.release"),
        ({"kind": "update", "release": RELEASE + "\n"}, r"\$\.release"),
    ):
        with pytest.raises(InvalidInput, match=reason):
            transport.decode(msgspec.msgpack.encode(bad))
    with pytest.raises(InvalidInput, match="not understood"):
        transport.decode(b"\xc1")
    for unreadable in (b"\x81\xa4kind\xa2\xff\xff", b"\x81\xa4ki\xffd\xa1a", b"\x81\xa1x" + b"\x91" * 5000 + b"\x01"):
        with pytest.raises(InvalidInput, match="not understood"):
            transport.decode(unreadable)
    with pytest.raises(InvalidInput, match="at most 3"):
        transport.decode(bytes(4), 3)


def test_the_insides_of_letters_survive_theirs() -> None:
    """Work and result come back equal; what is neither is refused."""
    vocabulary = Vocabulary((Factor("emotion", ("sad",)),))
    shown = transport.Shown(b"png", (1,))
    work = transport.TrustedWork(RELEASE, vocabulary, None, (shown,), (), "evergrove", 9, 8, 7, b"key")
    result = transport.TrustedResult(b"candidate", 9, 1.5, 0.25)
    assert transport.decode_work(transport.encode_work(work)) == work
    assert transport.decode_result(transport.encode_work(result)) == result
    with pytest.raises(InvalidInput, match="trusted work"):
        transport.decode_work(transport.encode_work(result))
    with pytest.raises(InvalidInput, match="trusted fog's answer"):
        transport.decode_result(transport.encode_work(work))


# ---- non-interference ------------------------------------------------------------------------------------------------


def update_of(order: do.ShareLearnt, n: int) -> transport.Update:
    """What ``adapters/outbox`` makes of an order: all but the digest is the release's, the terms' or chance."""
    digest = hashlib.sha256(repr((order.version, order.given)).encode()).hexdigest()
    return transport.Update(RELEASE, "cd" * 32, "ef" * 32, 1, f"{n:064x}", digest, 250_000)


def outbound(stream: list[Seen], config: Config = ASSISTED) -> list[tuple[float, transport.OutboundMessage]]:
    """Everything that a device sends while it sees a stream, one observation a minute, decoded, with the time.

    Its world answers every order at once: records are stored, assists given, trainings done; candidates are refused, or
    with a fleet accepted: then they pass their probation at the next reading, and their updates are counted.
    """
    sent: list[tuple[float, transport.OutboundMessage]] = []
    state = State()
    now_s = 0.0

    def feed(*facts: ev.Event) -> None:
        nonlocal state
        waiting = list(facts)
        while waiting:
            state, orders = step(config, state, waiting.pop(0), now_s)
            for order in orders:
                match order:
                    case do.Emit():
                        waiting.append(order.event)
                    case do.StoreObservation():
                        code = state.pending[order.observation].code
                        waiting.append(ev.ObservationKept(order.observation, code, order.split, order.reason))
                    case do.FetchAssist():
                        data = transport.encode(transport.request_of(order))
                        sent.append((now_s, transport.decode(data)))
                        waiting.append(ev.AssistReceived(order.job, "cd" * 32, 1000))
                    case do.StartTraining():
                        candidate = hashlib.sha256(repr(order.fresh).encode()).hexdigest()
                        waiting.append(ev.TrainingFinished(order.job, candidate, order.steps, 1.0, 0.1, 1000))
                    case do.StartMeasuring() if not config.fleet.fog:
                        waiting.append(ev.CandidateRefused(order.job, "the test's"))
                    case do.StartMeasuring():
                        waiting.append(accepted(state, order))
                    case do.ActivateVersion():
                        waiting.append(ev.VersionActivated(order.current, order.sequence))
                    case do.ShareLearnt():
                        update = update_of(order, len(sent))
                        sent.append((now_s, transport.decode(transport.encode(update))))
                        waiting.append(ev.UpdateCounted(order.version, update.token, 1, 0))

    feed(ev.DeviceInitialised("d", RELEASE, (2, 2), False, 0), ev.AgentStarted("test"), ev.TelemetryRead(BODY))
    for seen in stream:
        now_s += 60.0
        for factor, (number, size) in enumerate(zip(seen.code, state.sizes, strict=True)):
            if number > size:
                feed(ev.ConditionAdded(factor, number))
        feed(ev.ObservationMeasured(seen.record, seen.code, seen.n_bytes, seen.facts))
        feed(ev.TelemetryRead(BODY))
    return sent


def accepted(state: State, order: do.StartMeasuring) -> ev.CandidateMeasured:
    """Nothing known is harmed, and what was learnt gains."""
    codes = [(n + 1, 0) for n in range(state.known[0])]
    old = [Comparison(kind, code, 150, 0.0, 0.01) for code in codes for kind in ("incumbent", "release")]  # type: ignore[arg-type]
    own = [Comparison("incumbent", code, 50, 0.0, 0.01) for code in {*state.learnt, *order.learnt} - {*codes}]
    new = [Comparison("gain", code, 50, -0.5, 0.01) for code in order.learnt]
    return ev.CandidateMeasured(order.job, order.candidate or "it", order.gamma, (*old, *own, *new), 1.0)


def observations(n: int) -> st.SearchStrategy[list[Seen]]:
    """``n`` observations: known and invented conditions, copies and novelties, large and small."""
    facts = st.builds(
        Facts,
        st.booleans(),
        st.none() | st.integers(0, 64),
        st.none() | st.floats(0, 1e3),
    )
    one = st.tuples(st.tuples(st.integers(0, 5), st.integers(0, 4)), st.integers(1, 10**6), facts)
    return st.lists(one, min_size=n, max_size=n).map(
        lambda rows: [Seen(f"{i:032x}", code, size, fact) for i, (code, size, fact) in enumerate(rows)]
    )


def fixed(messages: list[tuple[float, transport.OutboundMessage]]) -> list[dict[str, Any]]:
    """The messages without the fields that are declared to depend on observations."""
    bare = []
    for _, message in messages:
        fields = msgspec.to_builtins(message)
        assert type(message) in transport.TIMING
        bare.append({k: v for k, v in fields.items() if k not in transport.VARIABLE[type(message)]})
    return bare


def test_a_device_that_learns_does_send_something() -> None:
    """The harness is not blind: ten new pictures of one invented condition lead to requests, the first by the third."""
    stream = [Seen(f"{i:032x}", (3, 1), 5000, Facts(False, 60, 500.0)) for i in range(10)]
    sent = outbound(stream)
    assert sent
    assert sent[0][0] <= 60.0 * 5
    assert {message for _, message in sent} == {transport.AssistRequest(RELEASE)}
    assert outbound(stream, msgspec.structs.replace(ASSISTED, fog=Fog())) == []


def member(**fleet: bool) -> Config:
    """A device of a fleet, without an assist."""
    told = msgspec.structs.replace(FLEET, **fleet)
    return msgspec.structs.replace(ASSISTED, fog=Fog(), fleet=told)


def test_a_member_of_a_fleet_sends_updates_and_one_that_does_not_federate_nothing() -> None:
    """The harness is not blind here either: forty pictures of one invented condition make at least two updates."""
    stream = [Seen(f"{i:032x}", (3, 1), 5000, Facts(False, 60, 500.0)) for i in range(40)]
    sent = [message for _, message in outbound(stream, member())]
    assert len(sent) >= 2
    assert all(isinstance(message, transport.Update) for message in sent)
    assert len({message.digest for message in sent if isinstance(message, transport.Update)}) == len(sent)
    assert outbound(stream, member(federate=False)) == []


@settings(max_examples=150, deadline=None)
@given(data=st.data(), n=st.integers(1, 16))
def test_observations_do_not_show_in_what_is_sent(data: st.DataObject, n: int) -> None:
    """Two devices that differ only in what they see send the same messages, but for when and how often by now.

    So of the two sequences, bare of declared fields, one is the beginning of the other.
    """
    config = data.draw(st.sampled_from([ASSISTED, member(), msgspec.structs.replace(ASSISTED, fleet=FLEET)]))
    first, second = (fixed(outbound(data.draw(observations(n)), config)) for _ in range(2))
    if config is not ASSISTED:  # a device may learn by an assist, or not yet, before it has an update to send
        first, second = ([m for m in messages if m["kind"] == "update"] for messages in (first, second))
    shorter = min(len(first), len(second))
    assert first[:shorter] == second[:shorter]


@settings(max_examples=60, deadline=None)
@given(stream=observations(12), data=st.data())
def test_neither_names_nor_the_choice_of_a_new_condition_show_even_in_timing(
    stream: list[Seen], data: st.DataObject
) -> None:
    """Other names of records, and another invented value in the place of the first: same messages, same moments."""
    one = [seen._replace(code=(3 if seen.code[0] > 2 else seen.code[0], min(seen.code[1], 2))) for seen in stream]
    prefix = data.draw(st.integers(1, 2**60))
    other = [
        seen._replace(record=f"{prefix + i:032x}", code=(4 if seen.code[0] == 3 else seen.code[0], seen.code[1]))
        for i, seen in enumerate(one)
    ]
    assert outbound(one) == outbound(other)


def test_a_word_on_a_release_depends_on_observations_in_its_mark_alone() -> None:
    """It is a health bit, and declared as one."""
    one, other = (transport.Report("r7", mark, False) for mark in ("accepted", "rejected"))
    bare = fixed([(0.0, one), (0.0, other)])
    assert bare[0] == bare[1]
    assert transport.decode(transport.encode(one)) == one
    assert {transport.Report} == transport.HEALTH
