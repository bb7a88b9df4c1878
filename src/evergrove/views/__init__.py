"""What a log says, folded into something that a person can read: tallies, matrices, histories, sentences.

Every view is a pure fold over events (``of(lines)``), so a report, a dashboard and a command line show the same.
"""
