"""Whether an update is taken: DESIGN §7's order of checks, once over the head, and over all once the body is there.

authenticate → schema, shape, dtype, finite (``rules/params`` found them; their word comes with the event) → size → base
→ not a replay → no enormous norm → the limits of taking part → clip and count.
"""

from evergrove.core import fog
from evergrove.core.fog import Plan, Reason
from evergrove.core.transport import Update
from evergrove.rules import tokens
from evergrove.rules.privacy import participation
from evergrove.rules.privacy.clipping import clip_factor
from evergrove.tiers.fog.state import CLOSED_MAX, READY_MAX, Counted, Member, State, change

Orders = list[fog.FogOrder]
Result = tuple[State, Orders]


def offer(state: State, event: fog.UpdateOffered) -> Result:
    """The head alone: what can be told from it is told before its body is read. Nothing changes."""
    answer = _judge(state, event.device, event.head, None)
    return state, [answer if answer is not None else fog.ReceiveBody(event.head)]


def admit(state: State, event: fog.UpdateMeasured) -> Result:
    """Head and body: the update is counted, recognised, or refused."""
    answer = _judge(state, event.device, event.head, event)
    if answer is not None:
        return state, [answer]
    assert state.plan is not None, "judged above"
    factor = clip_factor(event.norm, state.plan.clip)
    return state, [
        fog.FogEmit(fog.UpdateCounted(event.device, event.head.token, event.head.digest, state.open, factor))
    ]


def count(state: State, event: fog.UpdateCounted, now_s: float) -> Result:
    """The update is in; a full cohort closes."""
    plan, member = state.plan, state.devices[event.device]
    assert plan is not None, "counted only under a plan"
    record = participation.taken(member.record, participation.limits_of(plan, ""), event.cohort.number)
    counted = Counted(event.device, event.digest, event.cohort)
    state = change(
        state,
        n_updates=state.n_updates + 1,
        since_s=state.since_s if state.n_updates else now_s,
        devices={**state.devices, event.device: Member(member.revoked, record)},
        tokens={**state.tokens, event.token: counted},
    )
    if state.n_updates < plan.cohort:
        return state, []
    return state, [fog.FogEmit(fog.CohortClosed(state.open, state.n_updates, "full"))]


def _judge(state: State, device: str, head: Update, measured: fog.UpdateMeasured | None) -> fog.FogEmit | None:
    """The refusal, or the word that it is counted already; None: nothing speaks against it."""

    def no(reason: Reason, detail: str) -> fog.FogEmit:
        return fog.FogEmit(fog.UpdateRefused(device, reason, detail))

    # 1. Who is it?
    member = state.devices.get(device)
    if member is None:
        return no("unknown device", "this fog does not know the device; enrol it first")
    if member.revoked:
        return no("revoked", "the device's enrolment was revoked")
    plan = state.plan
    if plan is None:
        return no("closed", "this fog gathers no updates now")
    # 2. Schema, shape, dtype, finite.
    if measured is not None and measured.fault is not None:
        return no(measured.fault, measured.detail)
    # 3. Size, base.
    if head.n_bytes not in plan.n_bytes:
        reason: Reason = "too large" if head.n_bytes > max(plan.n_bytes) else "wrong size"
        return no(reason, f"{head.n_bytes} bytes; an update of this release has {' or '.join(map(str, plan.n_bytes))}")
    fault = _of_another(plan, head)
    if fault is not None:
        return no(*fault)
    # 4. A replay?
    if not tokens.fits(head.token, device, plan.generation):
        return no("token of another", "the participation token is of another device or generation")
    earlier = state.tokens.get(head.token)
    if earlier is not None:
        if (earlier.device, earlier.digest) == (device, head.digest):
            return fog.FogEmit(fog.UpdateRepeated(device, head.token, earlier.cohort))
        return no("token reused", "the participation token was used for another update")
    # 5. The norm.
    if measured is not None and not measured.norm <= plan.norm_max:  # NaN too
        return no("enormous norm", f"a norm of {measured.norm:.3g}; at most {plan.norm_max:g} is clipped")
    # 6. The limits of taking part.
    if state.spent:
        return no("budget spent", f"the ε budget of generation {plan.generation} is spent; the next one goes on")
    match participation.obstacle(member.record, participation.limits_of(plan, ""), state.number):
        case "too often":
            return no("too often", f"the device took part {member.record.n} times in this generation")
        case "too soon":
            wait = plan.separation - (state.number - member.record.last)
            return no("too soon", f"the device must let {wait} more cohorts pass")
        case "over":
            return no("closed", f"this generation has had its {plan.rounds} cohorts; the next one will take it")
    if len(state.closed) >= CLOSED_MAX or len(state.ready) >= READY_MAX:
        return no("busy", "too many cohorts wait to be summed or handed over; come again later")
    return None


def _of_another(plan: Plan, head: Update) -> tuple[Reason, str] | None:
    if head.generation != plan.generation:
        return "wrong generation", f"generation {head.generation}; this fog gathers {plan.generation}"
    if (head.base, head.basis) != (plan.base, plan.basis):
        return "wrong base", "the update was learnt on another base or another A"
    if head.release not in plan.releases:
        return "wrong base", f"the release {head.release[:12]}… is not gathered here"
    return None
