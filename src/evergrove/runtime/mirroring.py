"""A fog's mirror of its cloud's releases, where these lie on another machine: verified, then handed on to devices.

The cloud's door (``web/fleet_door``) gives the files to a fog that signs with its key. What arrives is believed only
down the chain from the root that the operator carried here, and the mirror stays what it was until all of it is.
"""

import logging
from collections.abc import Callable
from pathlib import Path

import httpx

from evergrove.adapters.certificates import client_context
from evergrove.adapters.clock import elapsed_s
from evergrove.adapters.files import Files, read_bounded
from evergrove.adapters.fog_pass import FogPass
from evergrove.adapters.tuf_client import check_root, from_http
from evergrove.adapters.tuf_metadata import METADATA_BYTES_MAX
from evergrove.adapters.tuf_mirror import ReleaseMirror
from evergrove.core.errors import CorruptState, EvergroveError, UsageError
from evergrove.runtime import flower

EVERY_S, TIMEOUT_S, FILE_S_MAX = 10.0, 30.0, 600.0
REPOSITORY, ROOT = "repository", "root.json"
log = logging.getLogger("evergrove.fog")


class Mirror:
    """Of one cloud's repository, in ``repository``. ``look`` may be called from any thread, by one at a time."""

    def __init__(self, client: ReleaseMirror, cloud: str, close: Callable[[], None] = lambda: None) -> None:
        """``close`` ends the connection that the client has."""
        self.repository = client.folder / REPOSITORY
        self._client, self._cloud, self.close = client, cloud, close
        self._next_s, self._fault = 0.0, ""

    def look(self) -> None:
        """Brings the mirror to what is signed, every ten seconds at most. A fault is said once and tried again."""
        if elapsed_s() < self._next_s:
            return
        try:
            if self._client.mirror(self.repository):
                log.warning("what %s has signed is here now", self._cloud)
            self._fault = ""
        except EvergroveError as fault:
            if str(fault) != self._fault:
                log.error("%s is not mirrored now, devices get what is here: %s", self._cloud, fault)
            self._fault = str(fault)
        finally:
            self._next_s = elapsed_s() + EVERY_S


def mirror_of(folder: Path, fog: flower.Fog, root: Path, files: Files) -> Mirror:
    """The mirror in ``folder`` of the cloud that ``fog`` hands its sums to.

    Raises ``UsageError`` where there is no ``root``, it is another one than before, or the cloud's address or
    certificate is none, ``InvalidArtefact`` where the root is none.
    """
    try:
        url = str(httpx.URL(f"https://{fog.superlink}/v1/releases"))
    except httpx.InvalidURL as fault:
        raise UsageError(f"--cloud {fog.superlink}: {fault}; it is HOST:PORT, an IPv6 address in [brackets]") from fault
    try:
        context = client_context(fog.authority)
    except CorruptState as fault:
        raise UsageError(f"{fog.authority} is no certificate; it is the authority.crt of the cloud") from fault
    believed = given_root(root)
    pin(folder / ROOT, believed, files)
    private = flower.private_key(fog.folder, files)
    http = httpx.Client(verify=context, auth=FogPass(private), timeout=TIMEOUT_S, trust_env=False)
    client = ReleaseMirror(folder, from_http(http, url, FILE_S_MAX), believed, files)
    return Mirror(client, f"the cloud at {fog.superlink}", http.close)


def given_root(root: Path) -> bytes:
    """The root that a person names. Raises ``UsageError`` where there is none, ``InvalidArtefact``."""
    try:
        data = read_bounded(root, METADATA_BYTES_MAX)
    except FileNotFoundError as fault:
        raise UsageError(f"there is no '{root}': --root names the root.json that the cloud gave") from fault
    check_root(data)
    return data


def pin(place: Path, root: bytes, files: Files) -> None:
    """From now on this root is believed. Raises ``UsageError`` where another one is already."""
    files.make_folder(place.parent)
    if not place.exists():
        files.write(place, root)
    elif read_bounded(place, METADATA_BYTES_MAX) != root:
        raise UsageError(
            f"this fog believes another root, {place}: name that one, or delete the folder {place.parent} to begin anew"
        )
