"""The manners of the command line: quick help, one line per error, exit codes, JSON and nothing else."""

import subprocess
import sys

import pytest

from evergrove.cli import main
from evergrove.core import errors

HEAVY = ("torch", "numpy", "PIL", "cryptography")
COMMANDS = (
    "demo", "init", "doctor", "generate", "observe", "learn", "status", "rollback", "config",
    "golden show", "golden check", "adapters list", "adapters show", "adapters offer", "bench device",
    "bench telemetry", "bench agent",
)  # fmt: skip


def test_help_imports_nothing_heavy() -> None:
    """``evergrove --help`` answers at once: counted in modules, which unlike seconds do not depend on the machine."""
    probe = (
        "import sys; from evergrove.cli.main import run; code = run(['--help']);"
        f"print(code, [m for m in {HEAVY!r} if m in sys.modules], len(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True, timeout=60)
    code, heavy, n_modules = (
        done.stderr.split(" ", 1)[0],
        done.stderr.split("[")[1].split("]")[0],
        done.stderr.split()[-1],
    )
    assert (code, heavy) == ("0", "")
    assert int(n_modules) < 500
    assert "Start here" in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_has_an_example(command: str, evergrove) -> None:  # type: ignore[no-untyped-def]
    """And the example begins with the command itself, or sets a variable for it."""
    said = evergrove(*command.split(), "--help")
    assert said.code == 0
    (example,) = [line for line in said.out.splitlines() if "Example:" in line]
    assert f"evergrove {command.split()[0]}" in example


def test_json_is_an_option_of_every_command(evergrove) -> None:  # type: ignore[no-untyped-def]
    """Not of some."""
    assert all("--json" in evergrove(*command.split(), "--help").out for command in COMMANDS)


KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.EvergroveError)]


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_error_has_its_exit_code(kind, evergrove, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """One line on stderr; with --json also one object on stdout, and no traceback."""
    with_reason = kind in (errors.InvalidMedia, errors.UpdateRefused)
    fault = kind("blank", "what went\nwrong") if with_reason else kind("what went\nwrong")

    def fail(*_: object, **__: object) -> None:
        raise fault

    monkeypatch.setattr("evergrove.core.config.load", fail)
    monkeypatch.setattr("evergrove.cli.config.load", fail)
    plain, as_json = evergrove("config"), evergrove("config", "--json")
    assert (plain.code, plain.out, plain.err) == (kind.exit_code, "", "error: what went wrong\n")
    assert as_json.json["error"]["kind"] == kind.__name__
    assert as_json.json["error"]["exit_code"] == as_json.code == kind.exit_code
    assert ("reason" in as_json.json["error"]) == with_reason


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["lern"], "learn"),
        (["learn", "--setps", "3"], "--steps"),
        (["learn", "--steps", "few"], "learn --help"),
        (["init"], "PATH"),
        (["generate", "emotion=happy", "--out", "face.gif"], ".png"),
        (["generate", "emotion=happy"], "EVERGROVE_DEVICE"),
        (["observe", "emotion=happy"], "name a file"),
        (["observe", "no-such.png", "emotion=happy"], "no-such.png"),
    ],
)
def test_a_wrong_command_line_is_one_line_with_a_way_out(words, hint, evergrove, tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """Exit code 2, and the message names what there is instead."""
    monkeypatch.chdir(tmp_path)
    said = evergrove(*words)
    assert said.code == 2
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert hint in said.err


def test_a_file_that_cannot_be_written_is_a_failure_in_one_line(evergrove, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """Errors of the system name their file."""

    def fail(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "/root/face.png")

    monkeypatch.setattr("evergrove.cli.config.load", fail)
    said = evergrove("config")
    assert (said.code, said.err) == (1, "error: Permission denied: '/root/face.png'\n")


def test_version_and_a_group_without_a_command(evergrove) -> None:  # type: ignore[no-untyped-def]
    """A group alone shows its help and counts as wrong usage."""
    assert evergrove("--version").out.startswith("evergrove ")
    assert evergrove("adapters").code == 2
    assert main.report("UsageError", "x", 2, as_json=False) == 2
