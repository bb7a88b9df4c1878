"""HTTP: the local API of a device. In come requests from apps on the same machine, out go pictures and facts.

Needs the extra ``web`` (Starlette, uvicorn, python-multipart); nothing below this room knows of it.
"""
