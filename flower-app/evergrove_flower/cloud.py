"""The ServerApp that a SuperLink runs."""

from evergrove.adapters.flower.server_app import app

__all__ = ["app"]
