"""How a child of ours begins: executed as any command is, or forked by a process that has loaded its code already (`fork_server.py`).

Either dies with us, see `launch.py`. Linux alone lets us adopt what another process has forked (`PR_SET_CHILD_SUBREAPER`); elsewhere, and
while that process is not there or not ready, `ForkServer.fork` answers None, and the child is to be executed.

Loaded by the command line before all else, so it loads nothing that takes time.
"""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from signalbox import launch
from signalbox.fork_server import FORK, READY, written

ANSWER_SECONDS = 2.0
"""How long an answer may take. A fork takes milliseconds."""
_STDERR = 2
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
_LAUNCHER = (sys.executable, "-I", "-S", str(Path(launch.__file__)))


class Process(Protocol):
    """What a supervisor needs of a child: the part of `subprocess.Popen` that an adopted child has as well."""

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None: ...

    def wait(self) -> int: ...

    def send_signal(self, sig: int, /) -> None: ...


@dataclass
class Adopted:
    """A child that somebody else has forked for us."""

    pid: int
    code: int | None = None

    def poll(self) -> int | None:
        """Its exit code, negative for signals, None while it runs."""
        return self._take(os.WNOHANG)

    def wait(self) -> int:
        """Wait for its end; its exit code."""
        while (code := self._take(0)) is None:
            pass
        return code

    def send_signal(self, sig: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, sig)

    def _take(self, options: int) -> int | None:
        if self.code is not None:
            return self.code
        try:
            pid, status = os.waitpid(self.pid, options)
        except ChildProcessError:
            self.code = 0  # whoever began us has the ends of children ignored: 0, as `Popen` says then
        else:
            if pid == self.pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code


def execute(
    command: tuple[str, ...],
    environment: Mapping[str, str],
    cwd: Path,
    *,
    output: int,
    sockets: tuple[int, ...] = (),
    account: tuple[int, int] | None = None,
) -> subprocess.Popen[bytes]:
    """Begin a command as a child of ours, in a session of its own: Ctrl-C and a closed terminal are ours to pass on, in order.

    `output` is the descriptor of what it writes, `sockets` are those of ours that it inherits under the same numbers,
    `account` is the (uid, gid) that it runs as, None for our own.
    """
    whose = "-" if account is None else f"{account[0]}:{account[1]}"
    return subprocess.Popen(  # noqa: S603 - our own list of arguments, no shell
        [*_LAUNCHER, str(os.getpid()), whose, *command],
        env=dict(environment),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        pass_fds=sockets,
        start_new_session=True,
    )


class ForkServer:
    """The process that forks others, and our end of it. Used by one thread, which lives as long as what is forked should."""

    def __init__(self) -> None:
        self.process: Process | None = None
        self._control: socket.socket | None = None
        self._is_ready = False
        self._strangers: set[int] = set()
        """Whom we have adopted without having asked for them: their ends are ours to take."""

    def begin(self, environment: Mapping[str, str], cwd: Path, *, output: int) -> Process:
        """Begin the process, which loads its code in `environment` from now on. What was asked of the one before is forgotten."""
        self.close()
        self._control, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its:
            command = (sys.executable, "-m", "signalbox.fork_server", str(os.getpid()), str(its.fileno()))
            self.process = execute(command, environment, cwd, output=output, sockets=(its.fileno(),))
        return self.process

    @property
    def is_loading(self) -> bool:
        """Whether it is there and may be ready later."""
        return self._control is not None and not self._is_ready

    def await_ready(self, seconds: float) -> bool:
        """Wait until it has loaded its code, or has ended; whether it has loaded it."""
        if self._control is not None and not self._is_ready:
            self._control.settimeout(seconds)
            try:
                self._is_ready = self._control.recv(len(READY)) == READY
            except (TimeoutError, BlockingIOError):
                return False
            except OSError:
                self._is_ready = False
            if not self._is_ready:
                self.close()
        return self._is_ready

    def fork(
        self,
        command: tuple[str, ...],
        environment: Mapping[str, str],
        cwd: Path,
        *,
        output: int,
        sockets: tuple[int, ...] = (),
    ) -> Adopted | None:
        """Have what `execute` would begin forked, if it is `python -m MODULE ARGUMENT…`; None where it has to be executed.

        Raises `Unanswered` when the process is there and does not do it: it is to be ended.
        """
        control = self._control
        if command[:2] != (sys.executable, "-m") or control is None or not self.await_ready(0):
            return None
        with ExitStack() as closing:
            order = written(
                {
                    "module": command[2], "arguments": command[3:],
                    "environment": dict(environment), "cwd": str(cwd), "sockets": sockets,
                }
            )  # fmt: skip
            closing.callback(os.close, order)
            word, our_word = os.pipe()
            closing.callback(os.close, word)
            closing.callback(os.close, our_word)
            pid = self._ask(control, [order, word, output, *sockets])
            with suppress(BrokenPipeError):  # it was killed meanwhile, which its owner finds out
                os.write(our_word, b"1")
        return Adopted(pid)

    def close(self) -> None:
        """Let go of it."""
        if self._control is not None:
            self._control.close()
        self._control, self._is_ready = None, False

    def _ask(self, control: socket.socket, files: list[int]) -> int:
        """Have an order carried out; whom that has made. Raises `Unanswered`."""
        self._bury_strangers()
        known, pid = _children(), 0
        try:
            with _adopting():
                control.settimeout(ANSWER_SECONDS)
                socket.send_fds(control, [FORK], files)
                pid = int(control.recv(32) or b"0")
        except OSError as error:  # it has ended, or is frozen
            raise Unanswered(str(error)) from error
        finally:
            # Of one that was killed while it forked for us, say: none of these has been told to begin, so each ends by itself.
            self._strangers |= _children() - known - {pid}
        if not pid:
            raise Unanswered("it forked nothing")
        return pid

    def _bury_strangers(self) -> None:
        for pid in tuple(self._strangers):
            try:
                has_ended = os.waitpid(pid, os.WNOHANG)[0] == pid
            except ChildProcessError:
                has_ended = True
            if has_ended:
                self._strangers.discard(pid)


class Unanswered(Exception):
    """The process that forks did not say whom it has forked. Nobody has begun."""


def have_standard_files() -> None:
    """Have standard input, output and error, if only `/dev/null`: what is opened where one is missing would be taken for it by whom we begin."""
    while (opened := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        os.set_inheritable(opened, True)
    os.close(opened)


def can_adopt() -> bool:
    """Whether this system lets us be the parent of what another process has forked: Linux does, unless a sandbox keeps it from us."""
    return sys.platform == "linux" and _adopts_orphans(False)


def _adopts_orphans(does: bool) -> bool:
    """Say whether whom our children leave behind is ours; whether the system has taken that."""
    answer: int = ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(does), 0, 0, 0)
    return answer == 0


def _children() -> set[int]:
    """All children of this process, those of other threads as well. None where the kernel does not tell."""
    found: set[int] = set()
    for told in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):  # a thread that has ended
            found.update(map(int, told.read_text().split()))
    return found


@contextmanager
def _adopting() -> Iterator[None]:
    """Be the parent of whom our own children leave behind, for as long as it takes to be handed one."""
    _adopts_orphans(True)
    try:
        yield
    finally:
        _adopts_orphans(False)
