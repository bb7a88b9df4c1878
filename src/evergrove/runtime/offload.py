"""A device's side of offloading: fetch an assist, or hand a whole training step to the fog that the user owns.

An order of the reducer comes in, the fact that answers it goes out, and every byte that leaves is told to the ledger
*before* it is sent. No torch here. Both calls block, for minutes perhaps: run them beside the agent's loop.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from evergrove.adapters.assists import Assists
from evergrove.adapters.letters import new_key_pair, open_letter, padded_size, seal_letter
from evergrove.adapters.relabel import nameless, relabel, vocabulary_of
from evergrove.adapters.release import Release
from evergrove.adapters.vault import Record, Vault
from evergrove.adapters.versions import Versions
from evergrove.core import effects as do
from evergrove.core import events as ev
from evergrove.core import transport
from evergrove.core.conditions import Vocabulary
from evergrove.core.config import Config
from evergrove.core.errors import EvergroveError, InvalidInput, UsageError
from evergrove.core.ports import Fog
from evergrove.core.release import sha256_hex
from evergrove.rules import trust
from evergrove.runtime.workers import strategy_of

REQUEST, ANSWER = "evergrove.trusted.request.1", "evergrove.trusted.answer.1"
ASSISTS = "assists"
LETTER_OVERHEAD = 64


@dataclass(frozen=True)
class Fogs:
    """The fogs that this device can reach; None where there is none."""

    assist: Fog | None = None
    trusted: Fog | None = None


class Offload:
    """Asks the fogs. ``ledger`` is told of every sending before it happens, and may raise to stop it."""

    def __init__(
        self,
        root: Path,
        config: Config,
        release: Release,
        vault: Vault,
        versions: Versions,
        fogs: Fogs,
        now_s: Callable[[], float],
        ledger: Callable[[ev.BytesSent], None],
    ) -> None:
        self._config = config
        self._release = release
        self._vault = vault
        self._versions = versions
        self._fogs = fogs
        self._now_s = now_s
        self._ledger = ledger
        self._assists = Assists(root / ASSISTS, n_kept=2)

    def fetch(self, order: do.FetchAssist) -> ev.AssistReceived | ev.OffloadFailed:
        """The assist of the release: the stored one while its signature holds, else the fog's, verified and stored."""
        try:
            sha256, n_bytes = self._fetched(order)
            return ev.AssistReceived(order.job, sha256, n_bytes)
        except EvergroveError as fault:
            return ev.OffloadFailed(order.job, "assisted", str(fault))

    def hand_over(self, order: do.SendTrusted, seed: int) -> ev.TrainingFinished | ev.OffloadFailed:
        """Sends kept observations and B, sealed for the named key; the candidate that comes back lies in the versions
        folder, unjudged: it goes through the same golden gate as one that was trained here."""
        try:
            return self._handed_over(order, seed)
        except EvergroveError as fault:
            return ev.OffloadFailed(order.job, "trusted", str(fault))

    # ---- assisted -------------------------------------------------------------------------------------------------

    def _fetched(self, order: do.FetchAssist) -> tuple[str, int]:
        fog = self._fogs.assist
        if not self._config.fog.assist_key or fog is None:
            raise UsageError("no fog gives assists to this device: name its key in fog.assist_key")
        if order.release != self._release.manifest_hash:
            raise UsageError(f"the release {order.release[:12]}… is not the one that this device runs")
        stored = self._assists.find(order.release)
        if stored is not None:
            try:
                trust.verify(self._assists.load(stored), self._expected(), self._now_s())
                return stored, 0
            except InvalidInput:
                pass  # expired, or of another key than is named today: ask again
        message = transport.request_of(order)
        self._ledger(ev.BytesSent(message.category, len(transport.encode(message)), fog.peer))
        data = fog.assist(order.release)
        trust.verify(data, self._expected(), self._now_s())
        return self._assists.put(order.release, data), len(data)

    def _expected(self) -> trust.Expected:
        fog = self._config.fog
        return trust.Expected(
            "assist", self._release.manifest_hash, bytes.fromhex(fog.assist_key), fog.assist_bytes_max
        )

    # ---- trusted --------------------------------------------------------------------------------------------------

    def _handed_over(self, order: do.SendTrusted, seed: int) -> ev.TrainingFinished:
        # 1. Refused unless the user has named the fog by its key.
        keys, fog = bytes.fromhex(self._config.fog.trusted_key), self._fogs.trusted
        if not keys or fog is None:
            raise UsageError("no trusted fog: nothing leaves this device unless fog.trusted_key names your own fog")
        reader, signer, limit = keys[:32], keys[32:], self._config.fog.trusted_bytes_max
        # 2. What the training needs, by numbers: the user's own names stay here.
        private, public = new_key_pair()
        released = self._release.manifest.vocabulary
        vocabulary = self._vault.names() or released
        content = transport.encode_work(self._work(order, seed, public, vocabulary))
        if padded_size(len(content)) + LETTER_OVERHEAD > limit:
            raise UsageError(f"{len(content)} bytes of work, padded, are more than fog.trusted_bytes_max = {limit}")
        message = transport.TrustedRequest(self._release.manifest_hash, seal_letter(reader, REQUEST, content))
        request = transport.encode(message)
        # 3. Into the ledger, then over the line.
        self._ledger(ev.BytesSent(message.category, len(request), fog.peer))
        answer = fog.trusted(request)
        # 4. Nothing is believed before its signature, over this very request.
        signed = open_letter(private, ANSWER, answer, limit)
        expected = trust.Expected("candidate", message.release, signer, limit, about=sha256_hex(request))
        result = transport.decode_result(trust.verify(signed, expected, self._now_s()))
        if vocabulary_of(result.candidate) != nameless(vocabulary, released):
            raise InvalidInput("the fog's candidate does not understand the conditions that it was asked for")
        candidate = relabel(result.candidate, vocabulary)
        sha256 = self._versions.add(candidate)
        return ev.TrainingFinished(order.job, sha256, result.steps, result.seconds, result.loss, len(candidate))

    def _work(self, order: do.SendTrusted, seed: int, reply_to: bytes, vocabulary: Vocabulary) -> transport.TrustedWork:
        released = self._release.manifest.vocabulary
        wanted = set(order.fresh)
        records = list(self._vault.all("train"))

        def shown(record: Record) -> transport.Shown:
            return transport.Shown(record.media, vocabulary.encode(record.condition))

        fresh = tuple(shown(r) for r in records if r.id in wanted)
        if not fresh:
            raise UsageError("none of the observations to learn is left in the replay buffer")
        parent = None if order.parent is None else self._versions.load(order.parent)
        return transport.TrustedWork(
            release=self._release.manifest_hash,
            vocabulary=nameless(vocabulary, released),
            # It may know fewer conditions than the device does by now.
            parent=None if parent is None else relabel(parent, nameless(vocabulary_of(parent), released)),
            fresh=fresh,
            known=tuple(shown(r) for r in records if r.id not in wanted),
            strategy=strategy_of(self._config),
            steps=order.steps,
            batch=self._config.learn.batch,
            seed=seed,
            reply_to=reply_to,
            rate=self._config.learn.rate,
        )


def reachable(fogs: Fogs, config: Config) -> tuple[bool, bool]:
    """Whether assists and the trusted fog may be asked at all: a fog is there, and the configuration names its key."""
    return (
        fogs.assist is not None and bool(config.fog.assist_key),
        fogs.trusted is not None and bool(config.fog.trusted_key),
    )
