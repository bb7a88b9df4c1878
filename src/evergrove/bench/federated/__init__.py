"""How good a release gets that a fleet learnt apart: beside training on everyone's data, over ε, bytes and attackers.

Everything that decides is the production rule: clipping, exact sums, BLT noise, ledger, server optimiser, gate. What
stands in for a thousand devices is one batched pass in which each has its own B, rows, data and optimiser
(``learn/layers``, as ``learn/together`` does). ``benchmarks/federated.py`` is the command.
"""
