"""The attack on the adapter of a real device: what was trained on against what was held back, of the same condition."""

from collections.abc import Callable

import pytest

from evergrove import bootstrap
from evergrove.bootstrap import Device
from evergrove.core.errors import UsageError
from evergrove.runtime.membership import attack

from .conftest import CONFIG, new_condition, strange_pictures

EASY = CONFIG.replace("golden_every = 3", "golden_every = 2").replace(
    "items_min = 2", "items_min = 2\ndelta = 9.0\ncumulative = 9.0\ntau = 9.0\nown = 9.0"
)


def test_a_learnt_adapter_is_attacked_with_what_the_device_holds(make_device: Callable[..., Device]) -> None:
    """Too little held back: said. Then a dozen golden items: one false accusation at most, and an interval."""
    device, name = make_device(EASY), new_condition()
    release = bootstrap.read_release(device.root, bootstrap.read_identity(device.root))
    shown = strange_pictures(40)
    for picture in shown[:8]:
        device.observe(picture, name)
    with pytest.raises(UsageError, match="no personal adapter"):
        attack(device.root, release, bootstrap.read_state(device.root))
    assert device.learn().verdict == "accepted"
    with pytest.raises(UsageError, match="10 of the latter are needed"):
        attack(device.root, release, bootstrap.read_state(device.root))
    for picture in shown[8:]:
        device.observe(picture, name)
    state = bootstrap.read_state(device.root)
    found = attack(device.root, release, state)
    assert state.seen is not None
    assert (found.version, found.n_members) == (state.active, state.seen.records)
    assert 10 <= found.n_others <= 12
    assert found.fpr <= found.fpr_most == 1 / found.n_others
    assert found.low <= found.tpr <= found.high
