"""Configuration: one frozen tree, from TOML, environment and flags; unknown keys are refused, the nearest named.

Order of precedence: flag > environment (``EVERGROVE_LEARN__STEPS=300``) > file > default. Every limit of the program
stands here, with its unit in its name.
"""

import tomllib
from collections.abc import Mapping
from typing import Any, get_args, get_type_hints

import msgspec

from evergrove.core.conditions import nearest
from evergrove.core.errors import ConfigError


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of the sections: frozen, and strict about its keys."""


class Novelty(Section, frozen=True):
    """What is worth keeping (DESIGN §5)."""

    capacity_per_condition: int = 24
    """Training records kept of one condition; the golden split comes on top."""
    surprise_share: float = 0.2
    """Part of the reservoir that is chosen by surprise, 0-1; the rest is uniform."""
    near_duplicate_distance: float = 1.0
    """Below this multiple of the measured re-encoding distance, a picture is a near duplicate."""
    golden_every: int = 5
    """Of a new condition every n-th kept observation goes to the device's own golden set."""
    golden_capacity: int = 12
    """Items of one new condition in the device's own golden set."""


class Replay(Section, frozen=True):
    """Bounds of the encrypted replay buffer."""

    n_bytes_max: int = 64 << 20
    n_records_max: int = 2000


class Media(Section, frozen=True):
    """Limits on what an app may hand over, checked before decoding."""

    n_bytes_max: int = 16 << 20
    pixels_max: int = 40_000_000
    side_px_min: int = 8


class Learn(Section, frozen=True):
    """One learning job: strategy, budget and retries."""

    strategy: str = "evergrove"
    auto: bool = True
    """Start by itself once ``min_new`` observations wait; otherwise only on ``learn()``."""
    min_new: int = 24
    steps: int = 250
    batch: int = 16
    checkpoint_every: int = 25
    """Steps between checkpoints: what a killed trainer can lose at most."""
    attempts_max: int = 5
    """Starts of one job before it is given up."""
    timeout_s: float = 3600.0
    threads: int = 1


class Gate(Section, frozen=True):
    """Margins of the golden gate (DESIGN §5), in units of what a condition is worth: 1 is not knowing it (ADR 0005).

    Measured on avatars: candidates with a harm of .02-.19 keep 97-99 % of the old faces right, one of .2-1.4 keeps
    60 %.
    """

    delta: float = 0.15
    """Harm of one update against what serves now."""
    cumulative: float = 0.30
    """Harm of all updates together against the signed release."""
    tau: float = 0.20
    """How much further from the teacher than the release is."""
    own: float = 0.25
    """Harm of one update on a condition that the device learnt itself and has few golden items of."""
    alpha: float = 0.05
    looks_max: int = 200
    recheck_every_s: float = 86_400.0


class Probation(Section, frozen=True):
    """When a promoted version counts as good."""

    errors_max: int = 0
    """Failed generations of the new version that are forgiven before it is rolled back."""
    seconds: float = 0.0
    """Shortest time on probation, after the golden re-check has passed."""
    frame_p99_ratio_max: float = 1.25
    """p99 of the new version's frame times over that of the one before it, past which it is rolled back."""
    frames_min: int = 300
    """Frames of the new version before these are judged."""


class Lifecycle(Section, frozen=True):
    """How long each stage of a job may take before it is cut off; training has ``learn.timeout_s``."""

    assist_s: float = 900.0
    trusted_s: float = 3600.0
    measure_s: float = 1800.0
    promote_s: float = 300.0
    """A pointer that will not turn, for want of disk perhaps."""
    restore_s: float = 300.0
    probation_s: float = 604_800.0
    """A version whose golden re-check has not passed after this time goes back."""


class Generate(Section, frozen=True):
    """Local inference."""

    threads: int = 1
    poll_s: float = 0.2
    """How often an app looks for a newly promoted version; never on the path of ``generate``."""


class Agent(Section, frozen=True):
    """The process that owns a device."""

    linger_s: float = 2.0
    """How long it stays after the last app has left and its work is done."""
    tick_s: float = 1.0
    events_kept: int = 20_000
    """Events kept for people to read once snapshots cover them."""
    snapshot_every: int = 500
    requests_max: int = 256
    """Requests that may wait at once; more are refused."""
    reply_timeout_s: float = 30.0


class Shield(Section, frozen=True):
    """Hard limits on learning here (DESIGN §6): past any of them a device trains less, or not at all."""

    stale_s: float = 60.0
    """A safety reading older than this counts as missing."""
    ignore_sensors: str = ""
    """Sensors that may be absent, by name, comma-separated: for one that was taken out for good (``zone:nvme``)."""
    battery_floor_share: float = 0.3
    """Charge below which a device on battery does not train."""
    battery_rearm_share: float = 0.05
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
    frame_p99_ratio_clear: float = 0.8
    """Below it for ``frame_hold_s``, training gets a quarter back."""
    frame_hold_s: float = 30.0
    psi_cpu_share_max: float = 0.6
    """Part of the time that something waits for a core while the trainer rests."""
    psi_memory_share_max: float = 0.1
    psi_io_share_max: float = 0.4
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
    deadline_s: float = 43_200.0
    """Age D of a job from which on any safe choice is taken."""
    ceiling_low: float = 0.3
    """Price that a job may have when it is new."""
    ceiling_high: float = 1.5
    """Price that it may have when it is ``deadline_s`` old."""
    energy_ref_j: float = 500.0
    """Energy of an ordinary job, of price ``energy_weight`` on a full battery."""
    energy_weight: float = 1.0
    mains_factor: float = 0.1
    """Price of energy from the mains, as a part of that from a full battery."""
    scarcity: float = 1.0
    """How much dearer energy is from an empty battery: by this part of its price from a full one."""
    energy_mean_w: float = 0.05
    """Long-run mean power from the battery that learning may draw; what is over it makes energy dearer for a while."""
    kappa: float = 0.2
    """How much dearer: the price of energy grows by this part for each ``energy_ref_j`` over the mean."""
    bytes_ref: int = 10_000_000
    bytes_weight: float = 0.3
    """Price of ``bytes_ref`` over the network."""
    wait_ref_s: float = 600.0
    wait_weight: float = 0.1
    """Price of waiting ``wait_ref_s`` for a fog."""
    privacy_price: float = 0.3
    """Price of showing observations to a trusted fog, whatever their size."""
    stay_share: float = 0.1
    """How far over the ceiling a running job may go on, and how much cheaper another choice must be to change to it."""
    raise_hold_s: float = 60.0
    """How long a share has held before it may rise."""
    fog_retry_s: float = 60.0
    """Rest after a fog failed; it doubles with each failure in a row, up to ``fog_retry_s_max``."""
    fog_retry_s_max: float = 3600.0


class Web(Section, frozen=True):
    """Limits of the local HTTP API (``evergrove up device``). Past a limit a request is refused, never queued."""

    pictures_waiting_max: int = 16
    """Requests for pictures that may be drawn or wait at once."""
    agent_waiting_max: int = 4
    """The same for observations and status; each may hold a whole picture in memory."""
    streams_max: int = 1
    """Video streams at once."""
    connections_max: int = 64
    request_bytes_max: int = 65_536
    """A request without a picture in it; one with a picture goes by ``media.n_bytes_max``."""
    read_s_max: float = 15.0
    """How long a request may take to arrive."""
    wait_s_max: float = 30.0
    """How long it may wait for its turn before it is given up."""
    drain_s_max: float = 10.0
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
    assist_bytes_max: int = 64 << 20
    trusted_bytes_max: int = 64 << 20
    """A request to the trusted fog, and its answer, each."""
    rehearse: bool = False
    """Learn from an assist's pictures too, besides the release's rehearsal pack."""


class Telemetry(Section, frozen=True):
    """How the device looks at its own body. How old a reading may be is ``shield.stale_s``."""

    period_s: float = 10.0
    """Between two readings while a job waits or runs."""
    idle_period_s: float = 60.0
    """The same while there is none: every reading is logged."""
    root: str = "/"
    """Under which sysfs and procfs are looked for; anything but ``/`` is a recorded tree, and no tools are asked."""
    metered: str = "auto"
    """Whether the network is paid for by the byte: ``yes``, ``no``, or ``auto``, which often means: unknown."""
    rescan_s: float = 300.0
    """Between two searches for sensors that were plugged in or out."""


class Thermal(Section, frozen=True):
    """What is assumed of a zone's heat before it has been watched, and how near its limit it may come (DESIGN §6)."""

    gain_4s_c: float = 7.2
    """How much warmer the full load of all cores makes a zone within seconds; a Raspberry Pi 3B, as the next two."""
    gain_40s_c: float = 11.3
    """The same within a minute."""
    gain_400s_c: float = 21.0
    """The same within a quarter of an hour."""
    gain_doubt_share: float = 0.4
    """How far off these three may be: one standard deviation as a part of each."""
    noise_c: float = 0.7
    """Standard deviation of one reading."""
    guard_c: float = 1.0
    """Distance that a zone keeps from its trip point on top of the margin."""
    cold_margin_c: float = 3.0
    """Margin until about a hundred forecasts have met reality."""
    hold_s: float = 20.0
    """For how long a share counts as given; at least one and a half times the spacing of readings."""
    foreground_s: float = 1800.0
    """How far back the apps' hottest moment counts, which a zone must be ready for."""


class Config(Section, frozen=True):
    """The whole tree. ``seed`` names every random stream of the device."""

    seed: int = 0
    novelty: Novelty = Novelty()
    replay: Replay = Replay()
    media: Media = Media()
    learn: Learn = Learn()
    gate: Gate = Gate()
    probation: Probation = Probation()
    lifecycle: Lifecycle = Lifecycle()
    generate: Generate = Generate()
    agent: Agent = Agent()
    web: Web = Web()
    shield: Shield = Shield()
    thermal: Thermal = Thermal()
    placement: Placement = Placement()
    fog: Fog = Fog()
    telemetry: Telemetry = Telemetry()


ENV_PREFIX = "EVERGROVE_"


def load(
    text: str = "", env: Mapping[str, str] | None = None, flags: Mapping[str, str] | None = None, where: str = "config"
) -> Config:
    """The configuration from TOML ``text``, environment variables and ``section.key=value`` flags.

    Raises ``ConfigError`` that names the key, where it stands, and the nearest right one or the expected type.
    """
    try:
        tree: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as fault:
        raise ConfigError(f"{where}: not valid TOML: {fault}") from fault
    check_keys(tree, Config, where)
    for key, value in (env or {}).items():
        if key.startswith(ENV_PREFIX) and "__" in key:
            _put(tree, key[len(ENV_PREFIX) :].lower().split("__"), value, f"environment variable {key}")
    for key, value in (flags or {}).items():
        _put(tree, key.split("."), value, f"--set {key}")
    return of_tree(tree, where)


def of_tree(tree: Mapping[str, Any], where: str) -> Config:
    """The configuration from a tree of plain values. Raises ``ConfigError`` as ``load`` does."""
    check_keys(tree, Config, where)
    try:
        config = msgspec.convert(tree, Config)
    except msgspec.ValidationError as fault:
        raise ConfigError(f"{where}: {fault}") from fault
    _check_ranges(config, where)
    return config


def dump(config: Config) -> str:
    """The configuration as TOML, every key written out."""
    lines = [f"seed = {config.seed}"]
    for name, section in msgspec.to_builtins(config).items():
        if isinstance(section, dict):
            lines.append(f"\n[{name}]")
            lines.extend(f"{key} = {_toml(value)}" for key, value in section.items())
    return "\n".join(lines) + "\n"


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f'"{value}"' if isinstance(value, str) else str(value)


def check_keys(tree: Mapping[str, Any], kind: type[Section], where: str, path: tuple[str, ...] = ()) -> None:
    """Looks for unknown keys, also inside lists of sections (``[[fleet]]``).

    Raises ``ConfigError`` that names the key, where it stands, and the nearest right one.
    """
    hints = get_type_hints(kind)
    for key, value in tree.items():
        dotted = ".".join((*path, key))
        if key not in hints:
            raise ConfigError(f"{where}: unknown key '{dotted}'{nearest(key, list(hints))}")
        inner = next((a for a in (hints[key], *get_args(hints[key])) if _is_section(a)), None)
        if inner is None:
            continue
        several = inner is not hints[key]
        entries = value if several and isinstance(value, list) else [value]
        for i, entry in enumerate(entries):
            if not isinstance(entry, dict) or (several and not isinstance(value, list)):
                form = f"[[{dotted}]]" if several else f"[{dotted}]"
                raise ConfigError(f"{where}: '{dotted}' is a section; write {form} and its keys below")
            check_keys(entry, inner, where, (*path, f"{key}[{i}]" if several else key))


def _is_section(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, Section)


def _put(tree: dict[str, Any], path: list[str], text: str, where: str) -> None:
    """Sets one key from text, as the type that the tree expects."""
    kind: Any = Config
    for part in path:
        hints = get_type_hints(kind) if isinstance(kind, type) and issubclass(kind, Section) else {}
        if part not in hints:
            raise ConfigError(f"{where}: unknown key '{'.'.join(path)}'{nearest(part, list(hints))}")
        kind = hints[part]
    try:
        value = msgspec.convert(text.lower() if kind is bool else text, kind, strict=False)
    except msgspec.ValidationError as fault:
        raise ConfigError(f"{where}: '{text}' is not a {kind.__name__}: {fault}") from fault
    for part in path[:-1]:
        tree = tree.setdefault(part, {})
    tree[path[-1]] = value


def _check_ranges(config: Config, where: str) -> None:
    """Refuses what has the right type but makes no sense: a fault found here is not found at three in the morning."""
    positive = {
        "learn.steps": config.learn.steps,
        "learn.batch": config.learn.batch,
        "learn.checkpoint_every": config.learn.checkpoint_every,
        "learn.attempts_max": config.learn.attempts_max,
        "learn.min_new": config.learn.min_new,
        "learn.threads": config.learn.threads,
        "learn.timeout_s": config.learn.timeout_s,
        "novelty.capacity_per_condition": config.novelty.capacity_per_condition,
        "novelty.golden_every": config.novelty.golden_every,
        "replay.n_bytes_max": config.replay.n_bytes_max,
        "replay.n_records_max": config.replay.n_records_max,
        "gate.delta": config.gate.delta,
        "gate.cumulative": config.gate.cumulative,
        "gate.tau": config.gate.tau,
        "gate.own": config.gate.own,
        "gate.looks_max": config.gate.looks_max,
        "probation.frame_p99_ratio_max": config.probation.frame_p99_ratio_max,
        "probation.frames_min": config.probation.frames_min,
        "lifecycle.assist_s": config.lifecycle.assist_s,
        "lifecycle.trusted_s": config.lifecycle.trusted_s,
        "lifecycle.measure_s": config.lifecycle.measure_s,
        "lifecycle.promote_s": config.lifecycle.promote_s,
        "lifecycle.restore_s": config.lifecycle.restore_s,
        "lifecycle.probation_s": config.lifecycle.probation_s,
        "generate.threads": config.generate.threads,
        "agent.tick_s": config.agent.tick_s,
        "agent.snapshot_every": config.agent.snapshot_every,
        "web.pictures_waiting_max": config.web.pictures_waiting_max,
        "web.agent_waiting_max": config.web.agent_waiting_max,
        "web.streams_max": config.web.streams_max,
        "web.connections_max": config.web.connections_max,
        "web.request_bytes_max": config.web.request_bytes_max,
        "web.read_s_max": config.web.read_s_max,
        "web.wait_s_max": config.web.wait_s_max,
        "web.drain_s_max": config.web.drain_s_max,
        "shield.stale_s": config.shield.stale_s,
        "thermal.gain_4s_c": config.thermal.gain_4s_c,
        "thermal.gain_40s_c": config.thermal.gain_40s_c,
        "thermal.gain_400s_c": config.thermal.gain_400s_c,
        "thermal.noise_c": config.thermal.noise_c,
        "thermal.cold_margin_c": config.thermal.cold_margin_c,
        "thermal.hold_s": config.thermal.hold_s,
        "thermal.foreground_s": config.thermal.foreground_s,
        "telemetry.period_s": config.telemetry.period_s,
        "telemetry.idle_period_s": config.telemetry.idle_period_s,
        "telemetry.rescan_s": config.telemetry.rescan_s,
        "shield.frame_p99_ratio_clear": config.shield.frame_p99_ratio_clear,
        "placement.deadline_s": config.placement.deadline_s,
        "placement.energy_ref_j": config.placement.energy_ref_j,
        "placement.energy_mean_w": config.placement.energy_mean_w,
        "placement.bytes_ref": config.placement.bytes_ref,
        "placement.wait_ref_s": config.placement.wait_ref_s,
        "placement.fog_retry_s": config.placement.fog_retry_s,
        "fog.assist_bytes_max": config.fog.assist_bytes_max,
        "fog.trusted_bytes_max": config.fog.trusted_bytes_max,
    }
    for name, value in positive.items():
        if not value > 0:
            raise ConfigError(f"{where}: {name} = {value}, must be greater than 0")
    shares = {
        "novelty.surprise_share": config.novelty.surprise_share,
        "gate.alpha": config.gate.alpha,
        "shield.battery_floor_share": config.shield.battery_floor_share,
        "thermal.gain_doubt_share": config.thermal.gain_doubt_share,
        "shield.battery_rearm_share": config.shield.battery_rearm_share,
        "shield.psi_cpu_share_max": config.shield.psi_cpu_share_max,
        "shield.psi_memory_share_max": config.shield.psi_memory_share_max,
        "shield.psi_io_share_max": config.shield.psi_io_share_max,
        "placement.mains_factor": config.placement.mains_factor,
        "placement.stay_share": config.placement.stay_share,
    }
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise ConfigError(f"{where}: {name} = {share}, must be between 0 and 1")
    if config.telemetry.metered not in ("auto", "yes", "no"):
        raise ConfigError(f"{where}: telemetry.metered = {config.telemetry.metered!r}, must be auto, yes or no")
    if not config.telemetry.root.startswith("/"):
        raise ConfigError(f"{where}: telemetry.root = {config.telemetry.root!r}, must be a path from / on")
    for name, key, n_digits in (
        ("fog.assist_key", config.fog.assist_key, 64),
        ("fog.trusted_key", config.fog.trusted_key, 128),
    ):
        if key and (len(key) != n_digits or not set(key) <= set("0123456789abcdef")):
            raise ConfigError(f"{where}: {name} is no key: {n_digits} digits 0-9a-f, as the fog shows it, or empty")
    shield, placement = config.shield, config.placement
    ordered = (
        ("shield.frame_p99_ratio_clear", shield.frame_p99_ratio_clear, shield.frame_p99_ratio_high),
        ("shield.frame_p99_ratio_high", shield.frame_p99_ratio_high, shield.frame_p99_ratio_max),
        ("placement.ceiling_low", placement.ceiling_low, placement.ceiling_high),
        ("placement.fog_retry_s", placement.fog_retry_s, placement.fog_retry_s_max),
    )
    for name, low, high in ordered:
        if not low <= high:
            raise ConfigError(f"{where}: {name}: {low:g} must not be above {high:g}")
