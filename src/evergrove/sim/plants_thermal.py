"""Thermal plants identified from recorded boards: what a simulated device heats up like (DESIGN §6).

Each plant is a sum of first-order poles between 2 and 3,000 s, on a finer grid than the three of ``rules/thermal``, so
that the model under test is not the world that it is tested in. It has a room, a slow drift that load does not
explain, a sensor that steps and trembles, and a governor that slows the clock above the trip point, as the firmware of
the board does. The table ``pi_plants.json`` was made by ``benchmarks/fit_plants.py``; the traces are not needed here.
"""

from collections.abc import Sequence
from importlib import resources
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from evergrove.core.errors import InvalidInput

Array = NDArray[np.float64]


class Plant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One identified board.

    ``gains_c``: kelvin that the full load of all cores adds through the pole of the same place in ``taus_s``.
    ``room_c``: the temperature without load. ``drift_c``: deviation of what load does not explain, which turns over in
    ``drift_s``. ``noise_c``: deviation of a reading before it is rounded to ``step_c``. At ``trip_c`` the clock falls
    to ``slow_share`` until the board is ``release_c`` below it, as a step-wise governor with hysteresis does; heat goes
    with the square of the clock. The traces do not hold the clock: these two are assumed, not identified.
    """

    name: str
    taus_s: tuple[float, ...]
    gains_c: tuple[float, ...]
    room_c: float
    drift_c: float
    noise_c: float
    drift_s: float = 300.0
    step_c: float = 0.538
    n_cores: int = 4
    trip_c: float = 80.0
    slow_share: float = 0.6
    release_c: float = 2.0


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Plants, where they come from, under which licence, and the command that made the table."""

    source: str
    licence: str
    command: str
    plants: tuple[Plant, ...]


class Work(NamedTuple):
    """What a piece of time did: arrays of shape (n_lives, n_plants).

    ``load`` is the part of all cores that was busy and ``train`` the part of one core that the trainer had. Work counts
    at the clock that it got: half a core-second at half the clock. ``trained`` are core-seconds done, ``apps_lost``
    core-seconds that the apps asked for in vain.
    """

    clock: Array
    load: Array
    train: Array
    trained: Array
    apps_lost: Array


def read_table(text: str | bytes | None = None) -> Table:
    """The packaged table, or one from JSON. Raises ``InvalidInput`` that names the fault."""
    raw = text if text is not None else resources.files("evergrove.sim").joinpath("pi_plants.json").read_bytes()
    try:
        return msgspec.json.decode(raw, type=Table)
    except (msgspec.DecodeError, ValueError) as fault:
        raise InvalidInput(f"table of thermal plants: {fault}; make one with benchmarks/fit_plants.py") from fault


def by_name(name: str) -> Plant:
    """A packaged plant. Raises ``InvalidInput`` that lists the names."""
    plants = {plant.name: plant for plant in read_table().plants}
    if name not in plants:
        raise InvalidInput(f"no thermal plant '{name}'; there are: {', '.join(sorted(plants))}")
    return plants[name]


class Boards:
    """Plants at work, side by side; each in ``n_lives`` lives that see the same drift and noise, under their own loads.

    All arrays are float64 of shape (n_lives, n_plants). ``temp_c`` is the true temperature. Equal arguments and an
    equal ``rng`` give equal lives.
    """

    def __init__(self, plants: Sequence[Plant], rng: np.random.Generator, n_lives: int = 1) -> None:
        taus = sorted({tau for plant in plants for tau in plant.taus_s})
        gains = [[dict(zip(p.taus_s, p.gains_c, strict=True)).get(tau, 0.0) for tau in taus] for p in plants]
        self._taus_s, self._gains_c = np.array(taus), np.array(gains)
        self._room_c, self._step_c, self._drift_s, self._trip_c = (
            np.array([getattr(plant, name) for plant in plants]) for name in ("room_c", "step_c", "drift_s", "trip_c")
        )
        self._drift, self._noise, self._release_c, self._slow_share = (
            np.array([getattr(plant, name) for plant in plants])
            for name in ("drift_c", "noise_c", "release_c", "slow_share")
        )
        self.n_cores = np.array([plant.n_cores for plant in plants])
        self._rng = rng
        self._drift_c = self._drift * rng.normal(size=len(plants))
        self._filtered = np.full((n_lives, len(plants), len(taus)), 0.0)
        self.slowed = np.zeros((n_lives, len(plants)), dtype=bool)
        self._keep: dict[float, tuple[Array, Array]] = {}
        self.temp_c = self._true_c()

    def run(self, apps: Array, share: Array, dt_s: float) -> Work:
        """Let ``dt_s`` seconds pass (a few at most: the governors look once), and say what they did.

        ``apps``: the load that the apps ask for, as a part of all cores at full clock; ``share``: the part of one core
        that the trainer may use, of what the apps leave.
        """
        self.slowed = (self.temp_c >= self._trip_c) | (self.slowed & (self.temp_c > self._trip_c - self._release_c))
        clock = np.where(self.slowed, self._slow_share, 1.0)
        busy = np.minimum(apps / clock, 1.0)
        train = np.minimum(share, (1.0 - busy) * self.n_cores)
        load = busy + train / self.n_cores
        self._move(load * clock * clock, dt_s)
        return Work(clock, load, train, train * clock * dt_s, (apps - busy * clock) * self.n_cores * dt_s)

    def read(self) -> Array:
        """What the sensors say, in °C."""
        seen_c = self.temp_c + self._noise * self._rng.normal(size=len(self._noise))
        return np.asarray(np.round(seen_c / self._step_c) * self._step_c)

    def step(self, load: Array | float, dt_s: float) -> None:
        """Let time pass under a load that already counts the clock in (part of all cores)."""
        self._move(np.broadcast_to(np.asarray(load, dtype=np.float64), self.temp_c.shape), dt_s)

    def settle(self, load: Array) -> None:
        """Start as after a long time under these loads: shape (n_plants,) or (n_lives, n_plants)."""
        self._filtered = np.broadcast_to(np.asarray(load)[..., None], self._filtered.shape).copy()
        self.temp_c = self._true_c()

    def _move(self, heat: Array, dt_s: float) -> None:
        if dt_s not in self._keep:
            self._keep[dt_s] = np.exp(-dt_s / self._taus_s), np.exp(-dt_s / self._drift_s)
        keep, stay = self._keep[dt_s]
        self._filtered = heat[..., None] + (self._filtered - heat[..., None]) * keep
        stir = self._drift * np.sqrt(1.0 - stay * stay)
        self._drift_c = stay * self._drift_c + stir * self._rng.normal(size=len(self._drift))
        self.temp_c = self._true_c()

    def _true_c(self) -> Array:
        return np.asarray(self._room_c + self._drift_c + (self._filtered * self._gains_c).sum(-1))


class Board:
    """One plant as ``sim.plants`` wants it: a load and a time in, a reading out."""

    def __init__(self, plant: Plant, rng: np.random.Generator) -> None:
        self._boards = Boards([plant], rng)

    def step(self, load: float, dt_s: float) -> float:
        """Let time pass under a load (part of all cores, 0 to 1), and read the sensor, in °C."""
        self._boards.step(load, dt_s)
        return float(self._boards.read()[0, 0])
