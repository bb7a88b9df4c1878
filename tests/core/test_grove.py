"""``grove.toml``: tiers by their folders, and everything that cannot be meant is refused by name."""

import pytest

from evergrove.core.errors import ConfigError
from evergrove.core.grove import Grove, GroveDevice, GroveFog, load


def test_a_file_is_read_and_nothing_is_a_cloud_alone() -> None:
    """Defaults stand for what is not said."""
    assert load("", "grove.toml") == Grove()
    text = "[[fog]]\nfolder = 'n'\nname = 'north'\nepsilon = 1.0\n[[device]]\nfolder = 'kitchen'\n"
    found = load(text, "grove.toml")
    assert found.fog == (GroveFog("n", "north", epsilon=1.0),)
    assert found.device == (GroveDevice("kitchen"),)
    assert found.cloud.port == 8473


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[cloud", "not valid TOML"),
        ("[clud]\nport = 1", "unknown key 'clud'.*did you mean 'cloud'"),
        ("[[fog]]\nfolder = 'n'\nname = 'n'\nprot = 1", r"unknown key 'fog\[0\]\.prot'.*port"),
        ("[[fog]]\nfolder = 'n'", "name"),
        ("[fog]\nfolder = 'n'\nname = 'n'", r"write \[\[fog\]\]"),
        ("[[fog]]\nfolder = 'n'\nname = 'n'\nport = 8473", "a port twice: 8473"),
        ("[[fog]]\nfolder='a'\nname='n'\n[[fog]]\nfolder='b'\nname='n'\nport=1", "a fog's name twice: n"),
    ],
)
def test_what_cannot_be_meant_is_refused(text: str, words: str) -> None:
    """One line with the file and the key."""
    with pytest.raises(ConfigError, match=words) as fault:
        load(text, "grove.toml")
    assert "grove.toml" in str(fault.value)
