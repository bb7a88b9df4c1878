"""A fog that follows a repository of signed releases: what is published there, it gathers for, without a restart.

It reads the repository as a device does, down the chain of signatures from one root: given, or the repository's first,
pinned in the fog's folder at the first look. What does not verify changes nothing and is said once. Everything durable
is the plan in the fog's store, opened in one transaction, so a kill at any instant leaves the old plan or the new one.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from evergrove.adapters.files import Files, read_bounded
from evergrove.adapters.tuf_client import ReleaseClient, Survey, from_folder
from evergrove.adapters.tuf_metadata import METADATA_BYTES_MAX
from evergrove.core.errors import EvergroveError
from evergrove.core.fog import Plan
from evergrove.core.release import Manifest, sha256_hex
from evergrove.core.sections import Gathering
from evergrove.rules import following, params
from evergrove.runtime.fog_service import FogService, plan_of
from evergrove.runtime.mirroring import ROOT, given_root, pin

FIRST_ROOT = "metadata/1.root.json"
REST = 30
"""Looks, one a second, that pass after a fault before the same repository is tried again."""
log = logging.getLogger("evergrove.fog")


class Follower:
    """Of one repository. ``look`` may be called from any thread, by one at a time."""

    def __init__(
        self, service: FogService, repository: Path, gathering: Gathering, client: Callable[[], ReleaseClient | None]
    ) -> None:
        """``gathering``: for generations that open from now on, but for a clip that one is signed with.

        ``client`` gives None while there is nothing to read, see ``client_of``.
        """
        self._service, self._repository, self._gathering, self._make = service, repository, gathering, client
        self._client: ReleaseClient | None = None
        self._seen, self._rest, self._fault = "", 0, ""
        self._signed = Survey(None, (), {})
        self._odd: set[str] = set()

    def look(self, tag: str) -> None:
        """Brings the plan to what is signed. ``tag`` changes with the repository; "" while there is none."""
        if tag == self._seen and self._rest > 0:
            self._rest -= 1
            return
        try:
            if tag and (tag != self._seen or self._fault):
                self._client = self._client or self._make()
                if self._client is not None:
                    self._signed = self._client.survey(following.RELEASES_MAX)
            self._follow()
            self._rest, self._fault = 0, ""
        except EvergroveError as fault:
            if str(fault) != self._fault:
                log.error("%s is not followed now, what is gathered stays as it is: %s", self._repository, fault)
            self._rest, self._fault = REST, str(fault)
        self._seen = tag

    def _follow(self) -> None:
        """1. The fleet's generation. 2. A new one is opened. 3. Within it, the releases that have come since."""
        plan, known = self._service.plan, self._signed.publications
        if not known:
            return
        current = following.everybodys(self._signed.directive, known[-1].version)
        name = next((one.release for one in known if one.version == current), "")
        found = self._signed.manifests.get(name)
        if found is not None and (plan is None or found.generation > plan.generation):
            self._open(found)
        elif found is not None and plan is not None and found.generation < plan.generation:
            self._once(f"back to {current}", _behind(current, found.generation, plan.generation))
        if (plan := self._service.plan) is not None and not self._service.spent:
            self._add(plan)

    def _open(self, manifest: Manifest) -> None:
        """The generation of this release, with all that is signed of it."""
        assert self._client is not None, "the release was read by it"
        base, basis = self._client.contents((manifest.base, manifest.basis))
        layout = params.layout_of(manifest, base, basis)
        plan = plan_of(layout, self._admitted((), layout), self._gathering, manifest.clip)
        self._service.open(plan, layout)
        log.warning(
            "generation %d is open; releases that it gathers for: %d; clip %g",
            plan.generation, len(plan.releases), plan.clip,
        )  # fmt: skip

    def _add(self, plan: Plan) -> None:
        layout = self._service.layout(plan.generation)
        releases = self._admitted(plan.releases, layout)
        if releases != plan.releases:
            self._service.open(msgspec.structs.replace(plan, releases=releases), layout)
            log.warning("generation %d: releases that it gathers for now: %d", plan.generation, len(releases))

    def _admitted(self, known: Sequence[str], layout: params.Layout) -> tuple[str, ...]:
        """These and what is signed of the same layout."""
        versions = {one.release: one.version for one in self._signed.publications}
        fresh = []
        for release, manifest in self._signed.manifests.items():
            if following.belongs(manifest, layout):
                fresh.append(release)
            elif manifest.generation == layout.generation:
                self._once(release, _other(versions[release], manifest.generation))
        return following.admitted(known, fresh, versions)

    def _once(self, key: str, words: str) -> None:
        if key not in self._odd:
            self._odd.add(key)
            log.warning("%s", words)


def client_of(
    folder: Path, repository: Path, root: Path | None, files: Files, now_s: Callable[[], float] | None = None
) -> Callable[[], ReleaseClient | None]:
    """What reads the repository for a fog that keeps what it trusts in ``folder``; None while it has no root.

    ``root`` None: the repository's first is believed, and pinned; nobody vouches for it, so that is said. Raises
    ``UsageError`` where another root than the given one is pinned, or there is none, ``InvalidArtefact`` for no root.
    """
    place = folder / ROOT
    if root is not None:
        pin(place, given_root(root), files)

    def make() -> ReleaseClient | None:
        if not place.exists():
            try:
                first = read_bounded(repository / FIRST_ROOT, METADATA_BYTES_MAX)
            except FileNotFoundError:
                return None
            log.warning(
                "TRUST ON FIRST USE: nobody vouched for the root of %s (SHA-256 %s). It is pinned in %s and believed "
                "from now on; compare it with the cloud's, or name a root that you have checked with --root",
                repository, sha256_hex(first), place,
            )  # fmt: skip
            pin(place, first, files)
        return ReleaseClient(folder, from_folder(repository), read_bounded(place, METADATA_BYTES_MAX), files, now_s)

    return make


def passed_over(plan: Plan | None, layout: params.Layout, names: Sequence[str]) -> bool:
    """Whether releases that a person named are of a generation that this fog has left; it is said."""
    if plan is None or layout.generation >= plan.generation:
        return False
    log.warning(
        "%s: of generation %d, and %d is open already; it is passed over",
        ", ".join(names), layout.generation, plan.generation,
    )  # fmt: skip
    return True


def _other(version: int, generation: int) -> str:
    return (
        f"version {version} is of generation {generation} too, but of another base, A or vocabulary than what is "
        "gathered: its devices take part from the next generation on"
    )


def _behind(version: int, generation: int, gathered: int) -> str:
    return (
        f"the fleet went back to version {version} of generation {generation}; this fog is in {gathered} already and "
        "cannot go back: it gathers again from the next generation on"
    )
