"""The device tier: ``step`` is every decision that a device takes, ``State`` all that it remembers."""

from evergrove.tiers.device.state import Pending, State, Work
from evergrove.tiers.device.step import next_due, step, under_way

__all__ = ["Pending", "State", "Work", "next_due", "step", "under_way"]
