"""Configuration: one frozen tree, from TOML, environment and flags; unknown keys are refused, the nearest named.

Order of precedence: flag > environment (``EVERGROVE_LEARN__STEPS=300``) > file > default. Every limit of the program
stands here, with its unit in its name.
"""

import tomllib
from collections.abc import Mapping
from typing import Any, get_type_hints

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


class Config(Section, frozen=True):
    """The whole tree. ``seed`` names every random stream of the device."""

    seed: int = 0
    novelty: Novelty = Novelty()
    replay: Replay = Replay()
    media: Media = Media()
    learn: Learn = Learn()
    gate: Gate = Gate()
    probation: Probation = Probation()
    generate: Generate = Generate()
    agent: Agent = Agent()


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
    _check_keys(tree, Config, where, ())
    for key, value in (env or {}).items():
        if key.startswith(ENV_PREFIX) and "__" in key:
            _put(tree, key[len(ENV_PREFIX) :].lower().split("__"), value, f"environment variable {key}")
    for key, value in (flags or {}).items():
        _put(tree, key.split("."), value, f"--set {key}")
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


def _check_keys(tree: Mapping[str, Any], kind: type[Section], where: str, path: tuple[str, ...]) -> None:
    hints = get_type_hints(kind)
    for key, value in tree.items():
        dotted = ".".join((*path, key))
        if key not in hints:
            raise ConfigError(f"{where}: unknown key '{dotted}'{nearest(key, list(hints))}")
        if isinstance(hints[key], type) and issubclass(hints[key], Section):
            if not isinstance(value, dict):
                raise ConfigError(f"{where}: '{dotted}' is a section; write [{dotted}] and its keys below")
            _check_keys(value, hints[key], where, (*path, key))


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
        "generate.threads": config.generate.threads,
        "agent.tick_s": config.agent.tick_s,
        "agent.snapshot_every": config.agent.snapshot_every,
    }
    for name, value in positive.items():
        if not value > 0:
            raise ConfigError(f"{where}: {name} = {value}, must be greater than 0")
    shares = {"novelty.surprise_share": config.novelty.surprise_share, "gate.alpha": config.gate.alpha}
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise ConfigError(f"{where}: {name} = {share}, must be between 0 and 1")
