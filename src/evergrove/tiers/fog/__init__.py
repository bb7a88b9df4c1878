"""The fog tier: ``step`` is every decision that a fog takes, ``State`` all that it remembers."""

from evergrove.tiers.fog.state import Counted, Member, State, touches
from evergrove.tiers.fog.step import settle, step

__all__ = ["Counted", "Member", "State", "settle", "step", "touches"]
