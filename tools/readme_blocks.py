"""Runs every bash and python block of a README, in order, in a scratch folder: ``tools/readme_blocks.py README.md``.

What a reader would paste must work, and what is linked or shown from beside the page must be there. Blocks share the
folder and the home directory (both empty at first) and nothing else. A block that cannot run here carries
``<!-- no-run: reason -->`` on the line before it; its reason is listed.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

TIMEOUT_S = 1800
LANGUAGES = ("bash", "python")
FENCE = re.compile(r"^( *)```([\w-]*)[^\n]*\n(.*?)^\1``` *$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)")
NO_RUN = re.compile(r"<!--\s*no-run:\s*((?:(?!-->).)*?)\s*-->\s*\Z", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block: the line where it begins, its language, its text, and why it is not run (None: it is run)."""

    line: int
    language: str
    text: str
    no_run: str | None


def blocks(text: str) -> list[Block]:
    """The bash and python blocks of a Markdown text, in order."""
    found = []
    for match in FENCE.finditer(text):
        indent, language, body = match.groups()
        if language in LANGUAGES:
            before = text[: match.start()]
            reason = NO_RUN.search(before)
            body = re.sub(f"^{indent}", "", body, flags=re.MULTILINE)
            found.append(Block(before.count("\n") + 1, language, body, reason.group(1) if reason else None))
    return found


def missing(text: str, folder: Path) -> list[str]:
    """The files that a Markdown text in ``folder`` links to or shows, and that are not there."""
    return [name for name in LINK.findall(text) if not (folder / name).exists()]


def run(block: Block, folder: Path) -> tuple[int, str]:
    """The exit code of a block, and what it printed. 124 means that it took longer than ``TIMEOUT_S``."""
    command = ["bash", "-euo", "pipefail", "-c"] if block.language == "bash" else [sys.executable, "-c"]
    home = folder / "home"
    home.mkdir(exist_ok=True)
    env = {
        **os.environ,
        "HOME": str(home),
        "XDG_RUNTIME_DIR": str(home),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
    }
    try:
        done = subprocess.run(
            [*command, block.text],
            cwd=folder,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=TIMEOUT_S,
            text=True,
            errors="replace",
        )
    except subprocess.TimeoutExpired as fault:
        said = fault.stdout or b""
        return 124, said.decode("utf-8", "replace") if isinstance(said, bytes) else said
    return done.returncode, done.stdout


def main(arguments: list[str]) -> int:
    """0 when every block that is to run does; stops at the first that fails, because later ones build on it."""
    path = Path(arguments[0] if arguments else "README.md")
    text = path.read_text(encoding="utf-8")
    if gone := missing(text, path.parent):
        print(f"{path} links to what is not there: {', '.join(gone)}", file=sys.stderr)
        return 1
    found = blocks(text)
    folder = Path(tempfile.mkdtemp(prefix="readme-"))
    try:
        for block in found:
            where = f"{path}:{block.line} {block.language}"
            if block.no_run is not None:
                print(f"skipped  {where}: {block.no_run}", flush=True)
                continue
            begun = time.monotonic()
            code, said = run(block, folder)
            print(f"{'ok      ' if code == 0 else 'FAILED  '} {where} ({time.monotonic() - begun:.1f} s)", flush=True)
            if code != 0:
                print(f"exit code {code} of:\n{block.text}\nwhich printed:\n{said}", file=sys.stderr)
                return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    n_run = sum(block.no_run is None for block in found)
    print(f"{n_run} blocks ran, {len(found) - n_run} skipped")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
