"""``evergrove bench forgetting``: ours and the published rivals over the same streams, equal in steps and in bytes.

A *stream* is a row of *lessons*; after each the network is asked for every lesson's conditions, and what it draws is
compared with held-out pictures. Streams, judges, metrics, the race and its tables each have a file here.
"""
