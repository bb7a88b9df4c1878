"""Evergrove: generative models that keep learning on the devices that run them, without forgetting.

``import evergrove as eg`` and ``eg.Device.open(folder)``; nothing heavy is imported before it is needed.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evergrove.bootstrap import Device as Device
    from evergrove.runtime.picture import Picture as Picture

__version__ = "0.1.0"
__all__ = ["Device", "Picture", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "Device":
        from evergrove.bootstrap import Device

        return Device
    if name == "Picture":
        from evergrove.runtime.picture import Picture

        return Picture
    raise AttributeError(f"module 'evergrove' has no attribute '{name}'")
