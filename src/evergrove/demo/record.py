"""The folder that a run leaves behind: pictures, numbers, events, adapters and the configuration that made them."""

import contextlib
import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from evergrove.core import config, events
from evergrove.core.errors import EvergroveError

LATEST = "latest"


@dataclass(frozen=True)
class Outcome:
    """What the command line prints: ``metrics`` as in metrics.json, ``verdict`` lines, whether every bar holds."""

    metrics: dict[str, object]
    verdict: tuple[str, ...]
    ok: bool
    folder: Path


def new_run(runs: Path, name: str) -> Path:
    """A fresh folder ``runs/<date>-<name>``. Raises ``EvergroveError`` where none can be made."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for number in range(100):
        folder = runs / (f"{stamp}-{name}" + (f"-{number}" if number else ""))
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as fault:
            raise EvergroveError(f"{folder}: cannot be made ({fault.strerror}); choose another --runs") from fault
        return folder
    raise EvergroveError(f"{runs}: a hundred runs within one second; wait a moment")


def point_latest(folder: Path) -> None:
    """``runs/latest`` leads to this run; left out where the file system has no symbolic links."""
    link, fresh = folder.parent / LATEST, folder.parent / f".{LATEST}.{os.getpid()}"
    with contextlib.suppress(OSError):
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(folder.name)
        fresh.replace(link)


def write_events(path: Path, logs: Mapping[str, Sequence[events.Stamped]]) -> None:
    """All devices' events, one JSON line each, ``{"device": …, "at_s": …, "event": {…}}``, in order of time."""
    lines = [(line.at_s, name, line) for name, log in logs.items() for line in log]
    with path.open("w", encoding="utf-8") as file:
        for _, name, line in sorted(lines, key=lambda item: item[0]):
            file.write(json.dumps({"device": name, **msgspec.to_builtins(line)}) + "\n")


def write_ledger(path: Path, sockets: int | None) -> None:
    """Every byte that left the devices, by kind: a header and no line, since nothing here opens a connection."""
    header = {
        "schema": 1,
        "what": "bytes that left the devices, one line per message: at_s, kind, to, n_bytes",
        "note": "no lines follow: a device by itself learns and generates without a network",
        "network_sockets_seen": sockets,
    }
    path.write_text(json.dumps(header) + "\n", encoding="utf-8")


def write_config(path: Path, configs: Mapping[str, config.Config]) -> None:
    """The resolved configuration of the last device, and where the others differ from it, as comments."""
    *others, (name, main) = configs.items()
    text = f"# device '{name}', every key resolved\n{config.dump(main)}"
    mine = dict(_flat(main))
    for other, tree in others:
        differences = [f"#   {key} = {value!r}" for key, value in _flat(tree) if mine[key] != value]
        text += f"\n# device '{other}' differs only in\n" + "\n".join(differences or ["#   nothing"]) + "\n"
    path.write_text(text, encoding="utf-8")


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """A JSON document for people and programs."""
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def copy_adapters(folder: Path, files: Mapping[str, Path]) -> None:
    """The run's adapters under plain names."""
    folder.mkdir(exist_ok=True)
    for name, path in files.items():
        shutil.copyfile(path, folder / f"{name}.safetensors")


def _flat(tree: config.Config) -> list[tuple[str, object]]:
    pairs: list[tuple[str, object]] = []
    for name, value in msgspec.to_builtins(tree).items():
        if isinstance(value, dict):
            pairs += [(f"{name}.{key}", inner) for key, inner in value.items()]
        else:
            pairs.append((name, value))
    return pairs
