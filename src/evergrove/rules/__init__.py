"""The decisions, as pure functions: state in, state out. No clock, no I/O, no chance of their own; numpy at most."""
