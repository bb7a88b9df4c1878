"""The ClientApp that a fog's SuperNode runs."""

from evergrove.adapters.flower.client_app import app

__all__ = ["app"]
