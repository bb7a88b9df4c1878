"""What `evergrove audit` finds in a folder: bytes by kind, ε by generation and release, who is trusted, what is wrong.

Reads only (a fog's database may be brought up to date at opening); an agent, a fog or a cloud may be at work meanwhile.
A broken chain and a claim that is exceeded are *faults*; everything else that can be read is told all the same.
"""

import contextlib
import math
from functools import partial
from pathlib import Path

import msgspec

from evergrove.adapters.fog_store import FogStore
from evergrove.adapters.log import Codec, EventLog
from evergrove.adapters.tuf_repository import Repository
from evergrove.core import cloud_events, events
from evergrove.core.config import Config
from evergrove.core.errors import CorruptState, InvalidInput, UsageError
from evergrove.core.release import Publication
from evergrove.rules.privacy import books
from evergrove.rules.privacy import ledger as ledgers
from evergrove.rules.privacy.history import Entry
from evergrove.rules.privacy.ledger import Budget, Ledger, Line
from evergrove.rules.privacy.plan import NoisePlan
from evergrove.runtime.driver import recover
from evergrove.tiers import cloud as cloud_tier
from evergrove.tiers import device as tier
from evergrove.views import spending
from evergrove.views.byte_ledger import Sending, book

CLOSE = 1e-6
"""Two computations of one ε differ by less."""
ALONE = (
    "This device's owner, and whoever may read its files, sees all that is on it; observations are encrypted at rest.",
)
FLEET = (
    "The home fog's operator sees this device's single updates, until they are summed.",
    "The cloud and everybody else see sums of cohorts and releases only; ε protects against them.",
    "Health reports (accepted, rejected, rolled back) reach the cloud by name and stand outside ε.",
)
TRUSTED = (
    "The trusted fog that fog.trusted_key names sees kept observations and the personal adapter, by its owner's wish."
)
FOG = (
    "This fog's operator sees single updates until they are summed: there is no ε against that operator.",
    "The cloud and whoever reads a release see noised sums; ε protects the devices against them.",
    "If one operator runs fog and cloud, there is no differential privacy from that operator.",
)
CLOUD = (
    "This cloud sees sums of cohorts and counts of norms, noised together; devices' words on releases stand outside ε.",
    "Each fog's operator sees the single updates of its own devices.",
    "If one operator runs fog and cloud, there is no differential privacy from that operator.",
)


class Told(msgspec.Struct, frozen=True):
    """What a device's home fog says of the generation that it gathers for; ``epsilon`` None: no bound."""

    fog: str
    generation: int
    epsilon: float | None
    protection: str


class Findings(msgspec.Struct, frozen=True):
    """Everything that was found. ``events`` rows were checked; ``faults`` are sentences, none where all is well.

    ``sent`` is the byte ledger, ``trust`` says who is trusted with what. A fog has ``delta``, ``budget`` (of a
    generation and of a lifetime; None: no bound), ``streams`` and ``rounds``; a cloud ``releases`` and ``streams``, of
    all fogs by its own ledgers; a device ``told``.
    """

    kind: str
    name: str
    events: int
    sent: tuple[Sending, ...]
    trust: tuple[str, ...]
    faults: tuple[str, ...] = ()
    delta: float | None = None
    budget: tuple[float | None, float | None] | None = None
    streams: tuple[Line, ...] = ()
    rounds: tuple[Entry, ...] = ()
    releases: tuple[spending.Release, ...] = ()
    told: Told | None = None


def kind_of(folder: Path) -> str:
    """device, fog or cloud. Raises ``UsageError`` for a folder that is none."""
    for name, kind in (("identity.json", "device"), ("repository", "cloud"), ("fog", "fog")):
        if (folder / name).exists():
            return kind
    raise UsageError(
        f"{folder}: neither a device, nor a fog, nor a cloud; say the folder that `evergrove init`, `up fog` or `keys "
        "create` made"
    )


def audit_device(folder: Path, config: Config, codec: Codec[events.Event]) -> Findings:
    """A device's log, checked row by row, and its byte ledger against the sums that its state holds."""
    faults: list[str] = []
    held: list[Sending] = []
    log = EventLog(folder / "log.sqlite", codec, read_only=True)
    sums: list[Sending] = []
    state, n = tier.State(), 0
    with contextlib.closing(log):
        try:
            for row in log.replay(log.first_seq - 1):
                n += 1
                if isinstance(row.event, events.BytesSent):
                    held.append(Sending(row.event.category, row.event.peer, 1, row.event.n_bytes, row.at_s))
            state, _ = recover(partial(tier.step, config), log)
            sums = [Sending(one.category, one.peer, one.n, one.n_bytes) for one in state.sent]
            held = list(book(held, sums))
        except CorruptState as fault:
            faults.append(str(fault))
    terms = state.sharing.terms
    trust = ALONE + (FLEET if config.fleet.fog else ()) + ((TRUSTED,) if config.fog.trusted_key else ())
    told = None if terms is None else Told(terms.fog, terms.generation, terms.epsilon, terms.protection)
    return Findings("device", state.device, n, tuple(held), trust, tuple(faults), told=told)


def audit_fog(folder: Path, database: str | None = None) -> Findings:
    """A fog's ε ledger, its chained history line by line, and what it has handed up."""
    if database is None and not (folder / "fog" / "fog.db").exists():
        raise UsageError(f"{folder / 'fog'}: there is no database; name it by --database, as at `evergrove up fog`")
    store = FogStore(folder / "fog", database)
    with contextlib.closing(store):
        faults: list[str] = []
        entries: tuple[Entry, ...] = ()
        ledger = Ledger()
        try:
            ledger = store.ledger()
            entries = store.history()
        except CorruptState as fault:
            faults.append(str(fault))
        sent = tuple(Sending("cohort_sum", "cloud", 1, n_bytes, at_s) for n_bytes, at_s in store.sums_made())
    faults += _past_budget(ledger) + _understated(ledger, entries)
    name = ledger.streams[-1].plan.fog if ledger.streams else folder.name
    budget = ledger.budget.generation, ledger.budget.lifetime
    return Findings(
        "fog", name, len(entries), sent, FOG, tuple(faults), ledger.budget.delta, budget, ledgers.lines(ledger), entries
    )


def latest_stream(folder: Path, database: str | None = None) -> tuple[NoisePlan, Budget]:
    """A fog's newest noise stream, to be attacked. Raises ``UsageError`` where there is none, or none with noise."""
    store = FogStore(folder / "fog", database)
    with contextlib.closing(store):
        ledger = store.ledger()
    noisy = [one.plan for one in ledger.streams if one.plan.multiplier is not None]
    if not noisy:
        raise UsageError(f"{folder}: this fog has never added noise (ε = ∞): there is no claim to attack")
    return noisy[-1], ledger.budget


def audit_cloud(folder: Path) -> Findings:
    """A cloud's log, checked row by row, each release: what was signed of it, against what its cohorts cost; its books.

    What was charged before the oldest row that the log still has is in its snapshot; charged again, nothing is twice.
    """
    faults: list[str] = []
    charged: dict[str, Ledger] = {}
    rows: list[tuple[float, cloud_events.CloudEvent]] = []
    if (folder / "log").exists():
        log = EventLog(folder / "log", Codec(cloud_events.encode, cloud_events.decode), read_only=True)
        with contextlib.closing(log):
            try:
                saved = log.latest_snapshot()
                charged = {} if saved is None else msgspec.json.decode(saved[1], type=cloud_tier.State).books
                for row in log.replay(log.first_seq - 1):
                    rows.append((row.at_s, row.event))
                    charged = _charged(charged, row.event)
            except (CorruptState, InvalidInput, msgspec.MsgspecError) as fault:
                faults.append(str(fault))
    repository = Repository(folder / "repository")
    published: tuple[Publication, ...] = repository.publications() if repository.exists else ()
    releases = spending.releases((event for _, event in rows), published)
    faults += [
        f"version {one.version} ({one.release[:12]}) says ε = {_word(one.claimed)}, its cohorts cost {_word(one.spent)}"
        for one in releases
        if one.exceeded
    ]
    sent = tuple(
        Sending("received: cohort_sum", event.cohort.fog, 1, event.cohort.n_bytes, at_s)
        for at_s, event in rows
        if isinstance(event, cloud_events.CohortReceived)
    )
    streams = books.lines(charged)
    return Findings("cloud", folder.name, len(rows), sent, CLOUD, tuple(faults), streams=streams, releases=releases)


def _charged(before: dict[str, Ledger], event: cloud_events.CloudEvent) -> dict[str, Ledger]:
    """A cloud's books after one of its facts."""
    if not isinstance(event, cloud_events.CohortReceived) or event.noise is None:
        return before
    one = event.cohort
    return books.booked(before, one.fog, event.noise, one.generation, one.number)


def _past_budget(ledger: Ledger) -> list[str]:
    """Streams whose ε is past the budget: the ledger refuses that, so one of them was altered."""
    faults, budget = [], ledger.budget
    for line in ledgers.lines(ledger):
        for what, bound, spent in (
            (f"generation {line.generation} at '{line.fog}'", budget.generation, line.epsilon),
            (f"a lifetime up to generation {line.generation}", budget.lifetime, line.epsilon_lifetime),
        ):
            if bound is not None and (spent is None or spent > bound * (1 + CLOSE)):
                faults.append(f"{what} has spent ε = {_word(spent)}; the budget is {bound:g}")
    return faults


def _understated(ledger: Ledger, entries: tuple[Entry, ...]) -> list[str]:
    """Lines of the history that say less than their plan and round really cost."""
    faults = []
    for n, entry in enumerate(entries, 1):
        stream = ledger.find(entry.generation, entry.fog)
        if stream is None or stream.plan.digest != entry.plan:
            faults.append(f"line {n} of the ε ledger is of a noise plan that the ledger does not know")
            continue
        alone = Ledger(ledger.budget, (msgspec.structs.replace(stream, rounds=entry.cohort + 1),))
        spent = alone.epsilon_generation(entry.generation)
        if (math.inf if entry.epsilon is None else entry.epsilon) < spent * (1 - CLOSE):
            faults.append(
                f"line {n} of the ε ledger says that generation {entry.generation} at '{entry.fog}' has spent "
                f"{_word(entry.epsilon)}; its plan costs {_word(spent)}"
            )
    return faults


def _word(epsilon: float | None) -> str:
    return "∞" if epsilon is None or math.isinf(epsilon) else f"{epsilon:.4g}"
