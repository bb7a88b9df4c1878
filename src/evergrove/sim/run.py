"""A run from its scenario to the folder it leaves: report.html, events.jsonl, metrics.json, config.resolved.toml."""

import json
from pathlib import Path
from typing import Any

import msgspec

from evergrove.core.errors import EvergroveError, UsageError
from evergrove.sim import fleet, pages, scenario
from evergrove.sim.fleet import Watch
from evergrove.sim.scenario import Scenario


def find(path: Path, seed: int | None = None) -> Scenario:
    """The scenario in a file, with another seed where one is given. Raises ``ConfigError``."""
    found = scenario.load(path)
    return found if seed is None else msgspec.structs.replace(found, seed=seed)


def execute(wanted: Scenario, folder: Path, watch: Watch | None = None) -> dict[str, Any]:
    """Runs a scenario and writes its folder; gives the numbers.

    Raises ``UsageError`` for a folder with something in it, ``EvergroveError`` where it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise UsageError(f"{folder}: not an empty folder; choose another --out for this run")
        grove: dict[str, Any] = {}
        with (folder / "events.jsonl").open("wb") as file:
            if wanted.grove.fogs:
                from evergrove.sim.grove.run import simulate  # TUF and a database, which other worlds have no need of

                outcome, grove = simulate(wanted, folder, file, watch)
            else:
                outcome = fleet.simulate(wanted, file, watch, folder / "devices")
    except OSError as fault:
        raise EvergroveError(f"{folder}: cannot be written ({fault.strerror}); choose another --out") from fault
    numbers = fleet.metrics(outcome)
    if grove:
        numbers["grove"] = grove
    (folder / "metrics.json").write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    (folder / "config.resolved.toml").write_text(scenario.dump(wanted), encoding="utf-8")
    (folder / "report.html").write_text(pages.page(outcome, numbers), encoding="utf-8")
    return numbers


def lines(numbers: dict[str, Any], seconds: float) -> list[str]:
    """The run in a few sentences."""
    total = numbers["total"]
    hours = numbers["hours"] * numbers["devices"]
    pace = hours / max(seconds, 1e-9) * 60
    delay = total["delay_h"]
    jobs = total["jobs"]
    updates = ("trained", "accepted", "rejected", "rolled back")
    counts = [f"{jobs.get('reject' if what == 'rejected' else what, 0)} {what}" for what in updates]
    said = [
        f"{numbers['devices']} devices, {hours:,.0f} device-hours in {seconds:.1f} s ({pace:,.0f} a minute)",
        f"{total['kept']:,} observations kept, {total['learnt']:,} learnt, {total['waiting']:,} still waiting",
        f"updates: {', '.join(counts)}",
    ]
    if delay:
        said.append(f"from kept to served: half within {delay['p50']:.1f} h, 9 of 10 within {delay['p90']:.1f} h")
    said.append(
        f"learning took {total['work_core_h']:.1f} core-hours and {total['train_kj']:.0f} kJ; throttled for "
        f"{total['throttled_h']:.1f} h, hottest {total['temp_c_max'] or 0:.1f} °C"
    )
    if total["crashes"]:
        said.append(
            f"{total['crashes']} crashes, {total['recoveries_checked']} compared with the state before, "
            f"{total['recoveries_unequal']} unlike it"
        )
    if "grove" in numbers:
        from evergrove.sim.grove.run import lines as of_grove

        said += of_grove(numbers["grove"])
    return [*said, f"digest {numbers['digest']}"]
