"""`signalbox up` in a folder of its own, and the command line that its user talks to it with."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.support.forked import forked_command
from tests.support.processes import Child, Processes, plain_environment

UP_SECONDS = 60
STOP_SECONDS = 20
PARTS = {"broker", "api", "orchestrator", "task-runner"}
HELLO = Path(__file__).parents[2] / "fixtures" / "001-hello-workflow.json"


@dataclass(frozen=True)
class Up:
    """One `signalbox up`, and the command line that talks to it."""

    child: Child
    home: Path

    @property
    def data(self) -> Path:
        return self.home / ".signalbox"

    @property
    def url(self) -> str:
        return (self.data / "url").read_text().strip()

    def cli(self, *arguments: str, stdin: str = "", **env: str) -> subprocess.CompletedProcess[str]:
        """Run `signalbox …` in the folder of this `up`, as its user would, in a process that has its libraries already."""
        environment = plain_environment(self.home, env)
        return forked_command(arguments, env=environment, folder=self.home, stdin=stdin, seconds=60)

    def json(self, *arguments: str) -> Any:
        """The JSON answer of a command that must succeed."""
        answer = self.cli(*arguments, "--json")
        assert answer.returncode == 0, (
            f"{arguments}: exit {answer.returncode}\n{answer.stdout}{answer.stderr}"
        )
        return json.loads(answer.stdout)

    def pids(self) -> dict[str, int]:
        """The process of each part, as it was told at the start."""
        found = re.findall(r"✓ (\S+) .*pid (\d+)", self.child.log())
        return {part: int(pid) for part, pid in found}


def start_up(processes: Processes, *options: str, name: str = "up", env: dict[str, str] | None = None) -> Up:
    child = processes.start(name, "signalbox", "up", *options, env=env)
    child.wait_for_log("Signalbox is up", seconds=UP_SECONDS)
    child.wait_for_log("signalbox apply FILE", seconds=5)
    return Up(child, processes.folder)


def family(pid: int) -> list[psutil.Process]:
    """A process and everything below it."""
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def command_line(process: psutil.Process) -> list[str]:
    """Its arguments; none of one that has ended, which may be between our finding it and our asking."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def living(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that still run; a zombie that nobody has reaped yet runs no more."""
    found = []
    for process in processes:
        try:
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found
