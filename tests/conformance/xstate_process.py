"""The real XState in a node process: cases in, answers out."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent / "xstate"
INSTALLED = FOLDER / "node_modules" / "xstate" / "package.json"


class XStateMissing(Exception):
    """There is no node or npm, or XState cannot be installed with them."""


def install() -> None:
    """Install the XState that the lock file names, unless it is there. Raises `XStateMissing`."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            raise XStateMissing(
                f"expected {program} on the PATH, found none; comparing with the real XState takes node 20 or newer. "
                "The recorded answers need neither: pytest tests/conformance"
            )
    if INSTALLED.is_file() and _installed_version() == _locked_version():
        return
    run = subprocess.run(["npm", "ci"], capture_output=True, text=True, check=False, cwd=FOLDER)
    if run.returncode:
        raise XStateMissing(f"`npm ci` in {FOLDER} ended with {run.returncode}: {run.stderr[-2000:]}")


def answers(cases: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """XState's answer to each case, in order."""
    lines = "".join(f"{json.dumps(case)}\n" for case in cases)
    run = subprocess.run(
        ["node", "run.mjs"], input=lines, capture_output=True, text=True, check=False, cwd=FOLDER
    )
    if run.returncode:
        raise RuntimeError(f"node run.mjs ended with {run.returncode}: {run.stderr[-2000:]}")
    return [json.loads(line) for line in run.stdout.splitlines()]


def _installed_version() -> str:
    return str(json.loads(INSTALLED.read_text())["version"])


def _locked_version() -> str:
    lock = json.loads((FOLDER / "package-lock.json").read_text())
    return str(lock["packages"]["node_modules/xstate"]["version"])
