"""``evergrove up fog``: keeps a fog running, with or without noise."""

import logging
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evergrove.cli import show
from evergrove.cli.common import AsJson
from evergrove.core.errors import MissingDependency, UsageError

if TYPE_CHECKING:
    from evergrove.rules.privacy.ledger import Budget

FOG_PORT = 8472


def fog(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the fog keeps everything; made if missing.")],
    release: Annotated[
        list[str] | None, typer.Option("--release", "-r", help="A release that it gathers for; the last one is open.")
    ] = None,
    epsilon: Annotated[
        float | None, typer.Option("--epsilon", metavar="E", help="ε of a generation, for all updates of a device.")
    ] = None,
    delta: Annotated[float, typer.Option("--delta", metavar="D", help="δ of both budgets.")] = 1e-6,
    lifetime: Annotated[
        float | None,
        typer.Option(
            "--lifetime-epsilon", metavar="L", help="ε over all generations: 8, or E if it is more. inf: no bound."
        ),
    ] = None,
    no_noise: Annotated[
        bool, typer.Option("--no-noise", help="ε = ∞: who reads a sum or a release may learn about single devices.")
    ] = False,
    noise_key: Annotated[
        Path | None, typer.Option("--noise-key", help="Key of the noise's state; else one in FOLDER.")
    ] = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", "-p", min=0, max=65535, help="0 takes any free one.")] = FOG_PORT,
    known_as: Annotated[
        list[str] | None, typer.Option("--known-as", help="A name or address that devices reach it under.")
    ] = None,
    name: Annotated[str, typer.Option("--name", help="What devices know it by; keep it for a generation.")] = "fog",
    database: Annotated[
        str | None, typer.Option("--database", help="postgresql://…; without it, SQLite in the folder.")
    ] = None,
    releases: Annotated[
        Path | None,
        typer.Option(
            "--releases", help="A cloud's repository: devices fetch from it, the fog gathers for what is in it."
        ),
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(
            "--root",
            help="The root.json to believe releases by. With --cloud and without --releases: keep a mirror of its own.",
        ),
    ] = None,
    invite: Annotated[
        list[str] | None, typer.Option("--invite", help="Print a one-time token that enrols this device.")
    ] = None,
    assist: Annotated[bool, typer.Option("--assist", help="Compute assists for devices (needs torch).")] = False,
    trusted: Annotated[
        bool, typer.Option("--trusted", help="Train for devices of the same owner: it sees what they observe.")
    ] = False,
    cloud: Annotated[
        str | None, typer.Option("--cloud", metavar="HOST:PORT", help="Hand what closes up to this cloud, over Flower.")
    ] = None,
    authority: Annotated[
        Path | None, typer.Option("--authority", help="The cloud's authority.crt, by which it is known.")
    ] = None,
    door: Annotated[
        int | None,
        typer.Option("--door", min=0, max=65535, help="Port on 127.0.0.1 for a SuperNode of yours; 0 takes any."),
    ] = None,
    gathering: Annotated[
        list[str] | None,
        typer.Option("--set", help="cohort=100, cohort_min, wait_s, rounds, separation, participations, clip …"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a fog over mutual TLS until SIGTERM or Ctrl+C: it takes in updates, sums cohorts, hands releases on.

    Say --epsilon 1, or --no-noise: nobody gets noise, or goes without, by not thinking of it. ε ≈ 1 needs thousands of
    devices; a handful cannot be private. Noise stays as it is within a generation. Past the budget the command ends
    with 6.

    With --releases it gathers for every release that is signed there, and opens a new generation once its release is
    everybody's: --release can be left out. What --set says is then for generations that open from now on; a clip that
    a generation is signed with goes before.

    A cloud on another machine has its releases there: with --cloud and --root the fog keeps a mirror of them, in
    FOLDER/mirror, once the cloud was given its key.

    With --cloud it starts Flower's SuperNode and SuperExec beside it, and names the public key that the cloud must be
    given (as FOLDER/flower/fogs/NAME.pub there); it serves devices whether or not the cloud answers.

    Its first start makes a certificate authority in FOLDER/authority, unless FOLDER holds ca.pem, server.pem,
    server.key and crl.pem from another one.

    Example: evergrove up fog ~/fog --release avatars --epsilon 1 --invite kitchen-display
    """
    missing = [
        needed for needed in ("starlette", "uvicorn", "sqlalchemy", "alembic", "tuf") if find_spec(needed) is None
    ]
    if missing:
        raise MissingDependency(f"a fog needs {', '.join(missing)}: pip install 'evergrove[grove]'")
    logging.basicConfig(stream=sys.stderr, format="%(levelname)s %(message)s", level=logging.WARNING)

    import asyncio

    from evergrove import bootstrap_fog
    from evergrove.web import fog_server
    from evergrove.web.server import listen_tcp

    budget = budget_of(epsilon, delta, lifetime, no_noise)
    if (cloud is None) != (authority is None):
        raise UsageError("--cloud HOST:PORT and --authority FILE go together: the cloud is known by that certificate")
    bound = fog_server.listen(host, port)
    behind = None
    try:
        behind = listen_tcp("127.0.0.1", door or 0) if cloud is not None or door is not None else None
        door_url = "" if behind is None else url(*behind.getsockname()[:2])
        place = bootstrap_fog.FogPlace(
            folder.expanduser().absolute(), name, tuple(known_as or (host,)), database, releases, assist, trusted,
            budget, noise_key, door_url, cloud or "", authority, root,
        )  # fmt: skip
        made = bootstrap_fog.open_fog(place, release or [], bootstrap_fog.gathering_of(gathering or []))
        facts: dict[str, object] = {
            "fog": name, "listening": url(*bound.getsockname()[:2]).replace("http:", "https:"), "ca": str(made.ca),
            "epsilon": budget.generation, "protection": made.service.noise.protection, "pid": os.getpid(), **made.keys,
            "door": door_url or None, "door_token": None if made.door_token is None else str(made.door_token),
            "cloud": cloud, "public_key": None if made.link is None else str(made.link.public_key),
            "invitations": {device: made.invite(device) for device in invite or []},
        }  # fmt: skip
        asyncio.run(made.run(bound, lambda: announce(facts, as_json), behind))
    finally:
        bound.close()
        if behind is not None:
            behind.close()


def budget_of(epsilon: float | None, delta: float, lifetime: float | None, no_noise: bool) -> "Budget":
    """What the options claim. Raises ``UsageError`` where they claim nothing, or two things."""
    from evergrove.runtime import fog_noise

    if no_noise == (epsilon is not None):
        raise UsageError(
            "say --epsilon 1 (private, for thousands of devices) or --no-noise (ε = ∞, for a fleet whose owner is "
            "trusted with what its devices learn)"
        )
    if epsilon is None:
        if lifetime is not None:
            raise UsageError("--lifetime-epsilon bounds nothing with --no-noise")
        return fog_noise.NO_BUDGET
    return fog_noise.budget_of(epsilon, delta, lifetime)


def announce(facts: dict[str, object], as_json: bool) -> None:
    """Say where the fog is, once it answers, and who is protected from whom."""
    if as_json:
        show.json(facts)
        sys.stdout.flush()
        return
    show.note(f"fog {facts['fog']} is up: {facts['listening']}")
    show.note(f"devices know it by {facts['ca']}")
    show.note(str(facts["protection"]))
    if facts["door"] is not None:
        show.note(f"sums are fetched from {facts['door']} with the token in {facts['door_token']}")
    if facts["cloud"] is not None:
        show.note(f"the cloud at {facts['cloud']} must be given {facts['public_key']}, as flower/fogs/NAME.pub")
    invitations = facts["invitations"]
    assert isinstance(invitations, dict)
    for device, token in invitations.items():
        show.note(f"token for {device}, good once and for a day: {token}")


def url(host: str, port: int) -> str:
    """``("::1", 8471)`` → ``http://[::1]:8471``."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
