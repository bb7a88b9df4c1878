"""What goes wrong in a simulated world, and how often: messages, memories, clocks, sensors."""

from evergrove.core.config import Section


class Channel(Section, frozen=True):
    """How a way for messages fails. Shares are probabilities per message, times are in seconds.

    A message takes ``delay_s`` and an exponential part of mean ``jitter_s``, so that messages overtake each other.
    """

    delay_s: float = 0.0
    jitter_s: float = 0.0
    drop_share: float = 0.0
    duplicate_share: float = 0.0


class Crash(Section, frozen=True):
    """A device loses its memory: at random moments, or at a write to its log (before or after it)."""

    per_day: float = 0.0
    at_write_share: float = 0.0
    """Part of the writes at which the power fails."""
    down_s: float = 60.0
    kills_per_day: float = 0.0
    """How often only the worker is killed, per day of its running."""


class Clock(Section, frozen=True):
    """How device clocks lie: each within ±``offset_s`` and ±``drift_ppm``, and set by up to ±``jump_s`` at times."""

    offset_s: float = 0.0
    drift_ppm: float = 0.0
    jumps_per_day: float = 0.0
    jump_s: float = 0.0


class Sensors(Section, frozen=True):
    """Sensors that vanish for a while."""

    per_day: float = 0.0
    seconds: float = 600.0


class Faults(Section, frozen=True):
    """What goes wrong. ``network`` is between device and fog, ``worker`` between a worker and its agent."""

    network: Channel = Channel(delay_s=0.1, jitter_s=0.1)
    worker: Channel = Channel()
    crash: Crash = Crash()
    clock: Clock = Clock()
    sensors: Sensors = Sensors()
