"""Measurements: how long things take on this machine, beside the bars of DESIGN.md, each with its count.

Numbers come out as structs; what to do with them is the caller's. Nothing here is used by a device at work.
"""
