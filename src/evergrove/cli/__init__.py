"""The command line: one thin file per command, which parses words, calls the library and shows the answer.

Data goes to stdout, progress to stderr. Nothing here imports torch, numpy, Pillow or cryptography at its top level, so
that ``--help`` answers at once.
"""
