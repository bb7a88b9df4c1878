"""Conditions under other numbers: what a device remembers when its release numbers the values otherwise.

A release knows the fleet's values; the device's own come behind them. So when a release brings new ones, the device's
own move: ``table[f][n]`` is the new number of value n of factor f.
"""

from collections.abc import Sequence

import msgspec

from evergrove.core.conditions import Code
from evergrove.rules.carry import renumbered
from evergrove.tiers.device.state import Seen, State, Work, change


def renumbered_state(state: State, table: Sequence[Code]) -> State:
    """Everything of a state that names conditions, under the new numbers."""
    replace = msgspec.structs.replace

    def moved(code: Code) -> Code:
        return renumbered(code, table)

    def of_work(work: Work | None) -> Work | None:
        return (
            None
            if work is None
            else replace(work, learnt=tuple(sorted(map(moved, work.learnt))), seen=of_seen(work.seen))
        )

    def of_seen(seen: Seen | None) -> Seen | None:
        if seen is None:
            return None
        values = ((f, table[f][n] if n < len(table[f]) else n) for f, n in seen.values)
        return Seen(seen.records, tuple(sorted(values)))

    buffer = state.keeping.buffer
    parts = tuple(replace(part, condition=moved(part.condition)) for part in buffer.parts)
    windows = tuple(replace(window, condition=moved(window.condition)) for window in state.keeping.windows)
    return change(
        state,
        keeping=replace(state.keeping, buffer=replace(buffer, parts=parts), windows=windows),
        pending={name: replace(one, code=moved(one.code)) for name, one in state.pending.items()},
        codes={record: moved(code) for record, code in state.codes.items()},
        drifting=tuple(replace(watch, condition=moved(watch.condition)) for watch in state.drifting),
        learnt=tuple(sorted(map(moved, state.learnt))),
        learnt_before=tuple(sorted(map(moved, state.learnt_before))),
        seen=of_seen(state.seen),
        seen_before=of_seen(state.seen_before),
        seen_shared=of_seen(state.seen_shared),
        work=of_work(state.work),
        waiting=of_work(state.waiting),
    )
