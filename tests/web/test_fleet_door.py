"""The door before a SuperLink: a SuperNode's ten calls pass whole, everything else ends there."""

import asyncio
import base64
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_public_key

from evergrove.adapters import fog_pass
from evergrove.adapters.files import Files
from evergrove.adapters.flower.identity import fog_key
from evergrove.adapters.fog_pass import FogPass
from evergrove.web import fleet_door

seen: list[tuple[str, bytes, dict[str, str]]] = []


def through(
    use: Callable[[httpx.AsyncClient], Awaitable[httpx.Response]],
    down: bool = False,
    shelf: fleet_door.Shelf | None = None,
) -> httpx.Response:
    """One request through the door to a SuperLink that notes what it is asked."""

    def superlink(request: httpx.Request) -> httpx.Response:
        if down:
            raise httpx.ConnectError("refused")
        seen.append((request.url.path, request.content, dict(request.headers)))
        return httpx.Response(
            412, content=b"\x00answer", headers={"content-type": "application/protobuf", "x-two": "2"}
        )

    async def run() -> httpx.Response:
        behind = httpx.AsyncClient(base_url="https://127.0.0.1:1", transport=httpx.MockTransport(superlink))
        before = httpx.ASGITransport(fleet_door.create_app(behind, shelf))
        async with behind, httpx.AsyncClient(base_url="https://cloud.example", transport=before) as outside:
            return await use(outside)

    seen.clear()
    return asyncio.run(run())


@pytest.mark.parametrize("call", sorted(fleet_door.CALLS))
def test_a_supernodes_call_passes_with_its_signature_and_its_answer_comes_back(call: str) -> None:
    """Bytes, status and headers as they are."""
    headers = {"content-type": "application/protobuf", "x-signature": "abc"}
    answer = through(lambda outside: outside.post(f"/v1/fleet/{call}", content=b"\x01body", headers=headers))
    ((path, body, given),) = seen
    assert (path, body, given["x-signature"]) == (f"/v1/fleet/{call}", b"\x01body", "abc")
    assert given["host"] == "127.0.0.1:1"
    assert (answer.status_code, answer.content, answer.headers["x-two"]) == (412, b"\x00answer", "2")


@pytest.mark.parametrize(
    "path",
    [
        "/v1/control/start-run", "/v1/control/register-node", "/v1/fleet/register-node", "/v1/fleet/unregister-node",
        "/v1/runtime/acquire-task", "/v1/fleet/../control/start-run", "/v1/fleet/%2e%2e/control/start-run",
        "/v1/fleet/pull-messages/../../control/start-run", "/v1/fleet//pull-messages", "/docs", "/health", "/",
        "/v1/fleet/..%2fcontrol%2fstart-run",
    ],
)  # fmt: skip
def test_nothing_else_passes(path: str) -> None:
    """Neither the control of runs nor a way round."""
    answer = through(lambda outside: outside.post(path, content=b"x"))
    assert answer.status_code == 404
    assert seen == []


def test_only_posts_pass_and_no_more_than_a_bounded_body() -> None:
    """Refused before anything behind hears of it."""
    assert through(lambda outside: outside.get("/v1/fleet/pull-messages")).status_code == 405
    large = bytes(fleet_door.BODY_BYTES_MAX + 1)
    assert through(lambda outside: outside.post("/v1/fleet/push-object", content=large)).status_code == 413
    assert seen == []


def test_a_superlink_that_is_away_is_said_so_that_a_supernode_tries_again() -> None:
    """503 is what Flower retries."""
    assert through(lambda outside: outside.post("/v1/fleet/get-run"), down=True).status_code == 503


def test_a_supernode_whose_key_the_cloud_was_not_given_does_not_pass(tmp_path: Path) -> None:
    """Nor one that names none; with its file it passes, and the file taken away it does not any more."""
    fogs = tmp_path / "fogs"
    fogs.mkdir()
    (fogs / "noise.pub").write_bytes(b"no key")
    public = fog_key(tmp_path / "north", Files())[1]
    named = base64.b64encode(
        load_ssh_public_key(public.read_bytes()).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    ).decode()

    def status(header: str | None) -> int:
        headers = {} if header is None else {fog_pass.NODE_HEADER: header}
        shelf = fleet_door.Shelf(tmp_path / "repository", fogs)
        return through(
            lambda outside: outside.post("/v1/fleet/pull-messages", headers=headers), shelf=shelf
        ).status_code

    assert {status(header) for header in (named, None, "", "x", named[:-8])} == {401}
    assert seen == []
    (fogs / "under any name.pub").write_bytes(public.read_bytes() + b" and a comment\n")
    assert status(named) == 412
    (fogs / "under any name.pub").unlink()
    assert status(named) == 401


def on_the_shelf(folder: Path, path: str, fog: str | None = "north") -> httpx.Response:
    """A file of a cloud's repository, asked for by a fog; *north* is known to the cloud."""
    fogs, releases = folder / "fogs", folder / "repository"
    for place in (fogs, releases / "metadata"):
        place.mkdir(parents=True, exist_ok=True)
    (releases / "metadata" / "timestamp.json").write_bytes(b"signed")
    (releases / ".lock").write_bytes(b"")
    (folder / "secret").write_bytes(b"secret")
    (fogs / "north.pub").write_bytes(fog_key(folder / "north", Files())[1].read_bytes())
    auth = None if fog is None else FogPass(fog_key(folder / fog, Files())[0])

    async def run() -> httpx.Response:
        door = httpx.ASGITransport(fleet_door.create_app(httpx.AsyncClient(), fleet_door.Shelf(releases, fogs)))
        async with httpx.AsyncClient(base_url="https://cloud.example", transport=door, auth=auth) as outside:
            return await outside.get(f"/v1/releases/{path}")

    return asyncio.run(run())


def test_a_fog_that_the_cloud_knows_reads_its_releases(tmp_path: Path) -> None:
    """As they lie there."""
    answer = on_the_shelf(tmp_path, "metadata/timestamp.json")
    assert (answer.status_code, answer.content) == (200, b"signed")


@pytest.mark.parametrize("fog", [None, "stranger"])
def test_nobody_else_does(tmp_path: Path, fog: str | None) -> None:
    """Not even whether there is such a file."""
    for path in ("metadata/timestamp.json", "nothing"):
        if fog is None:
            assert on_the_shelf(tmp_path, path, fog).status_code == 401
        else:
            with pytest.raises(httpx.RequestError, match="does not know this fog"):
                on_the_shelf(tmp_path, path, fog)


@pytest.mark.parametrize("path", ["../secret", "%2e%2e/secret", "metadata/../../secret", ".lock", "metadata", "", "x"])
def test_nothing_but_the_repositorys_files_is_on_the_shelf(tmp_path: Path, path: str) -> None:
    """No way out of it, no hidden file, no folder."""
    assert on_the_shelf(tmp_path, path).status_code == 404
