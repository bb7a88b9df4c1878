"""The acts of a device's life, as ``bench kills`` has it lived: ``init``, learning, promotion, going back.

Each may come twice, because an app that was cut off asks again. ``epilogue`` is what must be possible after any of
them.
"""

import asyncio
import shutil
from collections.abc import Awaitable, Callable

from evergrove.adapters.release import Release, open_release
from evergrove.adapters.release_write import grow
from evergrove.bench.kills_life import Life
from evergrove.bootstrap import CONFIG
from evergrove.core import events as ev
from evergrove.core import messages as msg
from evergrove.core.config import with_key
from evergrove.core.rollout import FULL, Directive
from evergrove.runtime.fleet import FOLDER, RELEASES

Act = Callable[[Life], Awaitable[None]]


async def make(life: Life) -> None:
    """`evergrove init`, and the first start."""
    life.make()
    life.boot()


async def meet(life: Life) -> None:
    """Two known faces, one of them twice."""
    for picture in (0, 1, 1):
        life.observe(picture, "happy")


async def meet_new(life: Life) -> None:
    """A new condition, past its capacity: names are saved, golden items split off, records evicted."""
    for picture in range(2, 20):
        life.observe(picture, "strange")


async def learn(life: Life) -> None:
    """Trained, rescaled, accepted, promoted, re-checked; on probation then."""
    life.setting.harm = 0.4
    await life.ask(msg.LearnNow())


async def confirm(life: Life) -> None:
    """A minute later it counts as good."""
    life.setting.harm = 0.0
    await life.pass_time(100.0)


async def meet_another(life: Life) -> None:
    """One more condition, and more of the last."""
    for picture in range(20, 32):
        life.observe(picture, "odd")
    for picture in range(32, 35):
        life.observe(picture, "strange")


async def park(life: Life) -> None:
    """Learning begins, the battery runs low: paused, then parked. Then there is more to learn, and mains again."""
    life.setting.low_battery = False
    await life.agent.answer(msg.LearnNow())
    for _ in range(100):
        await asyncio.sleep(0)
        if any(life.root.glob("jobs/*/checkpoint.safetensors")):
            break
    life.setting.low_battery = True
    for seconds in (30.0, 400.0, 30.0):
        life.setting.now_s += seconds
        life.agent.tick()
        await asyncio.sleep(0)
    life.observe(35, "odd")


async def go_on(life: Life) -> None:
    """On mains again: the parked job starts anew with what has come since, is promoted and confirmed."""
    life.setting.low_battery = False
    life.agent.tick()
    await life.pass_time(100.0)
    await life.pass_time(100.0)


async def reject(life: Life) -> None:
    """A candidate that does harm is turned down."""
    for picture in range(36, 46):
        life.observe(picture, "rare")
    life.setting.harm = 3.0
    await life.ask(msg.LearnNow())
    life.setting.harm = 0.0


async def offer(life: Life) -> None:
    """An adapter from elsewhere passes the gate, fails in use, and the device goes back by itself."""
    source = life.root.parent.parent / "offered.safetensors"  # outside of all that is killed
    source.write_bytes(b"an adapter from elsewhere" * 80)
    await life.ask(msg.Offer(str(source)))
    await life.ask(msg.ReportFailure(life.driver.state.active, "not finite"))


async def recheck(life: Life) -> None:
    """Hours later the schedule looks at what serves."""
    await life.pass_time(2 * 3600.0)


async def learn_again(life: Life) -> None:
    """What was taken back is learnt once more, and confirmed."""
    await life.ask(msg.LearnNow())
    await life.pass_time(100.0)


async def roll_back(life: Life) -> None:
    """Somebody does not like it."""
    await life.ask(msg.RollBack())


async def alarm(life: Life) -> None:
    """Learnt anew, but a later re-check finds a loss: the device goes back by itself."""
    await life.ask(msg.LearnNow())
    await life.pass_time(100.0)
    life.setting.alarm = True
    await life.pass_time(2 * 3600.0)
    life.setting.alarm = False


async def forget(life: Life) -> None:
    """One observation is forgotten, then a condition: versions that learnt from them, keys, names, the log's past."""
    for record in sorted(life.driver.state.codes)[:1]:
        await life.ask(msg.Forget(observation=record))
    if "strange" in life.agent.vocabulary.factors[0].values:  # asked for again after a kill, it has no name any more
        await life.ask(msg.Forget(condition={life.release.manifest.vocabulary.names[0]: "strange"}))


async def forget_all(life: Life) -> None:
    """Everything that it was ever shown."""
    await life.ask(msg.Forget(everything=True))


async def restart(life: Life) -> None:
    """A proper end, and a new start."""
    await life.stop()
    life.boot()
    await life.settle()


async def join(life: Life) -> None:
    """It becomes a member of a fleet, and starts anew; what it has learnt goes there."""
    text = with_key((life.root / CONFIG).read_text(), "fleet", "fog", "https://fog")
    life.files.write(life.root / CONFIG, text.encode())
    await restart(life)
    await life.pass_time(100.0)


async def take_release(life: Life) -> None:
    """The fleet has learnt love: its release comes, is measured, serves, is re-checked."""
    release = await fetched(life)
    told = Directive("r1", release.manifest_hash, 5, FULL, True)
    if life.driver.state.following.directive != told:
        life.agent.feed(ev.DirectiveRead("kitchen", told))
    await life.settle()
    await life.pass_time(10.0)


async def fetched(life: Life) -> Release:
    """The release lies in the device's folder, whole: how it gets there is killed elsewhere."""
    place = life.root.parent.parent / "release"  # outside of all that is killed
    if not (place / "manifest.json").exists():
        grow(open_release("tiny"), place, [{"emotion": "love"}])
    release = open_release(place)
    there = life.root / FOLDER / RELEASES / "releases" / release.manifest_hash
    if not there.exists():
        shutil.copytree(place, there)
    return release


ACTS: tuple[Act, ...] = (
    make, meet, meet_new, learn, confirm, meet_another, park, go_on, reject, offer, recheck, learn_again, roll_back,
    alarm, forget, restart, forget_all,
)  # fmt: skip


TURNS: tuple[Act, ...] = (learn, confirm, go_on, offer, learn_again, roll_back, alarm)
"""Acts in which what serves changes, or what is said of it: without that they would not be what they are called."""


async def epilogue(life: Life) -> None:
    """What must always be possible: meet, learn, promote, go back."""
    for picture in (50, 51):
        life.observe(picture, "strange")
    await life.ask(msg.LearnNow())
    await life.pass_time(100.0)
    if life.driver.state.active is not None:
        await life.ask(msg.RollBack())
