"""User-level differential privacy of the grove (DESIGN §7): clip, noise, account, refuse what the proof does not cover.

A device imports ``clipping`` and ``participation`` (numpy, msgspec). A fog and a cloud import the rest; ``accounting``
alone reaches for ``dp_accounting``, and ``optimise`` and ``accounting`` for scipy, when they are first asked.
"""
