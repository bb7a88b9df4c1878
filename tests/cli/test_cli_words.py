"""How words on a command line become settings, conditions and devices, and how answers are written."""

import sys

import pytest

from evergrove.cli import show
from evergrove.cli.common import confirm, find_device, parse_condition, parse_settings
from evergrove.cli.golden import spread
from evergrove.cli.status import counts
from evergrove.core.errors import ConfigError, UsageError


def test_a_condition_is_words_of_factor_and_value() -> None:
    """Spaces around the sign do no harm, and a value may hold a further ``=``."""
    assert parse_condition(["emotion=happy", "hair = bob", "note=a=b"]) == {
        "emotion": "happy",
        "hair": "bob",
        "note": "a=b",
    }


@pytest.mark.parametrize("words", [["emotion"], ["=happy"], ["emotion="], ["emotion=sad", "emotion=happy"]])
def test_a_word_that_is_no_condition_is_refused_with_an_example(words: list[str]) -> None:
    """The message names the word, and the way out or both values."""
    with pytest.raises(UsageError, match=r"factor=value|given twice"):
        parse_condition(words)


def test_settings_are_keys_and_values() -> None:
    """A later one wins; one without a value is a fault of configuration (exit code 3)."""
    assert parse_settings(["learn.steps=1", "learn.steps=2"]) == {"learn.steps": "2"}
    assert parse_settings(None) == {}
    with pytest.raises(ConfigError, match=r"section\.key=value"):
        parse_settings(["learn.steps"])


def test_the_current_folder_is_the_device_if_it_is_one(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """Without --device and without a device here, the message says the three ways to name one."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="EVERGROVE_DEVICE"):
        find_device(None)
    with pytest.raises(UsageError, match="evergrove init"):
        find_device(tmp_path / "nowhere")
    (tmp_path / "device.toml").touch()
    assert find_device(None) == tmp_path


def test_nothing_is_lost_without_a_yes(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """Where nobody can answer, the question is not asked but refused; --yes goes ahead."""
    monkeypatch.setattr(sys, "stdin", open("/dev/null"))  # noqa: SIM115
    with pytest.raises(UsageError, match="--yes"):
        confirm("Give it up?", yes=False)
    confirm("Give it up?", yes=True)
    sys.stdin.close()


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0 B"), (999, "999 B"), (1_572_864, "1.6 MB"), (3.2e9, "3.2 GB"), (5e12, "5.0 TB")]
)
def test_sizes_are_decimal(value: float, text: str) -> None:
    """Thousands, not 1024s: as disks are sold."""
    assert show.size(value) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59, "59 s"), (75.2, "1 min 15 s"), (7260, "2 h 1 min")])
def test_durations_have_two_units_at_most(seconds: float, text: str) -> None:
    """More would be noise."""
    assert show.duration(seconds) == text


def test_sentences_begin_large_and_end_with_a_stop() -> None:
    """The log's sentences have neither."""
    assert show.sentence("the gate accepted the update") == "The gate accepted the update."
    assert show.sentence("Done!") == "Done!"
    assert (show.plural(1, "picture"), show.plural(2, "picture")) == ("1 picture", "2 pictures")
    assert (show.version_name(None), show.version_name("abcdef0123456789")) == ("release", "abcdef01")


def test_counts_are_said_once_where_they_are_equal() -> None:
    """A golden set is usually balanced."""
    assert spread({"happy": 48, "sad": 48}) == "happy, sad: 48 each"
    assert spread({"happy": 2, "sad": 48}) == "sad 48, happy 2"
    assert counts({}) == "empty"
    assert counts({"emotion=love": 24, "emotion=dizzy": 1}) == "25 (emotion=dizzy 1, emotion=love 24)"


def test_json_is_one_document_and_a_table_has_no_trailing_blanks(capsys) -> None:  # type: ignore[no-untyped-def]
    """So that both can be piped on."""
    show.json({"loss": float("nan")})
    assert capsys.readouterr().out == '{\n  "loss": null\n}\n'
    show.table([("a", "1"), ("longer", "22")], ("name", "n"), right=(1,))
    assert capsys.readouterr().out == "name      n\na         1\nlonger   22\n"


def test_progress_goes_to_stderr_in_plain_lines_where_nobody_watches(capsys, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """One line every five seconds, with the time that is left."""
    now_s = iter([0.0, 1.0, 6.0, 7.0])
    monkeypatch.setattr(show.time, "monotonic", lambda: next(now_s))
    with show.Progress("observing") as progress:
        for done in (1, 2, 3):
            progress.update(done, 4, note="a.png")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "observing: 2/4, a.png, 6 s left\n"
