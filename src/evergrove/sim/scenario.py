"""A scenario: which devices, how they are used, what they live in, and what goes wrong. One frozen tree, from TOML.

Unknown keys are refused, and the nearest right one is named, as in ``core.config``; so are values that make no sense.
``hours`` of virtual time pass from ``start_hour`` of a Monday on. Every number has a default, so that a scenario says
only what it is about.
"""

import math
import tomllib
from pathlib import Path
from typing import Any, Literal

import msgspec

from evergrove.core import config as configuration
from evergrove.core.conditions import nearest
from evergrove.core.config import Config, Section
from evergrove.core.errors import ConfigError
from evergrove.sim.faults import Faults
from evergrove.sim.grove.spec import FOGS_MAX, Grove

Day = Literal["phone", "display", "steady"]
TrainerKind = Literal["surrogate", "real"]


class Usage(Section, frozen=True):
    """How people use a device: sessions that come by the hour of ``day``, with loads as parts of all cores."""

    day: Day = "phone"
    sessions_per_day: float = 60.0
    session_s: float = 240.0
    load_idle: float = 0.02
    load_session: float = 0.3
    load_heavy: float = 0.7
    heavy_share: float = 0.15
    """Part of the sessions that are heavy: a game, a video call."""


class Power(Section, frozen=True):
    """Battery and draw. ``capacity_wh`` 0: no battery, always on the mains."""

    capacity_wh: float = 15.0
    charge_w: float = 15.0
    start_share: float = 0.7
    idle_w: float = 0.25
    busy_w: float = 4.0
    """What all cores together draw when busy, over idle."""
    plug_hour: float = 22.5
    unplug_hour: float = 7.0
    spread_h: float = 0.8
    night_share: float = 0.9
    """Part of the nights that it is plugged in."""
    day_share: float = 0.25
    """Part of the days with an hour at a charger."""


class Network(Section, frozen=True):
    """What it is connected to. A stay on one network lasts an exponential time of mean ``stay_s``."""

    metered_share: float = 0.35
    stay_s: float = 7200.0
    outages_per_day: float = 4.0
    outage_s: float = 1200.0
    bytes_per_s: float = 1e6


class Heat(Section, frozen=True):
    """Its thermal plant: three poles (τ = 4, 40, 400 s) with resistances ``r_c`` in °C at full load of all cores.

    Every device of a fleet gets its own, ``spread`` apart (log-normal). ``plant`` names one that was identified from a
    recorded board instead (``sim.plants_thermal``), in a room of ``ambient_c``.
    """

    plant: str = ""
    r_c: tuple[float, ...] = (8.0, 14.0, 22.0)
    ambient_c: float = 26.0
    ambient_swing_c: float = 3.0
    trip_c: float = 80.0
    spread: float = 0.15
    noise_c: float = 0.15


class Stream(Section, frozen=True):
    """What a device is shown. ``known`` are the release's numbers of values by factor; new ones come after them.

    A new value of the first factor appears every ``new_every_h`` hours until there are ``n_new`` of them.
    """

    known: tuple[int, ...] = (8,)
    per_day: float = 80.0
    n_new: int = 4
    new_every_h: float = 8.0
    known_share: float = 0.0
    """Part of the observations that show what the release knows already."""
    duplicate_share: float = 0.15
    near_share: float = 0.15
    n_bytes: int = 3000


class Trainer(Section, frozen=True):
    """What learning costs and what comes of it. ``kind`` real: torch, on ``release``, for a few devices.

    The surrogate takes ``step_s`` seconds of one core and ``step_j`` joules for a step. Its candidates do harm to each
    old condition, normal with ``harm`` and ``harm_spread`` (of what a condition is worth), and ``bad_share`` of them
    do ``bad_harm``; on a new condition they gain ``gain``. Items deviate by ``item_std``.
    """

    kind: TrainerKind = "surrogate"
    release: str = "tiny"
    step_s: float = 1.2
    step_j: float = 1.5
    measure_s: float = 45.0
    assisted_share: float = 0.6
    """Part of a step's cost that is left when a fog has assisted."""
    candidate_bytes: int = 250_000
    golden_items: int = 150
    gain: float = 0.6
    gain_spread: float = 0.1
    harm: float = 0.01
    harm_spread: float = 0.01
    bad_share: float = 0.05
    bad_harm: float = 0.6
    item_std: float = 0.05


class Fog(Section, frozen=True):
    """A fog as a device sees it: whether it answers, after how long, with how many bytes."""

    present: bool = True
    assist_bytes: int = 2_000_000
    assist_s: float = 40.0
    """What it computes once for a release; later requests are answered at once."""
    record_bytes: int = 4000
    """What one observation weighs when it is sent to a trusted fog."""
    step_s: float = 0.05
    """One training step of a trusted fog."""
    outages_per_day: float = 1.0
    outage_s: float = 3600.0
    timeout_s: float = 120.0


class Record(Section, frozen=True):
    """What a run keeps. ``telemetry``: readings in events.jsonl, too (they are in the digest either way)."""

    telemetry: bool = False
    every_s: float = 120.0
    """Between two points of a curve."""


class Fleet(Section, frozen=True):
    """Devices of one kind. ``config`` changes their configuration, with the sections and keys of a device.toml."""

    name: str
    count: int = 1
    n_cores: int = 8
    usage: Usage = Usage()
    power: Power = Power()
    network: Network = Network()
    heat: Heat = Heat()
    stream: Stream = Stream()
    trainer: Trainer = Trainer()
    config: dict[str, Any] = msgspec.field(default_factory=dict)

    def device_config(self, fog: Fog) -> Config:
        """The production configuration that these devices run with. Raises ``ConfigError``.

        Where there is a fog they know its key for assists; the real trainer learns without one.
        """
        helped = fog.present and self.trainer.kind == "surrogate"
        known = {"assist_key": "0" * 64, "assist_url": "simulated"} if helped else {}
        tree = {**self.config, "fog": {**known, **self.config.get("fog", {})}}
        return configuration.of_tree(tree, f"fleet '{self.name}': config")


class Scenario(Section, frozen=True):
    """The whole of it."""

    name: str
    fleet: tuple[Fleet, ...]
    title: str = ""
    about: str = ""
    seed: int = 0
    hours: float = 24.0
    start_hour: float = 7.0
    fog: Fog = Fog()
    grove: Grove = Grove()
    faults: Faults = Faults()
    record: Record = Record()

    @property
    def n_devices(self) -> int:
        """Devices of all fleets."""
        return sum(fleet.count for fleet in self.fleet)


def load(path: Path) -> Scenario:
    """The scenario in a TOML file. Raises ``ConfigError`` for one that cannot be read or does not make sense."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as fault:
        near = sorted(str(p) for p in path.parent.glob("*.toml")) if path.parent.is_dir() else []
        hint = nearest(str(path), near) if near else "; give the path of a scenario in TOML"
        raise ConfigError(f"{path}: no such file{hint}") from fault
    except (OSError, UnicodeDecodeError) as fault:
        why = fault.strerror if isinstance(fault, OSError) else "not UTF-8"
        raise ConfigError(f"{path}: cannot be read ({why}); give the path of a scenario in TOML") from fault
    return parse(text, path.name)


def parse(text: str, where: str = "scenario") -> Scenario:
    """The scenario behind some TOML. Raises ``ConfigError`` that names the key, where it stands, and the way out."""
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as fault:
        raise ConfigError(f"{where}: not valid TOML: {fault}") from fault
    configuration.check_keys(tree, Scenario, where)
    try:
        scenario = msgspec.convert(tree, Scenario)
    except msgspec.ValidationError as fault:
        raise ConfigError(f"{where}: {fault}") from fault
    check(scenario, where)
    return scenario


def dump(scenario: Scenario) -> str:
    """The scenario as TOML, every key written out; ``parse`` gives back an equal one."""
    tree = msgspec.to_builtins(scenario)
    fleets = tree.pop("fleet")
    lines = _section(tree, "")
    for fleet in fleets:
        lines += ["", "[[fleet]]", *_section(fleet, "fleet.")]
    return "\n".join(lines).strip() + "\n"


def check(scenario: Scenario, where: str) -> None:
    """Refuses what has the right type but makes no sense. Raises ``ConfigError``."""
    names = [fleet.name for fleet in scenario.fleet]
    if not names:
        raise ConfigError(f"{where}: no devices; write at least one [[fleet]] with a name")
    if double := next((n for n in names if names.count(n) > 1), None):
        raise ConfigError(f"{where}: two fleets are called '{double}'; every fleet needs a name of its own")
    if not 0 < scenario.hours <= 24 * 3660:
        raise ConfigError(f"{where}: hours = {scenario.hours}, must be greater than 0 and at most ten years")
    if not 0 <= scenario.start_hour < 24:
        raise ConfigError(f"{where}: start_hour = {scenario.start_hour}, must be at least 0 and under 24")
    _check_numbers(msgspec.to_builtins(scenario), where, "")
    for fleet in scenario.fleet:
        if fleet.count < 1 or fleet.n_cores < 1:
            raise ConfigError(f"{where}: fleet '{fleet.name}': count and n_cores must be at least 1")
        if not fleet.stream.known or min(fleet.stream.known) < 1:
            raise ConfigError(f"{where}: fleet '{fleet.name}': stream.known needs at least one factor with a value")
        if len(fleet.heat.r_c) != 3:
            raise ConfigError(f"{where}: fleet '{fleet.name}': heat.r_c needs three numbers, one for each pole")
        config = fleet.device_config(scenario.fog)
        if scenario.grove.fogs and not (
            config.fleet.fog and fleet.trainer.kind == "surrogate" and not scenario.fog.present
        ):
            raise ConfigError(
                f"{where}: fleet '{fleet.name}': a grove has fogs of its own, and learning by declaration; write "
                '[fog] present = false, [fleet.config.fleet] fog = "https://fog", and leave trainer.kind as it is'
            )
    if not 0 <= scenario.grove.fogs <= FOGS_MAX:
        raise ConfigError(f"{where}: grove.fogs = {scenario.grove.fogs}, must be from 0 to {FOGS_MAX}")


def _check_numbers(tree: dict[str, Any], where: str, path: str) -> None:
    """Shares are in [0, 1]; everything else that is a number is finite and not negative."""
    signed = ("ambient_c", "seed")
    for key, value in tree.items():
        if key == "config":
            continue
        if isinstance(value, dict):
            _check_numbers(value, where, f"{path}{key}.")
        elif isinstance(value, list | tuple):
            for entry in value:
                if isinstance(entry, dict):
                    _check_numbers(entry, where, f"{path}{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            if not math.isfinite(value) or (value < 0 and key not in signed):
                raise ConfigError(f"{where}: {path}{key} = {value}, must be a number that is not negative")
            if key.endswith("_share") and value > 1:
                raise ConfigError(f"{where}: {path}{key} = {value}, must be between 0 and 1")


def _section(tree: dict[str, Any], prefix: str) -> list[str]:
    """A table's own keys first, then the tables in it."""
    lines = [f"{key} = {_toml(value)}" for key, value in tree.items() if not isinstance(value, dict)]
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            lines += ["", f"[{prefix}{key}]", *_section(value, f"{prefix}{key}.")]
    return lines


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return msgspec.json.encode(value).decode()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return repr(value)
