"""A scenario says what it is about, and nothing that nobody understands."""

from pathlib import Path

import pytest

from evergrove.core.errors import ConfigError
from evergrove.sim import scenario

EXAMPLES = Path(__file__).parents[2] / "examples" / "scenarios"
SMALL = 'name = "small"\n[[fleet]]\nname = "phone"\n'


def test_a_name_and_a_fleet_are_enough() -> None:
    """Everything else has a default."""
    found = scenario.parse(SMALL)
    assert found.n_devices == 1
    assert found.fleet[0].usage.day == "phone"
    assert found.fleet[0].device_config(found.fog).learn.min_new == 24


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.toml")), ids=lambda p: p.stem)
def test_every_example_is_understood_and_written_back(path: Path) -> None:
    """``parse(dump(x))`` is ``x``, and the file is called what it is."""
    found = scenario.load(path)
    assert scenario.parse(scenario.dump(found)) == found
    assert found.name == path.stem


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (SMALL + "cout = 3\n", r"unknown key 'fleet\[0\].cout'; did you mean 'count'"),
        (SMALL + "[fleet.usage]\nsesions_per_day = 3\n", r"'fleet\[0\].usage.sesions_per_day'; did you mean"),
        (SMALL + "[fleet.config.learn]\nmin_neww = 3\n", "fleet 'phone': config: unknown key 'learn.min_neww'"),
        (SMALL + "[faults.crash]\nper_dy = 3\n", "unknown key 'faults.crash.per_dy'; did you mean 'per_day'"),
        (SMALL + "[fleet.usage]\nday = 'watch'\n", "Invalid enum value 'watch'"),
        (SMALL + "[fleet.usage]\nheavy_share = 1.5\n", "heavy_share = 1.5, must be between 0 and 1"),
        (SMALL + "[fleet.power]\ncapacity_wh = -1\n", "capacity_wh = -1.0, must be a number that is not negative"),
        (SMALL + "[fleet.heat]\nr_c = [1, 2]\n", "r_c needs three numbers"),
        (SMALL + "[fleet.stream]\nknown = []\n", "stream.known needs at least one"),
        (SMALL + "[fleet.config.learn]\nmin_new = 0\n", "learn.min_new = 0, must be greater than 0"),
        (SMALL + "count = 0\n", "count and n_cores must be at least 1"),
        (SMALL + "[[fleet]]\nname = 'phone'\n", "two fleets are called 'phone'"),
        ("hours = 0\n" + SMALL, "hours = 0.0, must be greater"),
        ("start_hour = 24\n" + SMALL, "start_hour = 24.0"),
        ("name = 'x'\nfleet = []\n", "no devices"),
        ("name = 'x'\n[fleet]\nname = 'phone'\n", r"write \[\[fleet\]\]"),
        ("name = 'x'\nfleet = [3]\n", r"write \[\[fleet\]\]"),
        ("name = ", "not valid TOML"),
        ("fog = 3\n" + SMALL, r"write \[fog\]"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_way_out(text: str, words: str) -> None:
    """The message names the key, where it stands, and the nearest right one or the range."""
    with pytest.raises(ConfigError, match=words):
        scenario.parse(text)


def test_a_file_that_is_not_there_names_the_nearest_one(tmp_path: Path) -> None:
    """A slip of the finger is answered with the right name; an empty folder with the form."""
    (tmp_path / "phones.toml").write_text(SMALL)
    with pytest.raises(ConfigError, match=r"no such file; did you mean '.*phones.toml'"):
        scenario.load(tmp_path / "phone.toml")
    with pytest.raises(ConfigError, match="give the path"):
        scenario.load(tmp_path / "nowhere" / "phone.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        scenario.load(tmp_path / "bytes.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        scenario.load(tmp_path)
