"""The outside world behind small classes: files, the event log, the encrypted buffer, media bytes, sockets, releases.

Imports the standard library, msgspec, numpy, cryptography and Pillow; never torch, so that an agent stays small.
"""
