"""`signalbox up` as a user has it: one command, everything that it starts, and the API that it answers with."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from signalbox.client import Client
from signalbox.write_lock import WriteLockWatch
from tests.support.cluster import HANDLERS
from tests.support.processes import Child, Processes
from tests.support.waiting import wait_until

UP_SECONDS = 60.0


@dataclass(frozen=True)
class Up:
    """One running `signalbox up` on a data folder."""

    child: Child
    data: Path

    @classmethod
    def start(cls, processes: Processes, env: Mapping[str, str], *, port: int) -> Up:
        """Start it in the folder of the test, at a port of its own, and wait until it says that it is up."""
        data = processes.folder / "data"
        command = ("signalbox", "up", "--data", str(data), "--port", str(port))
        child = processes.start("up", *command, env={"SIGNALBOX_HANDLERS": HANDLERS, **env})
        child.wait_for_log("Signalbox is up", seconds=UP_SECONDS)
        return cls(child, data)

    @property
    def ledger(self) -> Path:
        return self.data / "ledger"

    def client(self) -> Client:
        return Client((self.data / "url").read_text().strip(), (self.data / "key").read_text().strip())

    def kill_everything(self) -> int:
        """SIGKILL to the supervisor and to everything below it; returns how many processes that were."""
        root = psutil.Process(self.child.pid)
        family = [root, *root.children(recursive=True)]
        for process in family:  # the supervisor first: it must not bring anything back
            process.kill()
        self.child.wait(seconds=10)
        wait_until(
            lambda: not [one for one in family if runs(one)],
            what="every process of `signalbox up` to be gone",
            seconds=10,
        )
        return len(family)


def freeze_holder(database: Path, pids: Sequence[int]) -> int | None:
    """Freeze whichever of `pids` holds the write lock of a SQLite file; None where none does, or none for long enough."""
    until = time.monotonic() + 0.2
    while time.monotonic() < until:
        pid = _holder(database)
        if pid is None or pid not in pids:
            continue
        process = psutil.Process(pid)
        process.suspend()
        _await_stop(pid)
        if _holder(database) == pid:  # it has not let go before it froze
            return pid
        process.resume()
    return None


def _await_stop(pid: int) -> None:
    """SIGSTOP is only sent when `suspend` returns: a thread may still end its call, and let go of the lock by it."""
    tasks = Path(f"/proc/{pid}/task")
    wait_until(
        lambda: all(_state(task) in "tTZX" for task in tasks.iterdir()),
        what=f"every thread of process {pid} to stand still",
    )


def _state(task: Path) -> str:
    """The state of a thread, as proc_pid_stat(5) has it; X for one that is gone."""
    try:
        return (task / "stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


def _holder(database: Path) -> int | None:
    watch = WriteLockWatch(Path(f"{database}.lock"), patience=-1.0)
    watch.overdue(0.0)
    return watch.overdue(0.0)


def runs(process: psutil.Process) -> bool:
    """A zombie that nobody has reaped yet runs no more."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
