"""``evergrove``: puts the commands together, and turns every error into one line and an exit code.

Exit codes: 0 ok, 1 failure, 2 usage, 3 config, 4 missing dependency or hardware, 5 gate rejected, 6 privacy budget
spent, 7 unreachable (``core/errors`` has them by class).
"""

import sys
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import typer

from evergrove import __version__
from evergrove.cli import (
    adapters,
    audit,
    base,
    bench,
    config,
    demo,
    device,
    doctor,
    forget,
    generate,
    golden,
    init,
    keys,
    learn,
    observe,
    rollback,
    rollout,
    show,
    simulate,
    status,
    up,
)
from evergrove.core.errors import EvergroveError

START, USE, INSPECT = "Start here", "Use a device", "See what it did, and undo it"
FLEET, BUILD = "Release to a fleet", "Build and measure"

app = typer.Typer(
    name="evergrove",
    help="Generative models that keep learning on the devices that run them, in private, without forgetting.\n\n"
    "Example: evergrove init face && cd face && evergrove generate emotion=happy --out happy.png",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def print_version(wanted: bool) -> None:
    """The option ``--version``, which needs no command."""
    if wanted:
        show.line(f"evergrove {__version__}")
        raise typer.Exit(0)


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=print_version)
    ] = False,
) -> None:
    """What stands before any command."""


app.command("demo", rich_help_panel=START)(demo.demo)
app.command("init", rich_help_panel=START)(init.init)
app.command("doctor", rich_help_panel=START)(doctor.doctor)
app.command("generate", rich_help_panel=USE)(generate.generate)
app.command("observe", rich_help_panel=USE)(observe.observe)
app.command("learn", rich_help_panel=USE)(learn.learn)
app.add_typer(up.app, name="up", rich_help_panel=USE)
app.command("status", rich_help_panel=INSPECT)(status.status)
app.command("rollback", rich_help_panel=INSPECT)(rollback.rollback)
app.command("audit", rich_help_panel=INSPECT)(audit.audit)
app.command("forget", rich_help_panel=INSPECT)(forget.forget)
app.add_typer(golden.app, name="golden", rich_help_panel=INSPECT)
app.add_typer(adapters.app, name="adapters", rich_help_panel=INSPECT)
app.command("config", rich_help_panel=INSPECT)(config.config)
app.add_typer(device.app, name="device", rich_help_panel=FLEET)
app.add_typer(keys.app, name="keys", rich_help_panel=FLEET)
app.add_typer(rollout.app, name="rollout", rich_help_panel=FLEET)
app.command("simulate", rich_help_panel=BUILD)(simulate.simulate)
app.add_typer(base.app, name="base", rich_help_panel=BUILD)
app.add_typer(bench.app, name="bench", rich_help_panel=BUILD)


def _refused() -> Any:
    """What typer raises for a command line that makes no sense: an error of its own, click's before typer 0.21."""
    own = getattr(typer, "TyperException", None)
    if own is None:
        import click

        own = click.ClickException
    return own


REFUSED = _refused()


def main() -> NoReturn:
    """The console script: run what the command line says, and exit with its code."""
    sys.exit(run(sys.argv[1:]))


def run(args: Sequence[str]) -> int:
    """Run one command line; returns its exit code. Every error becomes one line on stderr, see ``report``."""
    as_json = "--json" in args
    try:
        code = typer.main.get_command(app).main(list(args), prog_name="evergrove", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except EvergroveError as fault:
        return report(type(fault).__name__, str(fault), fault.exit_code, as_json, getattr(fault, "reason", ""))
    except REFUSED as fault:
        message = fault.format_message()
        if not message:  # a group without a command has printed its help
            return int(fault.exit_code)
        context = getattr(fault, "ctx", None)
        path = context.command_path if context is not None else "evergrove"
        return report("UsageError", f"{message} See `{path} --help`", fault.exit_code, as_json)
    except typer.Abort:
        return report("Aborted", "stopped; nothing was changed", 1, as_json)
    except BrokenPipeError:  # whoever read our stdout has seen enough
        sys.stderr.close()
        return 1
    except OSError as fault:
        return report(type(fault).__name__, _words(fault), 1, as_json)


def report(kind: str, message: str, exit_code: int, as_json: bool, reason: str = "") -> int:
    """Say what went wrong: one line on stderr, with ``--json`` also one object on stdout. Returns ``exit_code``."""
    message = " ".join(message.split())
    sys.stderr.write(f"error: {message}\n")
    if as_json:
        fault: dict[str, str | int] = {"kind": kind, "message": message, "exit_code": exit_code}
        show.json({"error": fault | ({"reason": reason} if reason else {})})
    return exit_code


def _words(fault: OSError) -> str:
    what = fault.strerror or str(fault) or type(fault).__name__
    return f"{what}: '{fault.filename}'" if fault.filename else what


if __name__ == "__main__":
    main()
