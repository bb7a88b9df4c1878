"""Configuration: one frozen tree, from TOML, environment and flags; unknown keys are refused, the nearest named.

Order of precedence: flag > environment (``EVERGROVE_LEARN__STEPS=300``) > file > default. The keys themselves stand in
``core/sections``.
"""

import json
import tomllib
from collections.abc import Mapping
from functools import cache
from typing import Any, get_args, get_type_hints

import msgspec

from evergrove.core.conditions import nearest
from evergrove.core.errors import ConfigError
from evergrove.core.sections import (
    NATURAL,
    Agent,
    Fleet,
    Fog,
    Gate,
    Generate,
    Learn,
    Lifecycle,
    Media,
    Novelty,
    Placement,
    Probation,
    Range,
    Replay,
    Section,
    Shield,
    Telemetry,
    Thermal,
    Web,
)

__all__ = [
    "ENV_PREFIX",
    "Agent",
    "Config",
    "Fleet",
    "Fog",
    "Gate",
    "Generate",
    "Learn",
    "Lifecycle",
    "Media",
    "Novelty",
    "Placement",
    "Probation",
    "Replay",
    "Section",
    "Shield",
    "Telemetry",
    "Thermal",
    "Web",
    "check_keys",
    "dump",
    "load",
    "of_tree",
    "with_key",
]


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
    fleet: Fleet = Fleet()
    telemetry: Telemetry = Telemetry()


ENV_PREFIX = "EVERGROVE_"
SEED_MAX = 2**63 - 1
"""The largest integer that TOML must carry."""


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


def with_key(text: str, section: str, key: str, value: str) -> str:
    """The TOML ``text`` with this one key set, all else (comments, order) as it was. Raises ``ConfigError``."""
    lines, line = text.splitlines(), f"{key} = {_toml(value)}"
    heads = [i for i, said in enumerate(lines) if said.strip().startswith("[")]
    at = next((i for i in heads if lines[i].split("#")[0].strip() == f"[{section}]"), None)
    if at is None:
        lines += ["", f"[{section}]", line]
    else:
        end = next((i for i in heads if i > at), len(lines))
        there = [i for i in range(at + 1, end) if lines[i].partition("=")[0].strip() == key]
        lines[there[0] if there else at + 1 : (there[0] + 1) if there else at + 1] = [line]
    made = "\n".join(lines) + "\n"
    try:
        written = tomllib.loads(made)[section][key]
    except (tomllib.TOMLDecodeError, KeyError, TypeError) as fault:
        raise ConfigError(f"{section}.{key} could not be written into the configuration; add it by hand") from fault
    assert written == value, "what was written is not what is read"
    return made


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    # A basic string of TOML has JSON's escapes, all that JSON writes among them; TOML forbids a bare DEL besides.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f") if isinstance(value, str) else str(value)


def check_keys(tree: Mapping[str, Any], kind: type[Section], where: str, path: tuple[str, ...] = ()) -> None:
    """Looks for unknown keys, also inside lists of sections (``[[fleet]]``).

    Raises ``ConfigError`` that names the key, where it stands, and the nearest right one.
    """
    hints = _hints(kind)
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


@cache
def _hints(kind: type[Section], extras: bool = False) -> dict[str, Any]:
    """The fields of a section and their types; Python works them out anew each time that it is asked."""
    return get_type_hints(kind, include_extras=extras)


def _is_section(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, Section)


def _put(tree: dict[str, Any], path: list[str], text: str, where: str) -> None:
    """Sets one key from text, as the type that the tree expects."""
    kind: Any = Config
    for part in path:
        hints = _hints(kind) if isinstance(kind, type) and issubclass(kind, Section) else {}
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
    for section_name in config.__struct_fields__:
        section = getattr(config, section_name)
        if isinstance(section, Section):
            for key, kind in _hints(type(section), extras=True).items():
                value = getattr(section, key)
                if isinstance(value, bool | str):
                    continue
                allowed = next((said for said in getattr(kind, "__metadata__", ()) if isinstance(said, Range)), NATURAL)
                if not allowed.holds(value):
                    raise ConfigError(f"{where}: {section_name}.{key} = {value}, must be {allowed.words}")
    if not 0 <= config.seed <= SEED_MAX:
        raise ConfigError(f"{where}: seed = {config.seed}, must be between 0 and {SEED_MAX}")
    if config.novelty.golden_capacity < config.gate.items_min:
        raise ConfigError(
            f"{where}: novelty.golden_capacity = {config.novelty.golden_capacity}, but the gate judges by "
            f"gate.items_min = {config.gate.items_min} golden items of a condition: nothing could ever be learnt"
        )
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
    if config.fleet.fog and not config.fleet.fog.startswith("https://"):
        raise ConfigError(f"{where}: fleet.fog = {config.fleet.fog!r}, must be the fog's https:// address, or empty")
    shield, placement = config.shield, config.placement
    ordered = (
        ("shield.frame_p99_ratio_clear", shield.frame_p99_ratio_clear, shield.frame_p99_ratio_high),
        ("shield.frame_p99_ratio_high", shield.frame_p99_ratio_high, shield.frame_p99_ratio_max),
        ("placement.ceiling_low", placement.ceiling_low, placement.ceiling_high),
        ("placement.fog_retry_s", placement.fog_retry_s, placement.fog_retry_s_max),
        ("fleet.retry_s", config.fleet.retry_s, config.fleet.retry_s_max),
    )
    for name, low, high in ordered:
        if not low <= high:
            raise ConfigError(f"{where}: {name}: {low:g} must not be above {high:g}")
