"""The sections of the configuration: every limit of the program, with its unit in its name, its range in its type."""

from dataclasses import dataclass
from typing import Annotated

import msgspec


@dataclass(frozen=True)
class Range:
    """What a number must be, and the words for it: between ``low`` (left out where ``above``) and ``high``."""

    words: str
    low: float = 0.0
    high: float = float("inf")
    above: bool = False

    def holds(self, value: float) -> bool:
        """Whether ``value`` lies within; NaN does not."""
        return (value > self.low if self.above else value >= self.low) and value <= self.high


NATURAL = Range("0 or more")
"""What every number must be whose type says nothing else: none of them may be negative, or no number at all."""
ABOVE_ZERO = Range("greater than 0", above=True)
Count = Annotated[int, ABOVE_ZERO]
Positive = Annotated[float, ABOVE_ZERO]
Share = Annotated[float, Range("between 0 and 1", high=1.0)]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, cache_hash=True):
    """Base of the sections: frozen, and strict about its keys."""


class Novelty(Section, frozen=True):
    """What is worth keeping (DESIGN §5)."""

    capacity_per_condition: Count = 24
    """Training records kept of one condition; the golden split comes on top."""
    surprise_share: Share = 0.2
    """Part of the reservoir that is chosen by surprise, 0-1; the rest is uniform."""
    near_duplicate_distance: float = 1.0
    """Below this multiple of the measured re-encoding distance, a picture is a near duplicate."""
    golden_every: Count = 5
    """Of a new condition every n-th kept observation goes to the device's own golden set."""
    golden_capacity: Count = 12
    """Items of one new condition in the device's own golden set."""
    new_values_max: Count = 256
    """Values beside the release's that the device may come to know, of all factors together; one more is refused."""


class Replay(Section, frozen=True):
    """Bounds of the encrypted replay buffer."""

    n_bytes_max: Count = 64 << 20
    n_records_max: Count = 2000


class Media(Section, frozen=True):
    """Limits on what an app may hand over, checked before decoding."""

    n_bytes_max: int = 16 << 20
    pixels_max: int = 40_000_000
    side_px_min: int = 8


OURS, SHARED = "evergrove", "shared"
"""Our own strategy in the form that suits base and fleet, and with one B for all whatever the base is."""


class Learn(Section, frozen=True):
    """One learning job: strategy, budget and retries."""

    strategy: str = OURS
    """``evergrove``: ours. Where the base knows one factor and the device gives to no fleet, each condition gets a B of
    its own (ADR 0028); else one B is shared, as ``shared`` does everywhere. Rivals go by their names."""
    auto: bool = True
    """Start by itself once ``min_new`` observations wait; otherwise only on ``learn()``."""
    min_new: Count = 24
    steps: Count = 350
    batch: Count = 16
    rate: Share = 0.0
    """Peak learning rate; 0: the strategy's own. A shorter job of few pictures harms less at a lower one."""
    checkpoint_every: Count = 25
    """Steps between checkpoints: what a killed trainer can lose at most."""
    attempts_max: Count = 5
    """Starts of one job before it is given up."""
    timeout_s: Positive = 3600.0
    threads: Count = 1
    relearn_steps: int = 40
    """Steps by which a device learns its own pictures again on a release that arrives, at a rate that falls with their
    number; 0: it takes along B alone."""


class Gate(Section, frozen=True):
    """Margins of the golden gate (DESIGN §5), in units of what a condition is worth: 1 is not knowing it (ADR 0005).

    Measured on avatars: candidates with a harm of .02-.19 keep 97-99 % of the old faces right, one of .2-1.4 keeps
    60 %.
    """

    delta: Positive = 0.15
    """Harm of one update against what serves now."""
    cumulative: Positive = 0.30
    """Harm of all updates together against the signed release."""
    tau: Positive = 0.20
    """How much further from the teacher than the release is."""
    own: Positive = 0.25
    """Harm of one update on a condition that the device learnt itself and has few golden items of."""
    items_min: Count = 4
    """Golden items of a condition that can be judged; what the device learns waits until it has so many of its own."""
    alpha: Share = 0.05
    looks_max: Count = 200
    recheck_every_s: Positive = 86_400.0


class Probation(Section, frozen=True):
    """When a promoted version counts as good."""

    errors_max: int = 0
    """Failed generations of the new version that are forgiven before it is rolled back."""
    seconds: float = 0.0
    """Shortest time on probation, after the golden re-check has passed."""
    frame_p99_ratio_max: Positive = 1.25
    """p99 of the new version's frame times over that of the one before it, past which it is rolled back."""
    frames_min: Count = 300
    """Frames of the new version before these are judged."""


class Lifecycle(Section, frozen=True):
    """How long each stage of a job may take before it is cut off; training has ``learn.timeout_s``."""

    assist_s: Positive = 900.0
    trusted_s: Positive = 3600.0
    measure_s: Positive = 1800.0
    promote_s: Positive = 300.0
    """A pointer that will not turn, for want of disk perhaps."""
    restore_s: Positive = 300.0
    probation_s: Positive = 604_800.0
    """A version whose golden re-check has not passed after this time goes back."""


class Generate(Section, frozen=True):
    """Local inference."""

    threads: Count = 1
    poll_s: Positive = 0.2
    """How often an app looks for a newly promoted version; never on the path of ``generate``."""


class Agent(Section, frozen=True):
    """The process that owns a device."""

    linger_s: float = 2.0
    """How long it stays after the last app has left and its work is done."""
    tick_s: Positive = 1.0
    events_kept: int = 20_000
    """Events kept for people to read once snapshots cover them."""
    snapshot_every: Count = 500
    requests_max: int = 256
    """Requests that may wait at once; more are refused."""
    reply_timeout_s: Positive = 30.0


class Shield(Section, frozen=True):
    """Hard limits on learning here (DESIGN §6): past any of them a device trains less, or not at all."""

    stale_s: Positive = 60.0
    """A safety reading older than this counts as missing."""
    ignore_sensors: str = ""
    """Sensors that may be absent, by name, comma-separated: for one that was taken out for good (``zone:nvme``)."""
    battery_floor_share: Share = 0.3
    """Charge below which a device on battery does not train."""
    battery_rearm_share: Share = 0.05
    """How far above the floor the charge must rise before training may go on."""
    trip_c_default: float = 80.0
    """Limit of a thermal zone that names no trip point of its own."""
    trip_c_body: float = 43.0
    """The same for what people touch and what ages in heat: zones named after a battery or a skin."""
    throttle_hold_s: float = 300.0
    """Rest after the throttle counter rose."""
    frame_p99_ratio_max: float = 1.0
    """p99 of frame times over their budget at which training stops."""
    frame_p99_ratio_high: float = 0.9
    """From here on training gets a quarter less at each reading."""
    frame_p99_ratio_clear: Positive = 0.8
    """Below it for ``frame_hold_s``, training gets a quarter back."""
    frame_hold_s: float = 30.0
    psi_cpu_share_max: Share = 0.6
    """Part of the time that something waits for a core while the trainer rests."""
    psi_memory_share_max: Share = 0.1
    psi_io_share_max: Share = 0.4
    memory_free_bytes_min: int = 128 << 20
    """Memory that stays free while a trainer runs."""
    memory_start_bytes: int = 512 << 20
    """Memory that must be free before a trainer starts."""
    disk_free_bytes_min: int = 256 << 20


class Placement(Section, frozen=True):
    """When and where to learn (DESIGN §6). Prices have no unit: 1 is one whole job of ``energy_ref_j`` on battery."""

    enabled: bool = True
    """Without it a job begins at once, here, with a whole core, however hot the device or empty its battery."""
    core_w: float = 2.5
    """Power that one busy core draws."""
    park_after_s: float = 300.0
    """A paused trainer gives its memory back after this time; it goes on from its checkpoint later."""
    assist_bytes: int = 8_900_000
    """Size of a fog's assist, until one has been seen."""
    assist_wait_s: float = 30.0
    assist_saving_share: float = 0.14
    """Part of a job's energy that an assist spares; measured by `evergrove bench offload`."""
    trusted_wait_s: float = 300.0
    deadline_s: Positive = 86_400.0
    """Age D of a job from which on any safe choice is taken."""
    ceiling_low: float = 0.2
    """What a job may cost when it is new, as a part of its price here on a full battery; over ``mains_factor``."""
    ceiling_high: float = 0.6
    """The same when it is ``deadline_s`` old. Both, and a day, are tuned by `evergrove bench placement`."""
    energy_ref_j: Positive = 500.0
    """Energy of an ordinary job, of price ``energy_weight`` on a full battery."""
    energy_weight: float = 1.0
    mains_factor: Share = 0.1
    """Price of energy from the mains, as a part of that from a full battery."""
    scarcity: float = 1.0
    """How much dearer energy is from an empty battery: by this part of its price from a full one."""
    energy_mean_w: Positive = 0.05
    """Long-run mean power from the battery that learning may draw; what is over it makes energy dearer for a while."""
    kappa: float = 0.2
    """How much dearer: the price of energy grows by this part for each ``energy_ref_j`` over the mean."""
    bytes_ref: Count = 10_000_000
    bytes_weight: float = 0.3
    """Price of ``bytes_ref`` over the network."""
    wait_ref_s: Positive = 600.0
    wait_weight: float = 0.1
    """Price of waiting ``wait_ref_s`` for a fog."""
    privacy_price: float = 0.3
    """Price of showing observations to a trusted fog, whatever their size."""
    stay_share: Share = 0.1
    """How far over the ceiling a running job may go on, and how much cheaper another choice must be to change to it."""
    raise_hold_s: float = 60.0
    """How long a share has held before it may rise."""
    fog_retry_s: Positive = 60.0
    """Rest after a fog failed; it doubles with each failure in a row, up to ``fog_retry_s_max``."""
    fog_retry_s_max: float = 3600.0


class Web(Section, frozen=True):
    """Limits of the local HTTP API (``evergrove up device``). Past a limit a request is refused, never queued."""

    pictures_waiting_max: Count = 16
    """Requests for pictures that may be drawn or wait at once."""
    agent_waiting_max: Count = 4
    """The same for observations and status; each may hold a whole picture in memory."""
    streams_max: Count = 1
    """Video streams at once."""
    connections_max: Count = 64
    request_bytes_max: Count = 65_536
    """A request without a picture in it; one with a picture goes by ``media.n_bytes_max``."""
    read_s_max: Positive = 15.0
    """How long a request may take to arrive."""
    wait_s_max: Positive = 30.0
    """How long it may wait for its turn before it is given up."""
    drain_s_max: Positive = 10.0
    """How long requests under way may take to finish when the service is told to stop."""


class Fog(Section, frozen=True):
    """Which fogs may help, by the keys that they are known by (`evergrove` asks nobody whose key is not here)."""

    assist_key: str = ""
    """Ed25519 public key that signs assists, 64 hex digits. Empty: no assist is asked for."""
    assist_url: str = ""
    trusted_key: str = ""
    """The fog that *you* own: its X25519 and its Ed25519 public key, 128 hex digits. It sees the kept observations.
    Empty: nothing of them leaves this device."""
    trusted_url: str = ""
    assist_bytes_max: Count = 64 << 20
    trusted_bytes_max: Count = 64 << 20
    """A request to the trusted fog, and its answer, each."""
    rehearse: bool = False
    """Learn from an assist's pictures too, besides the release's rehearsal pack."""


class Fleet(Section, frozen=True):
    """The fleet that the device is a member of; `evergrove device enrol` writes ``fog``."""

    fog: str = ""
    """https address of the device's home fog. Empty: the device is in no fleet."""
    federate: bool = True
    """Send what was learnt of the fleet's conditions, clipped, and how releases fared; False: none of it leaves."""
    eight_bits: bool = False
    """Send updates in eight bits a number, rounded by chance, instead of sixteen: half the bytes (ADR 0021)."""
    releases: bool = True
    """Ask for releases and take them, as the fleet's rollout says; False: the device stays on its own."""
    retry_s: Positive = 30.0
    """Before the second attempt to send; it doubles with each failure in a row, up to ``retry_s_max``."""
    retry_s_max: Positive = 3600.0
    poll_s: Positive = 240.0
    """How long one request for news of releases waits at the fog."""


class Gathering(Section, frozen=True):
    """How a fog gathers in a generation (DESIGN §7); all but ``cohort_min`` and ``wait_s`` stay constant within it."""

    cohort: Count = 100
    """Updates that make a cohort, and its fixed denominator. Noise asks for many; without noise, few and by that more
    rounds learn more from the same updates (20 measured, docs/adr/0021)."""
    cohort_min: Count = 20
    wait_s: Positive = 3600.0
    """After this time a cohort of ``cohort_min`` is enough."""
    rounds: Count = 1000
    """Cohorts of a generation, at most."""
    separation: Count = 1
    """Cohorts between two updates of one device, b."""
    participations: Count = 10
    """Updates of one device in a generation, k."""
    clip: Positive = 1.0
    """Euclidean norm that an update is clipped to, C."""
    norm_max: Positive = 100.0
    """An update of a larger norm is refused."""


class FogWeb(Section, frozen=True):
    """Limits of a fog's service (``evergrove up fog``). Past a limit a request is refused, never queued without end."""

    connections_max: Count = 4096
    updates_max: Count = 64
    """Updates that may be received at once."""
    helps_max: Count = 8
    """Requests for assists, trusted work, enrolments at once, each kind."""
    request_bytes_max: Count = 65_536
    """A request without an update or trusted work in it."""
    read_s_max: Positive = 60.0
    """How long a request may take to arrive."""
    wait_s_max: Positive = 30.0
    poll_s_max: Positive = 300.0
    """How long a device may wait for news of releases in one request."""
    look_s: Positive = 1.0
    """Between two looks for a new release, and at the clock for cohorts."""
    tidy_s: Positive = 3600.0
    drain_s_max: Positive = 10.0
    """How long requests under way may take to finish when the service is told to stop."""


class Telemetry(Section, frozen=True):
    """How the device looks at its own body. How old a reading may be is ``shield.stale_s``."""

    period_s: Positive = 10.0
    """Between two readings while a job waits or runs."""
    idle_period_s: Positive = 60.0
    """The same while there is none: every reading is logged."""
    root: str = "/"
    """Under which sysfs and procfs are looked for; anything but ``/`` is a recorded tree, and no tools are asked."""
    metered: str = "auto"
    """Whether the network is paid for by the byte: ``yes``, ``no``, or ``auto``, which often means: unknown."""
    rescan_s: Positive = 300.0
    """Between two searches for sensors that were plugged in or out."""


class Thermal(Section, frozen=True):
    """What is assumed of a zone's heat before it has been watched, and how near its limit it may come (DESIGN §6)."""

    gain_4s_c: Positive = 7.2
    """How much warmer the full load of all cores makes a zone within seconds; a Raspberry Pi 3B, as the next two."""
    gain_40s_c: Positive = 11.3
    """The same within a minute."""
    gain_400s_c: Positive = 21.0
    """The same within a quarter of an hour."""
    gain_doubt_share: Share = 0.4
    """How far off these three may be: one standard deviation as a part of each."""
    noise_c: Positive = 0.7
    """Standard deviation of one reading."""
    guard_c: float = 1.0
    """Distance that a zone keeps from its trip point on top of the margin."""
    cold_margin_c: Positive = 3.0
    """Margin until about a hundred forecasts have met reality."""
    hold_s: Positive = 20.0
    """For how long a share counts as given; at least one and a half times the spacing of readings."""
    foreground_s: Positive = 1800.0
    """How far back the apps' hottest moment counts, which a zone must be ready for."""
