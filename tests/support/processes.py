"""Real processes under test: started with a known environment, watched by facts, always cleaned up.

Each child leads its own process group and writes stdout and stderr to one log file. On Linux the
kernel kills a child whose test run died (`PR_SET_PDEATHSIG`), so that a `kill -9` of pytest leaves
nothing behind; that signal follows the *thread* that started the child, therefore start children
from the main thread. Nothing here ends a process that it did not start.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from common.parent import die_with_parent
from tests.support.waiting import crowd, wait_until

BIN = Path(sys.executable).parent
LOG_TAIL_CHARACTERS = 6_000


@dataclass(frozen=True)
class Account:
    """The system account that a child runs as: numeric user and group."""

    uid: int
    gid: int


class Running(Protocol):
    """What is asked of the handle of a process: `subprocess.Popen`, or one like it."""

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...

    def send_signal(self, number: int, /) -> None: ...

    def terminate(self) -> None: ...


@dataclass(frozen=True)
class Child:
    """One running process: its name in messages, its handle, and the file that it logs to."""

    name: str
    popen: Running
    log_path: Path

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def is_alive(self) -> bool:
        return self.popen.poll() is None

    @property
    def exit_code(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self.popen.poll()

    def log(self) -> str:
        """Everything that the child wrote so far, stdout and stderr in order."""
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def log_tail(self) -> str:
        return self.log()[-LOG_TAIL_CHARACTERS:]

    def wait_for_log(self, text: str, *, seconds: float = 15.0) -> None:
        """Wait until `text` stands in the log; a child that ends first fails the wait at once."""

        def is_logged() -> bool:
            if text in self.log():
                return True
            assert self.is_alive, (
                f"{self.name} ended with {self.exit_code} before {text!r}:\n{self.log_tail()}"
            )
            return False

        wait_until(is_logged, what=f"{text!r} in the log of {self.name}", seconds=seconds)

    def wait_until_ready(self, condition: Callable[[], bool], *, what: str, seconds: float = 20.0) -> None:
        """Wait for `condition`; a child that ends first fails the wait at once, with its log."""

        def is_ready() -> bool:
            assert self.is_alive, f"{self.name} ended with {self.exit_code}, no {what}:\n{self.log_tail()}"
            return condition()

        wait_until(is_ready, what=f"{what} of {self.name}", seconds=seconds)

    def wait(self, *, seconds: float = 20.0) -> int:
        """Wait for the end of the process; its exit code. Raises `AssertionError` when it goes on."""
        with suppress(subprocess.TimeoutExpired):
            return self.popen.wait(timeout=seconds)
        with suppress(subprocess.TimeoutExpired):
            return self.popen.wait(timeout=seconds * (crowd() - 1))
        raise AssertionError(
            f"{self.name} (pid {self.pid}) still runs after {seconds:g} s:\n{self.log_tail()}"
        )

    def terminate(self, *, seconds: float = 20.0) -> int:
        """SIGTERM, the polite way; its exit code. Raises `AssertionError` when it does not go."""
        if self.is_alive:
            self.popen.send_signal(signal.SIGTERM)
        return self.wait(seconds=seconds)

    def kill(self) -> None:
        """SIGKILL to this process alone: what a crash looks like. Its own children live on."""
        if self.is_alive:
            self.popen.send_signal(signal.SIGKILL)
        self.wait(seconds=10)

    def freeze(self) -> None:
        """SIGSTOP: alive for everyone who asks the kernel, deaf for everyone who asks it."""
        self.popen.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT: go on where it was frozen."""
        self.popen.send_signal(signal.SIGCONT)

    def sweep(self) -> None:
        """End the child and everything that it started, whatever state they are in."""
        # The group id is the child's pid (`start_new_session`). Linux gives a pid away again only
        # after all others had their turn, so an empty group is "no such process", not a stranger.
        with suppress(ProcessLookupError):  # the whole group has ended already
            os.killpg(self.pid, signal.SIGKILL)
        self.popen.wait(timeout=10)


def plain_environment(home: Path, extra: Mapping[str, str]) -> dict[str, str]:
    """The environment of a child: PATH with our commands first, a home of its own, and `extra`.

    The caller's own variables (a DATABASE_URL in the shell, say) never reach a process under test.
    """
    path = os.pathsep.join((str(BIN), os.environ.get("PATH", os.defpath)))
    return {"PATH": path, "HOME": str(home), "LANG": "C.UTF-8", "PYTHONUNBUFFERED": "1", **extra}


def worker_command(app: str, queue: str, *, number: int) -> tuple[str, ...]:
    """The command of a Celery worker, as the Procfile has it; `number` tells workers of one test apart."""
    return ("celery", "-A", app, "worker", *_worker_options(app.partition(".")[0], queue, number))


def _worker_options(duty: str, queue: str, number: int) -> tuple[str, ...]:
    return ("-Q", queue, "-n", f"{duty}-{number}@%h", "--loglevel", "INFO")


def spawn(
    name: str,
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    log_path: Path,
    cwd: Path,
    account: Account | None = None,
    sockets: Sequence[int] = (),
) -> Child:
    """Start one child with exactly `env`, as `account` where one is given. Call from the main thread.

    It inherits `sockets`, file descriptors of ours, under the same numbers.
    """
    with log_path.open("ab") as log:
        popen = subprocess.Popen(
            list(argv),
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=sockets,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - one system call, and it takes no lock
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
        )
    return Child(name, popen, log_path)


@dataclass
class Processes:
    """The processes of one test: all of them are ended when the block ends, failed or not.

    `folder` holds their logs and is their home; `env` reaches each of them.
    """

    folder: Path
    env: Mapping[str, str] = field(default_factory=dict)
    children: list[Child] = field(default_factory=list)

    def start(
        self, name: str, *argv: str, env: Mapping[str, str] | None = None, sockets: Sequence[int] = ()
    ) -> Child:
        """Start `argv` in `folder`; a bare command name is looked up beside this interpreter first."""
        log_path = self.folder / f"{len(self.children):02d}-{name}.log"
        environment = plain_environment(self.folder, {**self.env, **(env or {})})
        # Not in the repository: a `.env` or `.signalbox` of the developer must not reach the test.
        child = spawn(name, argv, env=environment, log_path=log_path, cwd=self.folder, sockets=sockets)
        self.children.append(child)
        return child

    def celery_worker(self, app: str, queue: str, *, env: Mapping[str, str] | None = None) -> Child:
        """A Celery worker as the Procfile starts it: `celery -A <app> worker -Q <queue>`."""
        return self.start(queue, *worker_command(app, queue, number=len(self.children)), env=env)

    def orchestrator(self, *, env: Mapping[str, str] | None = None) -> Child:
        return self._worker("orchestrator", "workflow-orchestrator", env)

    def task_runner(self, *, env: Mapping[str, str] | None = None) -> Child:
        return self._worker("task_runner", "workflow-task-runner", env)

    def _worker(self, duty: str, queue: str, env: Mapping[str, str] | None) -> Child:
        """As `signalbox worker` and `up` start it: sooner than with the rest of Celery's command line."""
        options = _worker_options(duty, queue, len(self.children))
        return self.start(queue, sys.executable, "-m", duty, *options, env=env)

    def api(self, port: int, *, env: Mapping[str, str] | None = None) -> Child:
        """The HTTP API on 127.0.0.1:`port`, as `signalbox api` starts it."""
        return self.start("api", "signalbox", "api", "--port", str(port), env=env)

    def logs(self) -> str:
        """The end of every log, for the message of a failed test; those of supervised processes included."""
        logs = [f"--- {child.name} ({child.pid}) ---\n{child.log_tail()}" for child in self.children]
        told = {child.log_path for child in self.children}
        logs += [
            f"--- {path.name} ---\n{path.read_text(encoding='utf-8', errors='replace')[-LOG_TAIL_CHARACTERS:]}"
            for path in sorted(self.folder.rglob("*.log"))
            if path not in told and path.is_file()
        ]
        return "\n".join(logs)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in reversed(self.children):
            child.sweep()
