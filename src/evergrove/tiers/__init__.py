"""The three tiers as pure reducers: ``step(state, event, now_s) -> (state, effects)``."""
