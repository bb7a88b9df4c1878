"""Identify thermal plants from the recorded Raspberry Pi runs: makes ``src/evergrove/sim/pi_plants.json``.

For each run, non-negative least squares of the temperature on the load, low-passed by a grid of poles, with a room
temperature and the decay of what was in the case before; rows at which the board may slow itself down (80 °C on) are
left out. What is left over is split into a slow drift and the sensor's noise beyond its step.

    python benchmarks/fit_plants.py FOLDER [--out FILE]
"""

import argparse
from pathlib import Path

import msgspec
import numpy as np
from scipy.optimize import nnls

from evergrove.bench.thermal_runs import Run, read_runs
from evergrove.sim.plants_thermal import Plant, Table

TAUS_S = (2.0, 5.0, 12.0, 30.0, 75.0, 190.0, 480.0, 1200.0)
SLOW_FROM_C = 79.5
SMOOTH_S = 60
STEP_C = 0.538
PULL = 1.0
"""Residuals deviate by 0.5 °C and are new about once a minute, which leaves 1/60 of the rows; gains by some 4 °C."""


def main() -> None:
    """Read the folder, fit each run, write the table, print how well it fits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the folder thermal-pi with the recorded runs")
    parser.add_argument("--out", type=Path, default=Path("src/evergrove/sim/pi_plants.json"))
    args = parser.parse_args()
    plants = []
    for run in read_runs(args.folder):
        plant, left_c = fit(run)
        plants.append(plant)
        print(
            f"{plant.name:24} room {plant.room_c:5.1f} full load +{sum(plant.gains_c):4.1f} left over {left_c:.2f} °C"
        )
    table = Table(
        source="github.com/sjchiass/pitemp, commit f2ee9b9c4bee68f29cae5438e006afd4392cb664 (Raspberry Pi 3B)",
        licence="fitted from data under BSD 3-Clause, copyright of the authors of sjchiass/pitemp",
        command="python benchmarks/fit_plants.py FOLDER",
        plants=tuple(plants),
    )
    args.out.write_bytes(msgspec.json.format(msgspec.json.encode(table), indent=1) + b"\n")
    print(f"{len(plants)} plants in {args.out}")


def fit(run: Run) -> tuple[Plant, float]:
    """The plant of one run and the deviation in °C of what it leaves over."""
    times_s, load, temp_c = (np.asarray(column) for column in (run.times_s, run.load, run.temp_c))
    dt_s = np.diff(times_s, prepend=times_s[0] - 1.0)
    columns = [low_pass(load, dt_s, tau) for tau in TAUS_S]
    # The case may have been warmer or colder than the first load says: each slow pole may decay from either side.
    decays = [np.exp(-times_s / tau) for tau in TAUS_S if tau >= 30.0]
    design = np.stack([*columns, np.ones_like(load), *decays, *(-decay for decay in decays)], axis=1)
    cool = temp_c < SLOW_FROM_C
    # In an hour of steady mean load the slowest poles and the room look alike: a weak pull of the gains to 0 decides.
    pull = np.eye(len(TAUS_S), design.shape[1]) * PULL
    rows, wanted = np.concatenate([design[cool], pull]), np.concatenate([temp_c[cool], np.zeros(len(TAUS_S))])
    found, _ = nnls(rows, wanted)
    left = (temp_c - design @ found)[cool]
    smooth = np.convolve(left, np.ones(SMOOTH_S) / SMOOTH_S, mode="valid")
    quick = float(np.std(np.diff(left)) / np.sqrt(2.0))
    noise = max(quick**2 - STEP_C**2 / 12.0, 0.01) ** 0.5
    gains = found[: len(TAUS_S)]
    plant = Plant(
        name=run.name,
        taus_s=tuple(tau for tau, gain in zip(TAUS_S, gains, strict=True) if gain > 0.05),
        gains_c=tuple(round(float(gain), 2) for gain in gains if gain > 0.05),
        room_c=round(float(found[len(TAUS_S)]), 2),
        drift_c=round(float(np.std(smooth)), 2),
        noise_c=round(float(noise), 2),
        step_c=STEP_C,
    )
    return plant, float(np.std(left))


def low_pass(load: np.ndarray, dt_s: np.ndarray, tau_s: float) -> np.ndarray:
    """The load low-passed by one pole, from a cold start."""
    out, now = np.empty_like(load), 0.0
    for i, (value, keep) in enumerate(zip(load, np.exp(-dt_s / tau_s), strict=True)):
        now = value + (now - value) * keep
        out[i] = now
    return out


if __name__ == "__main__":
    main()
