"""Reads a device's body: battery, heat, clocks, load, pressure, memory, disk and network, from sysfs, procfs and tools.

``Reader(...).read()`` gives a ``core.telemetry.Telemetry`` in well under 2 ms (`evergrove bench telemetry`); whatever
takes longer is asked in the background and carries its age. Nothing that a sensor says, and no way in which it fails,
is an exception: it is a value, or ``missing`` with the reason.
"""

from evergrove.adapters.telemetry.reader import Reader

__all__ = ["Reader"]
