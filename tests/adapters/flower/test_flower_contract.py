"""Exactly the part of Flower that is used, pinned: a new version that changes it fails here and not in a fleet."""

import base64
import inspect
import os
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

pytest.importorskip("flwr", reason="Flower is not installed: pip install 'flwr==1.41.0'")

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from evergrove.adapters import fog_pass
from evergrove.adapters.files import Files
from evergrove.adapters.flower import client_app, server_app
from evergrove.adapters.flower.link import FlowerFogs
from evergrove.adapters.flower.port import Answer, Failed, Question
from evergrove.adapters.flower.records import answer_of_records, answer_to_records, question_to_records
from evergrove.core.errors import ConfigError, EvergroveError, InvalidInput, Unreachable
from evergrove.core.sums import NoisedSum, noised_sum
from evergrove.runtime import flower
from evergrove.runtime.flower import program

QUESTION = Question("a" * 64, ("b" * 64,), 2.5, 3)


@pytest.fixture(autouse=True)
def inside_of_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Flower message can only be made in the process of a task: it takes its run and node from there."""
    from flwr.supercore.task_identity import TaskIdentity

    for name, value in (("_task_id", 1), ("_run_id", 1), ("_node_id", 1)):
        monkeypatch.setattr(TaskIdentity, name, value, raising=False)


def made(number: int = 1) -> NoisedSum:
    values = np.arange(6, dtype=np.float32) + number
    return noised_sum(
        values, generation=1, base="b", basis="a", n_updates=2, denominator=2, noise={"std": 0.5}, number=number
    )


class FakeGrid(Grid):
    """A Grid whose SuperNode is the real ClientApp, called at once; ``faults`` are raised first, one a call."""

    def __init__(self, node_config: dict[str, str | int | float | bool], faults: Iterable[Exception] = ()) -> None:
        self.node_config, self.faults = node_config, list(faults)
        self.given: dict[str, Message] = {}
        self.n_pushed = 0

    def set_run(self, run: object) -> None: ...

    @property
    def run(self) -> object:  # type: ignore[override]
        return None

    def create_message(self, *args: object, **words: object) -> Message:
        raise AssertionError("deprecated: not used")

    def send_and_receive(self, *args: object, **words: object) -> Iterable[Message]:
        raise AssertionError("waits for the slowest: not used")

    def get_node_ids(self) -> Iterable[int]:
        return [42]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        self._maybe_fail()
        (message,) = messages
        assert message.metadata.message_type == MessageType.QUERY
        assert (message.metadata.dst_node_id, message.metadata.ttl) == (42, 99.0)
        self.n_pushed += 1
        message.metadata.__dict__["_message_id"] = f"m{self.n_pushed}"
        context = Context(1, 42, dict(self.node_config), RecordDict(), {})
        try:
            reply = client_app.app(message, context)
        except EvergroveError as fault:  # as a SuperNode does, of any error
            reply = Message(Error(2, str(fault)), reply_to=message)
        self.given[f"m{self.n_pushed}"] = reply
        return [f"m{self.n_pushed}"]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        self._maybe_fail()
        return [self.given.pop(name) for name in list(message_ids) if name in self.given]

    def _maybe_fail(self) -> None:
        if self.faults:
            raise self.faults.pop(0)


def test_it_is_the_version_that_this_was_written_for() -> None:
    """Every other version must be looked at first (ADR 0016)."""
    assert version("flwr") == "1.41.0"


def test_a_supernode_names_its_key_as_the_door_reads_it(tmp_path: Path) -> None:
    """In a header of that name, as base64 of PEM."""
    from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER
    from flwr.supercore.primitives.asymmetric import generate_key_pairs, public_key_to_bytes

    public = generate_key_pairs()[1]
    assert FLEET_HTTP_PUBLIC_KEY_HEADER == fog_pass.NODE_HEADER
    (tmp_path / "a.pub").write_bytes(public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH))
    assert fog_pass.is_known(tmp_path, base64.b64encode(public_key_to_bytes(public)).decode())


def test_the_grid_has_what_the_link_uses() -> None:
    """Names and arguments; that pushing never waits and pulling gives what is there, the processes' test shows."""
    assert list(inspect.signature(Grid.push_messages).parameters) == ["self", "messages"]
    assert list(inspect.signature(Grid.pull_messages).parameters) == ["self", "message_ids"]
    assert list(inspect.signature(Grid.get_node_ids).parameters) == ["self"]
    assert {"content", "dst_node_id", "message_type", "ttl", "reply_to", "error"} <= set(
        inspect.signature(Message.__init__).parameters
    )
    assert isinstance(client_app.app, ClientApp)
    assert isinstance(server_app.app, ServerApp)


def test_a_question_and_its_answer_go_round_through_the_real_client_app() -> None:
    """From the link over records to the fog's door and back."""
    from fog_door import MemoryFog

    with MemoryFog() as fog:
        fog.close_cohort(made(1))
        fog.close_cohort(made(2))
        grid = FakeGrid({"fog": "north", "fog-url": fog.url})
        link = FlowerFogs(grid)
        assert link.online() == ["42"]
        asked = link.ask("42", Question("", (made(1).id,), 0.0, 8), 99.0)
        (reply,) = link.replies([asked])
        assert reply.asked == asked
        assert reply.outcome == Answer("north", (made(1).id,), (made(2),))
        assert link.replies([asked]) == []
        assert link.replies([]) == []


def test_a_fogs_failure_is_an_error_reply_with_words() -> None:
    """Flower makes it of whatever the ClientApp raises."""
    link = FlowerFogs(FakeGrid({}))
    (reply,) = link.replies([link.ask("42", Question("", (), 0.0, 8), 99.0)])
    assert isinstance(reply.outcome, Failed)
    assert "which fog?" in reply.outcome.reason


def test_push_and_pull_are_tried_again_and_then_given_up() -> None:
    """A SuperLink that dies in the middle of a push raises ``ObjectPushError``, which is not public."""
    from flwr.supercore.inflatable.inflatable_utils import ObjectPushError

    cut = [ObjectPushError("o", 1, "s") for _ in range(3)]
    naps: list[float] = []
    grid = FakeGrid({}, cut)
    assert FlowerFogs(grid, naps.append, tries=4).ask("42", QUESTION, 99.0) == "m1"
    assert naps == [0.5, 1.0, 2.0]
    grid.faults = [ObjectPushError("o", 1, "s") for _ in range(9)]
    with pytest.raises(Unreachable, match="in 4 tries"):
        FlowerFogs(grid, naps.append, tries=4).ask("42", QUESTION, 99.0)
    with pytest.raises(Unreachable, match="pull answers"):
        FlowerFogs(grid, naps.append, tries=4).replies(["m9"])


def test_records_hold_words_and_arrays_and_come_back_through_flowers_bytes() -> None:
    """An array of float32 keeps its bits; an empty answer has no arrays."""
    answer = Answer("north", ("c" * 64,), (made(1), made(2)))
    assert answer_of_records(answer_to_records(answer)) == answer
    assert answer_of_records(answer_to_records(Answer("n", (), ()))) == Answer("n", (), ())


def damaged(what: str) -> RecordDict:
    records = answer_to_records(Answer("north", (), (made(1),)))
    arrays = records.array_records["vectors"]
    name = made(1).id
    match what:
        case "number":
            arrays[name] = Array(made(2).values.copy())
        case "dtype":
            arrays[name] = Array(made(1).values.astype(np.float64))
        case "shape":
            arrays[name] = Array(made(1).values.reshape(2, 3))
        case "lies":
            arrays[name] = Array("float32", (4,), "numpy.ndarray", arrays[name].data)
        case "pickle":
            arrays[name] = Array("float32", (6,), "numpy.ndarray", b"\x80\x04]\x94.")
        case "huge":
            arrays[name] = Array("float32", (1 << 40,), "numpy.ndarray", arrays[name].data)
        case "missing":
            records["vectors"] = ArrayRecord()
        case "heads":
            records["evergrove"] = ConfigRecord({"version": 1, "heads": b"\xc1"})
        case "version":
            records["evergrove"] = ConfigRecord({"version": 2, "heads": b""})
        case "question":
            return question_to_records(QUESTION)
    return records


@pytest.mark.parametrize(
    "what", ["number", "dtype", "shape", "lies", "pickle", "huge", "missing", "heads", "version", "question"]
)
def test_a_damaged_answer_is_refused(what: str) -> None:
    """Whatever a fog or the link makes of it."""
    with pytest.raises(InvalidInput):
        answer_of_records(damaged(what))


def test_the_fogs_door_is_in_the_node_configuration(tmp_path: object) -> None:
    """A token's file that is not there is said at once."""
    with pytest.raises(ConfigError, match="cannot be read"):
        client_app.door_of({"fog-url": "http://127.0.0.1:1", "fog-token-file": f"{tmp_path}/none"})


def test_neither_app_imports_torch() -> None:
    """A fog's process is a new one for each question."""
    code = (
        "import sys; import evergrove.adapters.flower.client_app, evergrove.adapters.flower.server_app;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_the_programs_are_there() -> None:
    """Beside this interpreter; what options they take, the processes' test shows."""
    for name in (
        "flower-superlink",
        "flower-superexec",
        "flower-supernode",
        "flwr",
        "flwr-serverapp",
        "flwr-clientapp",
    ):
        assert program(name)


def test_no_program_of_flowers_sends_telemetry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the user's environment says, nor asks for updates; by the very switch that Flower looks at."""
    monkeypatch.setenv("FLWR_TELEMETRY_ENABLED", "1")
    monkeypatch.delenv("FLWR_DISABLE_UPDATE_CHECK", raising=False)
    cloud = flower.Cloud(tmp_path / "cloud", 1)
    programs = flower.cloud_programs(cloud, Files(), datetime.now(UTC))
    authority = tmp_path / "cloud" / "tls" / "ca.pem"
    programs += flower.fog_programs(flower.Fog(tmp_path / "fog", "north", "here:1", authority, "http://x"), Files())
    assert [one.name for one in programs] == [
        "superlink", "superexec", "fleet-door", "supernode-north", "superexec-north",
    ]  # fmt: skip
    for one in programs:
        switches = one.environment["FLWR_TELEMETRY_ENABLED"], one.environment["FLWR_DISABLE_UPDATE_CHECK"]
        assert switches == ("0", "1"), one.name
    asked = "from flwr.supercore import telemetry; print(telemetry.FLWR_TELEMETRY_ENABLED)"
    for environment, says in ((programs[0].environment, "0"), (os.environ, "1")):
        done = subprocess.run(
            [sys.executable, "-c", asked], env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == says
