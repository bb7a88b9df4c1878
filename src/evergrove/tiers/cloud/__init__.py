"""The cloud tier: ``step`` is every decision that the cloud takes, ``State`` all that it remembers."""

from evergrove.tiers.cloud.state import Policy, State, Work
from evergrove.tiers.cloud.step import next_due, settle, step, under_way

__all__ = ["Policy", "State", "Work", "next_due", "settle", "step", "under_way"]
