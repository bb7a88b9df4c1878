"""The door of a real fog service: the cloud's own client fetches and acknowledges sums, and hears what devices say."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import numpy as np
import pytest
from fogs import LAYOUT, body, head, vector
from lines import TOKEN, Line

from evergrove.adapters import certificates as x
from evergrove.adapters.authority import CA
from evergrove.adapters.flower.loopback import FogDoor, answer
from evergrove.adapters.flower.port import Question
from evergrove.adapters.fog_client import IDENTITY
from evergrove.adapters.fog_reports import OF_DEVICE_MAX
from evergrove.core import transport
from evergrove.core.errors import Unreachable
from evergrove.core.fog import Cohort
from evergrove.core.rollout import DeviceReport
from evergrove.rules.privacy.words import plan_of
from evergrove.runtime.fog_noise import FogNoise, budget_of

KEY = bytes(32)
ALONE = {"cohort": 1, "cohort_min": 1, "rounds": 8}


def private() -> FogNoise:
    """ε = 1."""
    return FogNoise("north", budget_of(1.0, 1e-6, None), KEY)


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    """A fog that gathers, each update a cohort of its own."""
    made = Line(tmp_path, noise=private())
    made.open(**ALONE)
    yield made
    made.close()


@pytest.fixture
def door(line: Line) -> Iterator[FogDoor]:
    """The cloud's client of its door."""
    made = FogDoor(line.door_url, TOKEN)
    yield made
    made.close()


def send(line: Line, *devices: str) -> None:
    """One update of each device, over TLS; they are summed when it returns."""
    before = len(line.service.ready())
    for device in devices:
        data = body(ord(device))
        client = line.join(device)
        client.submit(transport.frame(head(device, data), data))
        client.close()
    line.service.work()
    assert len(line.service.ready()) == before + len(devices)


def asked(after: str = "", acknowledge: tuple[str, ...] = (), limit: int = 8) -> Question:
    return Question(after, acknowledge, 0.0, limit)


# ---- sums ------------------------------------------------------------------------------------------------------------


def test_sums_go_up_in_order_until_each_is_acknowledged(line: Line, door: FogDoor) -> None:
    """By the very code that runs beside a SuperNode; what is acknowledged is gone, and may be acknowledged again."""
    assert answer(asked(), door, "north").sums == ()
    send(line, "a", "b", "c")
    first = answer(asked(limit=2), door, "north").sums
    assert [one.number for one in first] == [0, 1]
    assert all(plan_of(one) is not None for one in first)
    (third,) = answer(asked(first[1].id), door, "north").sums
    assert third.number == 2
    heard = answer(asked(first[1].id, (first[0].id, first[1].id)), door, "north")
    assert (heard.acknowledged, heard.sums) == ((first[0].id, first[1].id), (third,))
    assert [ready.cohort for ready in line.service.ready()] == [Cohort(1, 2)]
    assert answer(asked("f" * 64, (first[0].id,)), door, "north").sums == (third,)
    assert answer(asked(acknowledge=(third.id,)), door, "north").sums == ()
    facts = [type(event).__name__ for _, _, event in line.store.events()]
    assert facts.count("CohortHandedOver") == 3
    with httpx.Client(headers={"Authorization": f"Bearer {TOKEN}"}, trust_env=False) as http:
        for id, status in ((first[0].id, 204), ("f" * 64, 404)):
            assert http.post(f"{line.door_url}/internal/cohorts/{id}/acknowledged").status_code == status


def test_the_same_bytes_come_again_after_a_restart(tmp_path: Path) -> None:
    """With their noise, from the store: nothing is made anew."""
    found = []
    for life in range(3):
        line = Line(tmp_path, noise=private())
        if life == 0:
            line.open(**ALONE)
            send(line, "a", "b")
        door = FogDoor(line.door_url, TOKEN)
        found.append(door.cohorts(""))
        door.close()
        line.close()
    assert found[0] == found[1] == found[2]
    assert np.abs(found[0][0].values - vector(ord("a"))).max() > 1


def test_an_answer_is_bounded(line: Line, door: FogDoor, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sum is always given, more only as they fit."""
    send(line, "a", "b")
    monkeypatch.setattr("evergrove.runtime.fog_service.DOOR_BYTES_MAX", LAYOUT.n_bytes("float32"))
    (one,) = door.cohorts("")
    assert [other.number for other in door.cohorts(one.id)] == [1]


def test_the_door_opens_for_its_token_on_this_machine_only(line: Line) -> None:
    """No token, another one, another name for this machine, a web page."""
    send(line, "a")
    for token in (None, "another"):
        door = FogDoor(line.door_url, token)
        with pytest.raises(Unreachable, match="401"):
            door.cohorts("")
        with pytest.raises(Unreachable, match="401"):
            door.acknowledge(line.service.ready()[0].head.id)
        door.close()
    ours = {"Authorization": f"Bearer {TOKEN}"}
    with httpx.Client(base_url=line.door_url, headers=ours, trust_env=False) as http:
        assert http.get("/internal/cohorts", headers={"Host": "evil.example"}).status_code == 403
        assert http.get("/internal/cohorts", headers={"Origin": "http://evil.example"}).status_code == 403
        assert http.get("/internal/reports?after=-1").status_code == 400
        assert http.get("/internal/cohorts?before=x").status_code == 400
        assert http.get("/v1/terms").status_code == 404, "nothing of the devices' side is here"
    with httpx.Client(base_url=line.url, verify=x.client_context(line.folder / "ca" / CA), trust_env=False) as http:
        assert http.get("/internal/cohorts", headers=ours).status_code == 404, "and nothing of the door there"


def test_a_client_app_takes_a_sum_from_the_service_into_flowers_records(line: Line, tmp_path: Path) -> None:
    """As ``client_app.query`` does it, with the node's configuration, and back at the cloud's end."""
    pytest.importorskip("flwr", reason="Flower is not installed: pip install 'flwr==1.41.0'")
    from evergrove.adapters.flower.client_app import door_of
    from evergrove.adapters.flower.records import answer_of_records, answer_to_records

    send(line, "a", "b")
    (tmp_path / "door.token").write_text(f"{TOKEN}\n")
    door = door_of({"fog-url": line.door_url, "fog-token-file": str(tmp_path / "door.token")})
    given = answer(asked(), door, "north")
    door.close()
    assert answer_of_records(answer_to_records(given)) == given
    assert [one.number for one in given.sums] == [0, 1]


# ---- devices' words --------------------------------------------------------------------------------------------------


def report(line: Line, whose: str | None, **said: object) -> int:
    """What the fog answers to a device's word."""
    ca = line.folder / "ca" / CA
    tls = x.client_context(ca, line.folder / "devices" / whose / IDENTITY) if whose else x.client_context(ca)
    with httpx.Client(base_url=line.url, verify=tls, trust_env=False) as http:
        return http.post("/v1/reports", json=said).status_code


def heard(line: Line, after: int = 0) -> list[DeviceReport]:
    """What the door tells the cloud."""
    ours = {"Authorization": f"Bearer {TOKEN}"}
    answered = httpx.get(f"{line.door_url}/internal/reports", params={"after": after}, headers=ours, trust_env=False)
    assert answered.headers["content-type"] == "application/msgpack"
    return msgspec.msgpack.decode(answered.content, type=list[DeviceReport])


def test_what_devices_say_reaches_the_door_once_and_in_order(line: Line) -> None:
    """Under the name in the certificate; said twice, it is there once."""
    for device in "ab":
        line.join(device).close()
    assert heard(line) == []
    assert report(line, "a", rollout="r1", mark="accepted") == 204
    assert report(line, "b", rollout="r1", mark="rejected", shadow=True) == 204
    assert report(line, "a", rollout="r1", mark="accepted", shadow=False) == 204
    assert report(line, "a", rollout="r1", mark="confirmed") == 204
    found = heard(line)
    assert [(one.device, one.mark, one.shadow) for one in found] == [
        ("a", "accepted", False), ("b", "rejected", True), ("a", "confirmed", False),
    ]  # fmt: skip
    positions = [one.position for one in found]
    assert positions == sorted(set(positions))
    assert heard(line, positions[0]) == found[1:]
    assert heard(line, positions[-1]) == []


def test_only_an_enrolled_device_is_heard_and_only_what_makes_sense(line: Line) -> None:
    """No certificate, an unknown mark, another device's name, no name of a rollout, a name without end."""
    line.join("a").close()
    assert report(line, None, rollout="r1", mark="accepted") == 401
    good = {"rollout": "r1", "mark": "accepted"}
    for odd in ({"mark": "fine"}, {"device": "b"}, {"rollout": ""}, {"rollout": "r" * 129}, {"shadow": "yes"}):
        assert report(line, "a", **{**good, **odd}) == 400
    line.authority.revoke("a", "stolen", line.now_s())
    assert report(line, "a", rollout="r1", mark="accepted") in (401, 403)
    assert heard(line) == []


def test_a_device_that_never_stops_talking_fills_no_disk(line: Line) -> None:
    """Its oldest words make room; another one's stay; positions go on."""
    reports = line.store.reports
    reports.add("b", "r0", "accepted", False)
    for n in range(OF_DEVICE_MAX + 5):
        reports.add("a", f"r{n}", "accepted", False)
    kept = reports.after(0)
    assert len(kept) == OF_DEVICE_MAX + 1
    assert kept[0].device == "b"
    assert kept[1].rollout == "r5"
    assert kept[-1].position == OF_DEVICE_MAX + 6
    assert len(reports.after(0, 10)) == 10
