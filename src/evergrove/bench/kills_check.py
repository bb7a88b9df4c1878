"""What must hold after a kill: the device starts again, and so does its life.

Everything that an app was told must be true, only versions that passed the gate may serve, log, vault and versions must
agree, nothing half-made may lie about, and the interrupted act and a further learning must succeed.
"""

from functools import partial
from pathlib import Path

import msgspec

from evergrove.adapters.files import TEMP_SUFFIX, Files
from evergrove.adapters.versions import Active, Versions
from evergrove.bench.kills_acts import Act, epilogue
from evergrove.bench.kills_disk import Recorder
from evergrove.bench.kills_life import Killed, Life, Setting, Told
from evergrove.core.errors import EvergroveError
from evergrove.runtime.driver import recover
from evergrove.tiers import device as tier


async def come_back(
    home: Path,
    act: Act,
    first: bool,
    setting: Setting,
    told: Told,
    later: Told,
    recorder: Recorder | None = None,
    again: bool = True,
    more: bool = True,
) -> str:
    """A start after the kill, the interrupted act once more, and a further learning; what went wrong, in words.

    ``first`` is whether the act was the life's first. ``later`` is what apps would have been told next. ``recorder``
    notes the writes of the start. Without ``again`` the act, without ``more`` the learning is left out.
    """
    setting = msgspec.structs.replace(setting)
    life = Life(home / "device", setting, Files(recorder.at if recorder else None), told, names="after the kill")
    try:
        there = life.root.exists()
        if not there and told.made:
            return "the device is gone"
        if there:
            # 1. What apps are served before any agent has started, and the start.
            served = Versions(life.root / "versions").active()
            if recorder is not None:
                recorder.life = life
            life.boot()
            if recorder is not None:
                recorder.life = None
            wrong = _served(served, life) or _kept(life, told, later)
            # 2. What was under way is finished, and all agrees.
            setting.low_battery = False
            await life.settle()
            wrong = wrong or agreed(life)
            if wrong:
                return wrong
        # 3. The interrupted act again, and a further learning.
        if not there or (again and not first):
            await act(life)
            setting.low_battery = False
            await life.settle()
        if more:
            await epilogue(life)
        return agreed(life)
    except (EvergroveError, AssertionError) as fault:
        return f"{type(fault).__name__}: {fault}"
    finally:
        life.end()


async def outlive_worker(home: Path, act: Act, setting: Setting, told: Told, n: int) -> str | None:
    """A learning whose worker is killed before its ``n``-th write; None where it has no such write."""
    left = n

    def at(step: str, path: Path) -> None:
        nonlocal left
        left -= 1
        if left == -1:
            raise Killed

    life = Life(home / "device", msgspec.structs.replace(setting), Files(), told, Files(at))
    try:
        life.boot()
        await act(life)
        if left >= 0:
            return None
        return agreed(life) or ("" if life.driver.state.active else "nothing was learnt")
    except (EvergroveError, AssertionError) as fault:
        return f"{type(fault).__name__}: {fault}"
    finally:
        life.end()


def _served(served: Active, life: Life) -> str:
    """Nothing but what passed the gate, and that whole."""
    if served.problem is not None:
        return f"served beside the pointer: {served.problem}"
    if served.sha256 is not None and served.sha256 not in life.told.accepted:
        return f"served {served.sha256[:8]}, which the gate never accepted"
    return ""


def _kept(life: Life, told: Told, later: Told) -> str:
    """What apps were told is held: all but what the interrupted request was to take away."""
    held = life.told.held
    if lost := (told.held & later.held) - held:
        return f"lost {len(lost)} observations that had been accepted"
    if extra := held - told.held - later.held:
        return f"holds {len(extra)} observations that nobody was told of"
    for record in life.vault.ids():
        life.vault.get(record)
    return f"set aside {life.vault.quarantined}" if life.vault.quarantined else ""


def agreed(life: Life) -> str:
    """Log, vault, versions and folders say the same, and nothing half-made is left; what differs, in words."""
    state, pointer, home = life.driver.state, life.versions.read_pointer(), life.root.parent
    on_disk = {path.relative_to(home).as_posix() for path in home.rglob("*")}
    folded, _ = recover(partial(tier.step, life.config), life.log)
    life.log.verify()
    strays = sorted(name for name in on_disk if name.split("/")[0] not in ("device", "run"))
    temps = sorted(name for name in on_disk if TEMP_SUFFIX in name)
    jobs = sorted(name for name in on_disk if name.startswith("device/jobs/"))
    claims = {
        "the log does not fold to the state": folded == state,
        "the vault holds other records than the log says": set(life.vault.ids()) == life.told.held,
        "observations wait to be stored": not state.pending,
        "another version serves than the log says": pointer.current == state.active,
        "another version is kept to go back to": pointer.previous == state.previous,
        "the pointer has another number": pointer.seq == state.sequence,
        "pointer and log differ about the probation": pointer.probation == state.probation,
        "what serves is damaged": life.versions.active().problem is None,
        f"leftovers beside the device: {strays[:3]}": not strays,
        f"leftovers of writes: {temps[:3]}": not temps,
        f"leftovers of jobs: {jobs[:3]}": not jobs,
    }
    return "; ".join(wrong for wrong, holds in claims.items() if not holds)
