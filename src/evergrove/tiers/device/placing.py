"""When and where a job runs: telemetry in, the greatest safe share and the cheapest safe place out (DESIGN §6).

``look`` takes a reading into the thermal models; ``settle`` begins the waiting job, pauses or speeds up the one under
way, or leaves it waiting with a reason. What is decided is logged when it changes.
"""

from typing import Any

import msgspec

from evergrove.core import effects as do
from evergrove.core import events as ev
from evergrove.core.conditions import group
from evergrove.core.config import Config
from evergrove.core.telemetry import Telemetry, Value
from evergrove.rules import branching, placement, shield, thermal
from evergrove.rules.placement import Decision
from evergrove.tiers.device.orders import enter
from evergrove.tiers.device.state import Effects, Result, State, Work, change, learnable, to_gain_on

FREE = shield.Limit(1.0, "placement is off")
COLD = thermal.State()


def look(config: Config, state: State, reading: Telemetry, now_s: float) -> Result:
    """A new reading: the models learn from it, and what waits or runs is placed anew."""
    drawn_j = state.drawn_j
    if state.body is not None and reading.train_share is not None and not _of(reading.on_mains):
        drawn_j += config.placement.core_w * reading.train_share.value * max(now_s - state.body_s, 0.0)
    thermals, heat = thermal.Policy.of(config.thermal), state.heat
    if reading.load_share is not None:
        load, slowed = reading.load_share.value, _rose(state.body, reading)
        heat = heat | {
            zone.name: thermal.update(thermals, heat.get(zone.name, COLD), zone.temp_c, load, now_s, slowed)
            for zone in reading.zones
            if zone.age_s <= config.shield.stale_s
        }
    guarding = shield.update(shield.Policy.of(config.shield), state.guarding, reading, now_s, thermals)
    state = change(state, body=reading, body_s=now_s, heat=heat, guarding=guarding, drawn_j=drawn_j)
    return settle(config, state, now_s)


def settle(config: Config, state: State, now_s: float) -> Result:
    """Where the waiting job begins, or how the one under way goes on."""
    work = state.work or state.waiting
    match work.stage if work else None:
        case "wait":
            assert work is not None
            return _begin(config, state, work, now_s)
        case "train":
            assert work is not None
            return _go_on(config, state, work, now_s)
        case "measure":
            return _at_share(state, _limit(config, state, now_s).share)
        case _:
            return state, []


def measure(config: Config, state: State, work: Work, now_s: float, **changes: Any) -> Result:
    """On to the golden set, which heats as training does: under the same shield, but at no price."""
    state = change(state, share=_limit(config, state, now_s).share)
    return enter(state, work, "measure", now_s, attempt=1, **changes)


def take_assist(config: Config, state: State, work: Work, event: ev.AssistReceived, now_s: float) -> Result:
    """The assist is here: the job begins, or waits for the shield with it."""
    work = msgspec.structs.replace(work, stage="wait", assist=event.assist)
    placing = placement.fog_answered(state.placing)
    state = change(state, work=None, waiting=work, placing=placing, assist=event.assist)
    return settle(config, state, now_s)


def do_without(config: Config, state: State, work: Work, event: ev.OffloadFailed, now_s: float) -> Result:
    """A fog let the job down: it waits again, and no fog is asked for a while."""
    policy = placement.Policy.of(config.placement)
    work = msgspec.structs.replace(work, stage="wait")
    state = change(state, work=None, waiting=work, placing=placement.fog_failed(policy, state.placing, now_s))
    return settle(config, state, now_s)


def _begin(config: Config, state: State, work: Work, now_s: float) -> Result:
    """The waiting job starts at the place that was decided, from what serves now and with all that is fresh."""
    state, decision, said = _decide(config, state, work, "assisted" if work.assist else "defer", now_s)
    if decision.choice == "defer" or (decision.choice != "trusted" and decision.share == 0):
        return state, said
    state = change(state, waiting=None, share=decision.share)
    # One that only lost some of its records goes on with the rest: its checkpoint is still good.
    if work.parent != state.active or not set(work.fresh) & set(state.fresh):
        said.append(do.StopWorker(work.job))  # what was done of it, for another start, is of no use now
        fresh = learnable(state, config.gate.items_min)
        groups = {group(state.codes[record], state.known) for record in fresh}
        takes = branching.bearable(config, len(state.sizes), work.steps, len(fresh))
        learnt = to_gain_on(state, groups)
        work = msgspec.structs.replace(work, parent=state.active, fresh=fresh, learnt=learnt, takes=takes)
        if not fresh:
            gone = ev.LearningDeferred("what was to be learnt has left the replay buffer")
            return change(state, waiting=None), [*said, do.Emit(gone)]
    stage = {"local": "train", "trusted": "trusted"}.get(decision.choice, "train" if work.assist else "assist")
    state, orders = enter(state, work, stage, now_s)
    return state, [*said, *orders]


def _go_on(config: Config, state: State, work: Work, now_s: float) -> Result:
    """Faster, slower, paused, or parked: a job that may not run for long gives its memory back."""
    begun: placement.Choice = "assisted" if work.assist else "local"
    state, decision, said = _decide(config, state, work, begun, now_s)
    share = decision.share if decision.choice == begun else 0.0
    if share == 0 and state.share == 0 and now_s - work.since_s >= config.placement.park_after_s:
        state = change(state, work=None, waiting=msgspec.structs.replace(work, stage="wait"))
        return state, [*said, do.ParkWorker(work.job)]
    if (share == 0) != (state.share == 0):
        state = change(state, work=msgspec.structs.replace(work, since_s=now_s))
    state, orders = _at_share(state, share)
    return state, [*said, *orders]


def _at_share(state: State, share: float) -> Result:
    return (state, []) if share == state.share else (change(state, share=share), [do.SetShare(share)])


def _decide(
    config: Config, state: State, work: Work, begun: placement.Choice, now_s: float
) -> tuple[State, Decision, Effects]:
    """The placement's word, and the fact of it where it is not what was said last."""
    limit = _limit(config, state, now_s)
    if not config.placement.enabled:
        decision = Decision("local", limit.share, "asked", f"learns here: {limit.reason}")
    else:
        situation = _situation(config, state, work, begun, limit, now_s)
        policy = placement.Policy.of(config.placement)
        placing, decision = placement.decide(policy, state.placing, situation, now_s)
        state = change(state, placing=placing, drawn_j=0.0)
    placed = (work.job, decision.choice, decision.share)
    if placed == state.placed:
        return state, decision, []
    fact = ev.PlacementDecided(work.job, decision.choice, decision.share, decision.sentence)
    return change(state, placed=placed), decision, [do.Emit(fact)]


def _situation(
    config: Config, state: State, work: Work, begun: placement.Choice, limit: shield.Limit, now_s: float
) -> placement.Situation:
    body = state.body or Telemetry()
    left = 1.0 - config.placement.assist_saving_share if work.assist else 1.0
    steps = work.takes or branching.bearable(config, len(state.sizes), work.steps, len(state.fresh))
    return placement.Situation(
        age_s=max(now_s - work.asked_s, 0.0),
        limit=limit,
        energy_j=steps * state.step_s * config.placement.core_w * left,
        on_mains=bool(_of(body.on_mains)) or (body.on_mains is None and body.battery_share is None),
        battery_share=body.battery_share.value if body.battery_share else None,
        begun=begun,
        share=state.share if state.work else 0.0,
        drawn_j=state.drawn_j,
        network_up=body.network_up is None or bool(body.network_up.value),
        metered=bool(_of(body.network_metered)),
        fog=_fog(config, state),
        urgent=work.urgent,
    )


def _limit(config: Config, state: State, now_s: float) -> shield.Limit:
    """The shield's word on the newest reading."""
    if not config.placement.enabled:
        return FREE
    reading = state.body or Telemetry()
    heat = shield.of_models(thermal.Policy.of(config.thermal), state.heat, reading.n_cores)
    policy, running = shield.Policy.of(config.shield), state.work is not None
    return shield.limit(policy, state.guarding, reading, heat, now_s, running=running)


def _fog(config: Config, state: State) -> placement.Fog | None:
    """What the configured fogs offer; None where there are none."""
    fog, price = config.fog, config.placement
    alone = branching.stands_alone(config, len(state.sizes))  # then nobody is asked about the old
    assisted = bool(fog.assist_key and fog.assist_url) and not alone
    trusted = bool(fog.trusted_key and fog.trusted_url)
    if not assisted and not trusted:
        return None
    return placement.Fog(
        assisted=assisted,
        assist_bytes=0 if state.assist else price.assist_bytes,
        assist_wait_s=0.0 if state.assist else price.assist_wait_s,
        assist_saving=price.assist_saving_share,
        trusted=trusted,
        trusted_bytes=state.keeping.buffer.n_bytes,
        trusted_wait_s=price.trusted_wait_s,
    )


def _rose(before: Telemetry | None, reading: Telemetry) -> bool:
    """Whether the system has throttled since the last reading."""
    if before is None or before.throttle_count is None or reading.throttle_count is None:
        return False
    return reading.throttle_count.value > before.throttle_count.value


def _of(value: Value | None) -> float:
    return value.value if value is not None else 0.0
