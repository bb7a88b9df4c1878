"""What a device knows of its own body at one moment: power, heat, load, memory, disk, network, frames.

Every field is optional and carries its age, because sensors vanish, freeze and lie. A sensor that was looked for and
gave nothing usable stands in ``missing`` with the reason. ``adapters.telemetry`` reads it, the simulator makes it up.
"""

import msgspec


class Value(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A number and how old it was, in seconds, when the reading was put together."""

    value: float
    age_s: float = 0.0


class Zone(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One thermal zone: temperature, and the lowest trip point at which the system would slow down or switch off."""

    name: str
    temp_c: float
    trip_c: float | None = None
    age_s: float = 0.0


class Missing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A field that was looked for in vain, and why: ``no such file``, ``not a number``, ``out of range: 65535``."""

    field: str
    reason: str


class Telemetry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One reading. Shares run from 0 to 1; ``on_mains``, ``network_up``, ``network_metered`` are 0 or 1.

    ``load_share`` is the part of all cores that was busy since the last reading, ``train_share`` the part of *one* core
    that the trainer used of it. ``frame_p99_ratio`` is the p99 of recent frame times over their budget.
    """

    n_cores: int = 1
    battery_share: Value | None = None
    on_mains: Value | None = None
    power_w: Value | None = None
    zones: tuple[Zone, ...] = ()
    cpu_freq_share: Value | None = None
    throttle_count: Value | None = None
    load_share: Value | None = None
    train_share: Value | None = None
    psi_cpu_share: Value | None = None
    psi_memory_share: Value | None = None
    psi_io_share: Value | None = None
    memory_free_bytes: Value | None = None
    disk_free_bytes: Value | None = None
    network_up: Value | None = None
    network_metered: Value | None = None
    frame_p99_ratio: Value | None = None
    frames_served: Value | None = None
    frames_late: Value | None = None
    missing: tuple[Missing, ...] = ()
