"""The words every tier speaks: events, effects, conditions, config, errors, random streams, ports.

Imports the standard library, numpy and msgspec only. Nothing here does I/O, reads a clock or draws chance by itself.
"""
