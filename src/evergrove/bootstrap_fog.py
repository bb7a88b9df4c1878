"""The composition root of a fog: its parts are chosen and put together here, and nowhere else.

A fog's folder holds ``fog/`` (state, waiting updates, sums), its server's key, and either ``authority/`` (it is its own
certificate authority, ADR 0032) or what another fog's gave: ``ca.pem``, ``server.pem``, ``server.key``, ``crl.pem``.
"""

import contextlib
import os
import secrets
import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from evergrove.adapters import certificates as x
from evergrove.adapters import clock
from evergrove.adapters.authority import CA, CRL, Authority
from evergrove.adapters.files import Files, read_bounded
from evergrove.adapters.fog_store import FogStore
from evergrove.adapters.release import Release, open_release
from evergrove.core.conditions import nearest
from evergrove.core.errors import ConfigError, CorruptState, UsageError
from evergrove.core.sections import FogWeb, Gathering, Range
from evergrove.rules import following as rules
from evergrove.rules import params
from evergrove.rules.privacy.ledger import Budget
from evergrove.runtime import flower, following, mirroring
from evergrove.runtime.fog_link import CloudLink
from evergrove.runtime.fog_noise import NO_BUDGET, FogNoise
from evergrove.runtime.fog_service import FogService, plan_of
from evergrove.web import bearer
from evergrove.web.fog import FogApi, create_app
from evergrove.web.fog_door import DoorApi
from evergrove.web.fog_server import Door, FogServer, run
from evergrove.web.news import News

if TYPE_CHECKING:
    from evergrove.runtime.fog import LocalFog

AUTHORITY, SERVER, SERVER_KEY = "authority", "server.pem", "server.key"
DOOR_TOKEN, FOLLOWED, MIRROR = "door.token", "followed", "mirror"
ASSIST_KEY, LETTER_KEY, NOISE_KEY, KEY_BYTES = "assist.key", "letter.key", "noise.key", 32
NEWS_HEAD = "metadata/timestamp.json"
"""The file of a TUF repository that changes with every release."""


@dataclass(frozen=True)
class FogPlace:
    """Where a fog is and what it does. ``hosts``: names and addresses in its certificate.

    ``budget`` is what its noise is made for (``NO_BUDGET``: none, ε = ∞); ``noise_key`` None: a file in its folder.
    ``door`` is the URL of its door on the loopback address ("": it has none), ``cloud`` the cloud's HOST:PORT ("": none
    is linked), known by the certificate in ``cloud_authority``. ``releases`` is a TUF repository's folder, served to
    devices and followed, from ``root`` on (None: its first one, believed at first sight). With a cloud and a ``root``
    and without ``releases`` that is a mirror of the cloud's, which the fog keeps.
    """

    folder: Path
    name: str
    hosts: Sequence[str]
    database: str | None = None
    releases: Path | None = None
    assist: bool = False
    trusted: bool = False
    budget: Budget = NO_BUDGET
    noise_key: Path | None = None
    door: str = ""
    cloud: str = ""
    cloud_authority: Path | None = None
    root: Path | None = None


@dataclass(frozen=True)
class MadeFog:
    """A fog that was put together. ``keys`` are what devices write into their configuration.

    ``door_token`` is the file of the door's token, ``link`` brings what closes up to the cloud.
    """

    service: FogService
    ca: Path
    keys: dict[str, str]
    authority: Authority | None
    server: Callable[[socket.socket | None], FogServer]
    door_token: Path | None = None
    link: CloudLink | None = None
    mirror: mirroring.Mirror | None = None

    async def run(self, bound: socket.socket, ready: Callable[[], None], door: socket.socket | None = None) -> None:
        """Serves until the process is told to stop. ``door``: the socket of the door, where the place has one."""

        def up() -> None:
            if self.link is not None:
                self.link.start()
            ready()

        try:
            await run(self.server(door), bound, up)
        finally:
            if self.link is not None:
                self.link.stop()
            if self.mirror is not None:
                self.mirror.close()
            self.service.store.close()

    def invite(self, device: str) -> str:
        """A one-time token. Raises ``UsageError`` where the fog is not its own authority."""
        if self.authority is None:
            raise UsageError(
                "this fog enrols nobody: its certificates are from another authority; invite the device there"
            )
        return self.authority.issue_token(clock.now_s(), device)


def open_fog(place: FogPlace, names: Sequence[str], gathering: Gathering, limits: FogWeb | None = None) -> MadeFog:
    """A fog in its folder; what it was doing goes on. ``names``: releases, the last one is gathered for.

    Where it follows a repository, what is published there is gathered for too, and ``gathering`` is for generations
    that open from now on.

    Raises ``UsageError`` where the folder is another fog's or the generation began otherwise, ``InvalidArtefact`` for a
    release that is none, ``BudgetSpent`` where the ε budget allows no cohort more.
    """
    files = Files()
    files.make_folder(place.folder)
    authority, ca = _authority(place, files)
    revocations = x.Revocations(
        authority.list_path if authority is not None else place.folder / CRL,
        x.load_certificate(read_bounded(ca, x.PEM_BYTES_MAX), str(ca)),
    )
    token_file = place.folder / DOOR_TOKEN if place.door else None
    token = bearer.read_or_make(token_file, files) if token_file is not None else ""
    linked = _linked(place, token_file)
    link = None if linked is None else CloudLink(linked, files)
    mirror = None
    if linked is not None and place.releases is None and place.root is not None:
        mirror = mirroring.mirror_of(place.folder / MIRROR, linked, place.root, files)
        place = replace(place, releases=mirror.repository)
    noise = FogNoise(place.name, place.budget, _noise_key(place, files))
    service = FogService(place.name, FogStore(place.folder / "fog", place.database, files), clock.now_s, noise)
    with contextlib.ExitStack() as undo:
        undo.callback(service.store.close)
        service.start()
        opened = [open_release(name) for name in names]
        news = News(place.releases, NEWS_HEAD)
        follower = _follower(place, service, gathering, files)
        if opened:
            _gather(service, opened, gathering, names if follower is not None else ())
        if follower is not None:
            news.look()
            follower.look(news.tag)
        helper, keys = _helper(place, opened, files)
        undo.pop_all()

    def server(door: socket.socket | None) -> FogServer:
        api = FogApi(
            service, revocations, clock.now_s, limits, news, authority, helper, place.trusted,
            None if follower is None else _looks(follower, mirror),
        )  # fmt: skip
        heard = (lambda: None) if link is None else link.heard
        behind = None if door is None else Door(DoorApi(service, api.meter, heard), token, door)
        return FogServer(api, create_app(api), tls, behind, (lambda: None) if helper is None else helper.close)

    def tls() -> ssl.SSLContext:
        return x.server_context(ca, place.folder / SERVER, place.folder / SERVER_KEY)

    return MadeFog(service, ca, keys, authority, server, token_file, link, mirror)


def gathering_of(words: Sequence[str]) -> Gathering:
    """``["cohort=20", "clip=0.5"]`` over the defaults. Raises ``ConfigError`` that names the key."""
    values: dict[str, str] = {}
    for word in words:
        key, _, value = word.partition("=")
        if key not in Gathering.__struct_fields__:
            raise ConfigError(f"--set {word}: unknown key '{key}'{nearest(key, list(Gathering.__struct_fields__))}")
        values[key] = value
    try:
        made = msgspec.convert(values, Gathering, strict=False)
    except msgspec.ValidationError as fault:
        raise ConfigError(f"--set: {fault}") from fault
    for info in msgspec.structs.fields(Gathering):
        for limit in getattr(info.type, "__metadata__", ()):
            if isinstance(limit, Range) and not limit.holds(getattr(made, info.name)):
                raise ConfigError(f"--set {info.name}={values[info.name]}: must be {limit.words}")
    return made


def _authority(place: FogPlace, files: Files) -> tuple[Authority | None, Path]:
    """Its own, made at the first start, or None where the folder holds what another one gave; the CA's file."""
    given = place.folder / CA
    if given.exists():
        return None, given
    folder, now_s = place.folder / AUTHORITY, clock.now_s()
    made = Authority(folder, files) if (folder / CA).exists() else Authority.create(folder, place.name, now_s, files)
    key, certificate = made.server(place.hosts, now_s)
    files.write(place.folder / SERVER_KEY, key)
    files.write(place.folder / SERVER, certificate)
    return made, folder / CA


def _gather(service: FogService, opened: Sequence[Release], gathering: Gathering, followed: Sequence[str] = ()) -> None:
    """Opens the last release's generation, or goes on with it; others of the same layout may take part too.

    ``followed``: their names where the fog follows a repository too. Then what has come from there stays, and a release
    of a generation that is over is passed over.
    """
    layouts = [params.layout_of(r.manifest, r.read(r.manifest.base), r.read(r.manifest.basis)) for r in opened]
    layout, plan = layouts[-1], service.plan
    same = [r.manifest_hash for r, other in zip(opened, layouts, strict=True) if other.digest == layout.digest]
    if followed and plan is not None:
        if following.passed_over(plan, layout, followed):
            return
        if plan.layout == layout.digest:
            same = list(rules.admitted(plan.releases, same, {}))
    service.open(plan_of(layout, same, gathering, opened[-1].manifest.clip), layout)


def _follower(place: FogPlace, service: FogService, gathering: Gathering, files: Files) -> following.Follower | None:
    """Who looks at what is published. Raises ``UsageError`` for a root that cannot be believed."""
    if place.releases is None:
        if place.root is not None:
            raise UsageError("--root is of a repository: name that by --releases, or its cloud by --cloud")
        return None
    client = following.client_of(place.folder / FOLLOWED, place.releases, place.root, files)
    return following.Follower(service, place.releases, gathering, client)


def _looks(follower: following.Follower, mirror: mirroring.Mirror | None) -> Callable[[str], None]:
    """A look at what is published: first whether anything new has come here."""
    if mirror is None:
        return follower.look

    def look(tag: str) -> None:
        try:
            mirror.look()
        finally:
            follower.look(tag)

    return look


def _linked(place: FogPlace, token_file: Path | None) -> flower.Fog | None:
    """What brings sums up to the cloud. Raises ``UsageError`` where it is not said how the cloud is known."""
    if not place.cloud:
        return None
    if place.cloud_authority is None or token_file is None:
        raise UsageError("a cloud is known by its authority's certificate, and fetches from the fog's door: name both")
    if not place.cloud_authority.is_file():
        raise UsageError(
            f"{place.cloud_authority}: no such file; it is the authority.crt that `evergrove up cloud` names"
        )
    return flower.Fog(
        place.folder / "flower", place.name, place.cloud, place.cloud_authority.absolute(), place.door, token_file
    )


def _helper(place: FogPlace, opened: Sequence[Release], files: Files) -> tuple["LocalFog | None", dict[str, str]]:
    """Who computes assists, and the keys by which devices know it."""
    if not (place.assist or place.trusted):
        return None, {}
    if not opened:
        raise UsageError("--assist and --trusted need a --release to help with")
    from evergrove.runtime.fog import LocalFog  # torch comes with it

    letter = _key(place.folder / LETTER_KEY, files) if place.trusted else None
    helper = LocalFog(
        place.folder / "assists", opened, _key(place.folder / ASSIST_KEY, files), letter, clock.now_s, peer=place.name
    )
    keys = {"assist_key": helper.assist_key}
    return helper, keys | ({"trusted_key": helper.trusted_key} if place.trusted else {})


def _noise_key(place: FogPlace, files: Files) -> bytes:
    """What encrypts the noise's state; nothing where there is none."""
    return b"" if place.budget.generation is None else _key(place.noise_key or place.folder / NOISE_KEY, files)


def _key(path: Path, files: Files) -> bytes:
    """32 bytes of chance in a file that is its owner's alone, made once, even by workers that start together.

    Raises ``CorruptState`` where others can read it, or it is no key.
    """
    if not path.exists():
        fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        files.write(fresh, secrets.token_bytes(KEY_BYTES))
        with contextlib.suppress(FileExistsError):
            os.link(fresh, path)
        files.remove(fresh)
    data = read_bounded(path, KEY_BYTES)
    if len(data) != KEY_BYTES or path.stat().st_mode & 0o077:
        raise CorruptState(f"{path}: a key has {KEY_BYTES} bytes and mode 600; bring back the one that was there")
    return data
