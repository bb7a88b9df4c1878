"""``evergrove rollback``: go back to the version before this one."""

from evergrove.cli import show
from evergrove.cli.common import AsJson, DeviceOption, Yes, confirm, open_device
from evergrove.core.errors import UsageError


def rollback(device: DeviceOption = None, yes: Yes = False, as_json: AsJson = False) -> None:
    """Go back to the version that was active before; the one you leave is given up.

    Example: evergrove rollback --yes
    """
    with open_device(device) as opened:
        before = opened.status()
        if before.active is None:
            raise UsageError("the release alone is active: there is no version before it to go back to")
        leaving, back_to = show.version_words(before.active), show.version_words(before.previous)
        confirm(f"Give up {leaving} and go back to {back_to}?", yes)
        done = opened.rollback()
        after = opened.status()
    if as_json:
        show.json({"from": before.active, "to": after.active, "note": done.note})
        return
    show.line(show.sentence(done.note or f"Gave up {leaving}; {show.version_words(after.active)} is active again"))
