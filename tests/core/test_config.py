"""Configuration: precedence, and errors that name the key, the place and the nearest right one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evergrove.core import config
from evergrove.core.errors import ConfigError


def test_defaults_round_trip_through_toml() -> None:
    """What ``dump`` writes, ``load`` reads back as the same tree."""
    assert config.load(config.dump(config.Config())) == config.Config()


def test_flag_beats_environment_beats_file_beats_default() -> None:
    """The same key from all four places."""
    text, env, flag = (
        "[learn]\nsteps = 1\nbatch = 3",
        {"EVERGROVE_LEARN__STEPS": "2", "HOME": "/"},
        {"learn.steps": "4"},
    )
    assert config.load().learn.steps == config.Learn().steps
    assert config.load(text).learn.steps == 1
    assert config.load(text, env).learn.steps == 2
    loaded = config.load(text, env, flag)
    assert (loaded.learn.steps, loaded.learn.batch) == (4, 3)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[learn]\nstep = 3", "unknown key 'learn.step'; did you mean 'steps'"),
        ("[lern]\nsteps = 3", "unknown key 'lern'; did you mean 'learn'"),
        ("learn = 3", "'learn' is a section"),
        ("[learn]\nsteps = 'many'", "Expected `int`, got `str`"),
        ("[learn\n", "not valid TOML"),
        ("[learn]\nsteps = 0", "learn.steps = 0, must be greater than 0"),
        ("[telemetry]\nperiod_s = 0", "telemetry.period_s = 0.0, must be greater than 0"),
        ("[telemetry]\nmetered = 'maybe'", "telemetry.metered = 'maybe', must be auto, yes or no"),
        ("[telemetry]\nroot = 'sys'", "telemetry.root = 'sys', must be a path from / on"),
        ("[gate]\nalpha = 1.5", "gate.alpha = 1.5, must be between 0 and 1"),
        ("[probation]\nerrors_max = -1", "probation.errors_max = -1, must be 0 or more"),
        ("[shield]\ntrip_c_default = nan", "shield.trip_c_default = nan, must be 0 or more"),
        ("[generate]\npoll_s = 0", "generate.poll_s = 0.0, must be greater than 0"),
        ("seed = -1", "seed = -1, must be between 0 and"),
        ("[novelty]\ngolden_capacity = 3", "gate.items_min = 4 golden items of a condition: nothing could"),
    ],
)
def test_a_wrong_file_is_refused_in_words(text: str, words: str) -> None:
    """Each error names what is wrong, and where."""
    with pytest.raises(ConfigError, match=words) as fault:
        config.load(text, where="device.toml")
    assert "device.toml" in str(fault.value)
    assert fault.value.exit_code == 3


@pytest.mark.parametrize(
    ("env", "flags", "words"),
    [
        ({"EVERGROVE_LEARN__STEPZ": "3"}, {}, "EVERGROVE_LEARN__STEPZ: unknown key"),
        ({}, {"learn.steps": "x"}, "--set learn.steps: 'x' is not a int"),
        ({}, {"learn.steps.more": "1"}, "unknown key 'learn.steps.more'"),
    ],
)
def test_a_wrong_variable_or_flag_is_refused_by_its_name(
    env: dict[str, str], flags: dict[str, str], words: str
) -> None:
    """The message names the variable or the flag, not a file."""
    with pytest.raises(ConfigError, match=words):
        config.load("", env, flags)


@given(url=st.text())
def test_any_words_come_back_from_what_is_written_out(url: str) -> None:
    """Quotes, backslashes and control characters: what `--set` wrote into a device must be read at its next start."""
    said = config.Config(fog=config.Fog(assist_url=url))
    assert config.load(config.dump(said)) == said


def test_booleans_are_read_as_people_write_them() -> None:
    """``False`` from a shell is false."""
    assert config.load("", {"EVERGROVE_LEARN__AUTO": "False"}).learn.auto is False
