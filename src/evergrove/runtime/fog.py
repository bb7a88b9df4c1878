"""A whole fog in one process: computes and signs assists, and trains what a device of the same owner hands over.

It is a library: the simulator, tests and a script may use it as they like; the network service stands around it. All
state is a folder of assists and two private keys. What a trusted request holds is in memory until it is trained (the
trainer's checkpoints hold weights and the teacher's points only, in a folder that is deleted), and is not kept. What is
alike and waits at the same time is trained in one pass (``runtime/together``).
"""

import threading
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path

from evergrove.adapters.assists import Assists
from evergrove.adapters.letters import open_letter, public_of, seal_letter
from evergrove.adapters.release import Release
from evergrove.core import transport
from evergrove.core.config import Learn
from evergrove.core.errors import InvalidArtefact, InvalidInput, UsageError
from evergrove.core.release import sha256_hex
from evergrove.learn import assist
from evergrove.learn.adapter import check_fit
from evergrove.learn.adapter_file import adapter_of_bytes
from evergrove.learn.strategies import Task
from evergrove.rules import trust
from evergrove.runtime import assembly
from evergrove.runtime.offload import ANSWER, REQUEST
from evergrove.runtime.together import Passes

VALID_S = 30 * 86_400.0
"""How long an assist's signature holds; the same body is signed anew when half of it is over."""
ANSWER_VALID_S = 86_400.0
RECORDS_MAX, STEPS_MAX, BATCH_MAX, VALUES_MAX = 4096, 20_000, 256, 1024
"""Greatest number of records, steps, rows of a batch and values of a factor in what one device may ask for."""


class LocalFog:
    """A fog for the ``releases`` given. ``signing_key`` (Ed25519) signs all that it gives; ``letter_key`` (X25519)
    opens trusted requests (None: it takes none). Thread-safe; one pass of training or computation at a time."""

    def __init__(
        self,
        folder: Path,
        releases: Iterable[Release],
        signing_key: bytes,
        letter_key: bytes | None,
        now_s: Callable[[], float],
        settings: assist.Settings | None = None,
        peer: str = "local fog",
    ) -> None:
        self._releases = {release.manifest_hash: release for release in releases}
        self._signing_key, self._letter_key = signing_key, letter_key
        self._now_s = now_s
        self._settings = settings or assist.Settings()
        self._peer = peer
        self._assists = Assists(folder, n_kept=max(4, 2 * len(self._releases)))
        self._lock = threading.Lock()
        self._preparing = threading.Lock()
        # A release's networks, the same for all whose requests are here, gone with the last of them.
        self._open: weakref.WeakValueDictionary[str, assembly.Parts] = weakref.WeakValueDictionary()
        self.passes = Passes(self._lock)
        self.n_computed = 0

    @property
    def peer(self) -> str:
        """The name that stands in the byte ledger."""
        return self._peer

    @property
    def assist_key(self) -> str:
        """What a device's ``fog.assist_key`` must be."""
        return trust.public_key(self._signing_key).hex()

    @property
    def trusted_key(self) -> str:
        """What the owner writes into ``fog.trusted_key``. Raises ``UsageError`` where this fog takes no such work."""
        if self._letter_key is None:
            raise UsageError("this fog takes no trusted work: it was started without a letter key")
        return public_of(self._letter_key).hex() + self.assist_key

    def assist(self, release: str) -> bytes:
        """The signed assist of a release: computed once, kept, and signed anew before its signature ends.

        Raises ``UsageError`` for a release that this fog does not serve.
        """
        with self._lock:
            opened = self._release(release)
            label = assist.recipe(release, self._settings)
            name = self._assists.find(label)
            if name is not None:
                stored = self._assists.load(name)
                expected = trust.Expected("assist", release, trust.public_key(self._signing_key), len(stored))
                try:
                    trust.verify(stored, expected, self._now_s() + VALID_S / 2)
                    return stored
                except InvalidArtefact:
                    body = trust.body_of(stored)  # half of its time is over, or the key has changed: sign it anew
            else:
                released = assembly.released(assembly.open_parts(opened), with_teacher=True)
                body = assist.compute(released, self._settings)
                self.n_computed += 1
            data = trust.sign(self._signing_key, "assist", release, body, self._now_s() + VALID_S)
            self._assists.put(label, data)
            return data

    def trusted(self, request: bytes) -> bytes:
        """Opens a request, trains the very task that the device would have, and answers with the candidate.

        Called from several threads at once, it trains what is alike in one pass. Raises ``InvalidInput`` or
        ``UsageError`` for a request that is not understood, for another key, or not allowed; ``Unreachable`` once the
        fog is closed.
        """
        message = transport.decode(request)
        if not isinstance(message, transport.TrustedRequest):
            raise InvalidInput(f"a {message.category} was sent to where trusted work is done")
        if self._letter_key is None:
            raise UsageError("this fog takes no trusted work")
        # 1. Checked and prepared, beside what is being trained; one at a time, for the sake of memory.
        with self._preparing:
            parts = self._parts(message.release)
            content = open_letter(self._letter_key, REQUEST, message.letter, transport.REQUEST_BYTES_MAX)
            work = transport.decode_work(content)
            task = _task(parts, message, work)
        # 2. Trained, with others where they are alike.
        result = self.passes.result(task)
        # 3. Signed for this very request, and sealed for its sender.
        signed = trust.sign(
            self._signing_key,
            "candidate",
            message.release,
            transport.encode_work(result),
            self._now_s() + ANSWER_VALID_S,
            about=sha256_hex(request),
        )
        return seal_letter(work.reply_to, ANSWER, signed)

    def close(self) -> None:
        """Trains nothing more; who waits for it is told."""
        self.passes.close()

    def _parts(self, name: str) -> assembly.Parts:
        """Callers hold what they get until their task is trained: who comes meanwhile gets the same objects."""
        parts = self._open.get(name)
        if parts is None:
            parts = self._open[name] = assembly.open_parts(self._release(name))
        return parts

    def _release(self, name: str) -> Release:
        if name not in self._releases:
            raise UsageError(f"this fog does not serve the release {name[:12]}…; it serves {len(self._releases)}")
        return self._releases[name]


def _task(parts: assembly.Parts, message: transport.TrustedRequest, work: transport.TrustedWork) -> Task:
    """What is to be trained. Everything in the work is checked first: it is from outside, even where the owner is the
    same."""
    _check(parts, message, work)
    n_px, n_factors = parts.release.manifest.image_px, len(work.vocabulary.factors)
    start = None if work.parent is None else adapter_of_bytes(work.parent, "the incumbent that was sent")
    if start is not None:
        check_fit(parts.model, parts.basis, start)
    lesson = assembly.Lesson(
        new=assembly.samples_of(((s.media, s.code) for s in work.fresh), n_px, n_factors),
        known=assembly.samples_of(((s.media, s.code) for s in work.known), n_px, n_factors),
        start=start,
        vocabulary=work.vocabulary,
        seed=work.seed,
    )
    learn = Learn(work.strategy, steps=work.steps, batch=work.batch, rate=work.rate, checkpoint_every=work.steps)
    return assembly.task_of(parts, lesson, learn)


def _check(parts: assembly.Parts, message: transport.TrustedRequest, work: transport.TrustedWork) -> None:
    """Raises ``InvalidInput`` where the work is too much, of another release, or does not fit together."""
    released = parts.release.manifest.vocabulary
    if work.release != message.release:
        raise InvalidInput("the work in the letter is of another release than its envelope")
    if not 1 <= len(work.fresh) <= RECORDS_MAX or len(work.known) > RECORDS_MAX:
        raise InvalidInput(f"{len(work.fresh)} + {len(work.known)} records; 1 to {RECORDS_MAX} of each are taken")
    if not (1 <= work.steps <= STEPS_MAX and 1 <= work.batch <= BATCH_MAX):
        raise InvalidInput(f"{work.steps} steps of {work.batch}; at most {STEPS_MAX} of {BATCH_MAX} are taken")
    if not 0.0 <= work.rate <= 1.0:
        raise InvalidInput(f"a learning rate of {work.rate}; 0 (the strategy's own) to 1 are taken")
    if work.vocabulary.names != released.names or any(
        mine.values[: len(theirs.values)] != theirs.values or len(mine.values) > VALUES_MAX
        for mine, theirs in zip(work.vocabulary.factors, released.factors, strict=True)
    ):
        raise InvalidInput("the work's conditions do not extend the release's")
    sizes = work.vocabulary.sizes
    for shown in (*work.fresh, *work.known):
        if len(shown.code) != len(sizes) or not all(0 <= n <= size for n, size in zip(shown.code, sizes, strict=True)):
            raise InvalidInput("a record's condition is outside of the work's vocabulary")
