"""Keep a few processes running, and end them in order: the process tree of `signalbox up`.

Each part is one child in a session of its own, so that Ctrl-C reaches only us and we decide the order of the end. Its
output goes to `logs/<part>.log`; warnings in it are repeated to whoever listens. A child that ends is started again
after a pause that doubles from 0.2 s to 10 s and begins anew once the child has lived for 30 s. Children do not
outlive us, see `launch.py`: start them from a thread that lives as long as they should.

Parts that are Python programs of ours are forked by a process that has loaded their code already, where there is one
(`start_fork_server`); it is a child like any other, and what it has forked are our children, not its own.

Nothing here runs by itself. The owner calls `tick` every now and then and decides what happens between two ticks.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from signalbox.folder import PRIVATE_FOLDER
from signalbox.processes import ForkServer, Process, Unanswered, can_adopt, execute
from signalbox.tail import LogTail, Repeats
from signalbox.write_lock import WriteLockWatch

FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 10.0
HEALTHY_AFTER_SECONDS = 30.0
STOP_SECONDS = 10.0
LAST_STAGES_SECONDS = 0.8
"""What the wait for one stage leaves to each stage after it."""
KEPT_LOG_BYTES = 10_000_000
"""Of each part, and as much once more of what was before."""
SHORTEN_SECONDS = 60.0
"""Between two looks whether a log has become too long."""
TICK_SECONDS = 0.25
FORK_SERVER = "fork-server"


@dataclass(frozen=True)
class Part:
    """One process to keep running. Parts of a lower `stage` end before those of a higher one get their SIGTERM.

    `account` is the (uid, gid) that it runs as, None for our own. `stop_signal` asks it to end in order. `sockets` are
    file descriptors of ours that it inherits under the same numbers.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)
    stage: int = 0
    account: tuple[int, int] | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    sockets: tuple[int, ...] = ()


@dataclass(frozen=True)
class Notice:
    """One line for a person: which part it is about, and what happened."""

    part: str
    text: str
    severity: Literal["info", "warning"] = "info"


Say = Callable[[Notice], None]


def pause_before_restart(failures: int) -> float:
    """Seconds to wait before a part is started again that has ended `failures` times in a row (1 or more)."""
    return min(FIRST_PAUSE_SECONDS * 2.0 ** min(failures - 1, 30), LONGEST_PAUSE_SECONDS)


def how_it_ended(code: int) -> str:
    """Tell an exit code as `Popen` gives it, negative for signals: "exit code 1", "killed by SIGKILL"."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:  # real-time signals have numbers only
        return f"killed by signal {-code}"


@dataclass
class _Child:
    """A part and the process that plays it now; `process` is None between its end and its next start."""

    part: Part
    log: LogTail
    repeats: Repeats = field(default_factory=Repeats)
    process: Process | None = None
    started: float = 0.0
    failures: int = 0
    restart_at: float | None = None
    shorten_at: float = 0.0


class Supervisor:
    """The children of one process. Made, ticked and stopped by the same thread.

    `write_lock` is the lock file of a SQLite database: a child that keeps it for more than 5 s is killed, because
    nobody else can write meanwhile. `fork_server` has begun to load its code, see `start_fork_server`.
    """

    def __init__(
        self,
        logs: Path,
        cwd: Path,
        say: Say,
        *,
        write_lock: Path | None = None,
        fork_server: ForkServer | None = None,
    ) -> None:
        self._logs = logs
        self._cwd = cwd
        self._say = say
        self._watch = WriteLockWatch(write_lock) if write_lock else None
        self._children: dict[str, _Child] = {}
        self._fork_server = fork_server or ForkServer()

    def start_fork_server(self, environment: Mapping[str, str], *, stage: int) -> None:
        """Have parts forked from now on, once the code is loaded. `environment` is what it is loaded in; nothing is done where it cannot be."""
        if not can_adopt():
            return
        part = Part(FORK_SERVER, (), environment, stage)
        if self._fork_server.process is None:
            self.start(part)
        else:
            self._children[part.name] = _Child(
                part, self._log_of(part.name), process=self._fork_server.process, started=time.monotonic()
            )

    def await_fork_server(self, seconds: float, is_unwanted: Callable[[], bool] = lambda: False) -> None:
        """Wait until parts can be forked, or cannot, because there is nobody to do it. Waits no more once `is_unwanted` says so."""
        deadline = time.monotonic() + seconds
        while (
            FORK_SERVER in self._children
            and self._fork_server.is_loading
            and not is_unwanted()
            and time.monotonic() < deadline
        ):
            self._fork_server.await_ready(TICK_SECONDS)

    def start(self, part: Part) -> None:
        """Start a part and keep it running from now on. Its name is its own."""
        child = _Child(part, self._log_of(part.name))
        self._children[part.name] = child
        self._launch(child)

    def pid(self, name: str) -> int | None:
        """The process of a part at this moment, None between two lives or for an unknown part."""
        child = self._children.get(name)
        return child.process.pid if child and child.process else None

    def failures(self, name: str) -> int:
        """How often a part ended in a row without having been healthy in between."""
        return self._children[name].failures

    def log_path(self, name: str) -> Path:
        return self._children[name].log.path

    def log_end(self, name: str, lines: int = 15) -> list[str]:
        """The last lines that a part wrote in its present or last life."""
        return self._children[name].log.last_lines(lines)

    def names(self) -> list[str]:
        """The parts, without what only helps to start them."""
        return [name for name in self._children if name != FORK_SERVER]

    def tick(self) -> float:
        """Notice what ended, start what is due, tell warnings; return the seconds until the next tick is wanted."""
        now = time.monotonic()
        for child in self._children.values():
            self._tell_warnings(child)
            self._shorten_log(child, now)
            if child.process is not None:
                self._look_after(child, child.process, now)
            if child.restart_at is not None and now >= child.restart_at:
                self._launch_again(child, now)
        if self._watch is not None:
            self._free_write_lock(self._watch, now)
        due = [child.restart_at - now for child in self._children.values() if child.restart_at is not None]
        return max(0.0, min([TICK_SECONDS, *due]))

    def end(self, names: Iterable[str], *, seconds: float = STOP_SECONDS) -> None:
        """End some parts for good, all at once; they may be started anew under the same names."""
        ending = [self._children.pop(name) for name in names]
        self._stop_stage(ending, time.monotonic() + seconds, lambda: False)
        for child in ending:
            _kill_session(child)

    def stop(self, *, seconds: float = STOP_SECONDS, hurried: Callable[[], bool] = lambda: False) -> None:
        """End every part: SIGTERM by stages, SIGKILL for what is left after `seconds` or once `hurried` says so."""
        deadline = time.monotonic() + seconds
        stages = sorted({child.part.stage for child in self._children.values()})
        try:
            for number, stage in enumerate(stages):
                later = len(stages) - number - 1
                children = [child for child in self._children.values() if child.part.stage == stage]
                self._stop_stage(children, deadline - later * LAST_STAGES_SECONDS, hurried)
        finally:  # also when a second Ctrl-C came as KeyboardInterrupt
            for child in self._children.values():
                _kill_session(child)
            self._children.clear()
            self._fork_server.close()

    def _launch_again(self, child: _Child, now: float) -> None:
        """Start a part that ran before. What the system refuses now, a log or a process, it may grant later: the others go on meanwhile."""
        try:
            self._launch(child)
        except OSError as error:
            child.failures += 1
            pause = pause_before_restart(child.failures)
            child.restart_at = now + pause
            where = "" if error.filename is None else f' "{error.filename}"'
            self._say(
                Notice(
                    child.part.name,
                    f"cannot be started:{where} {error.strerror}; trying again in {pause:g} s",
                    "warning",
                )
            )

    def _log_of(self, name: str) -> LogTail:
        return LogTail(self._logs / f"{name}.log")

    def _launch(self, child: _Child) -> None:
        self._logs.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)  # somebody may have cleared it away
        child.log.rotate(KEPT_LOG_BYTES)
        with child.log.path.open("ab") as log:
            child.process = self._begin(child.part, log.fileno())
        child.started = time.monotonic()
        child.restart_at = None

    def _begin(self, part: Part, output: int) -> Process:
        """Begin a part, forked by the process that has its code where that can be."""
        if part.name == FORK_SERVER:
            return self._fork_server.begin(part.environment, self._cwd, output=output)
        if part.account is None:
            try:
                forked = self._fork_server.fork(
                    part.command, part.environment, self._cwd, output=output, sockets=part.sockets
                )
            except Unanswered as error:
                self._say(
                    Notice(
                        part.name, f"could not be forked ({error}), so it loads its code itself", "warning"
                    )
                )
                self._fork_server.close()
                _kill_session(self._children[FORK_SERVER])
            else:
                if forked is not None:
                    return forked
        return execute(
            part.command, part.environment, self._cwd,
            output=output, sockets=part.sockets, account=part.account,
        )  # fmt: skip

    def _look_after(self, child: _Child, process: Process, now: float) -> None:
        code = process.poll()
        if code is None:
            if now - child.started > HEALTHY_AFTER_SECONDS:
                child.failures = 0
            return
        _kill_session(child)  # what it had started itself must not hold its port or its leases
        self._tell_warnings(child)
        child.process = None
        if now - child.started > HEALTHY_AFTER_SECONDS:
            child.failures = 0
        child.failures += 1
        pause = pause_before_restart(child.failures)
        child.restart_at = now + pause
        # Who began to load before there was a folder for its log has told what is wrong on our own standard error.
        has_log = child.part.name != FORK_SERVER or child.log.path.exists()
        where = f"its log is {child.log.path}" if has_log else "what it said stands above"
        self._say(
            Notice(
                child.part.name,
                f"ended ({how_it_ended(code)}, pid {process.pid}); starting it again in {pause:g} s, {where}",
                "warning",
            )
        )

    def _tell_warnings(self, child: _Child) -> None:
        try:
            lines = child.log.new_warnings()
        except OSError as error:
            lines = [f'its log cannot be read: "{child.log.path}" {error.strerror}']
        for line in child.repeats.pass_on(lines, time.monotonic()):
            self._say(Notice(child.part.name, line, "warning"))

    def _shorten_log(self, child: _Child, now: float) -> None:
        if now < child.shorten_at:
            return
        child.shorten_at = now + SHORTEN_SECONDS
        try:
            child.log.shorten(KEPT_LOG_BYTES)
        except OSError as error:
            why = f'its log grows: what "{child.log.path}" holds cannot be put aside, {error.strerror}'
            self._say(Notice(child.part.name, why, "warning"))

    def _free_write_lock(self, watch: WriteLockWatch, now: float) -> None:
        holder = watch.overdue(now)
        if holder is None:
            return
        owner = next((child for child in self._children.values() if _is_in_session(holder, child)), None)
        if owner is None:  # somebody else's process: not ours to end
            return
        self._say(
            Notice(
                owner.part.name,
                f"pid {holder} held the database's write lock for more than {watch.patience:g} s; killing it",
                "warning",
            )
        )
        with suppress(ProcessLookupError):  # it ended meanwhile, which frees the lock as well
            os.kill(holder, signal.SIGKILL)
        watch.forget()

    def _stop_stage(self, children: Iterable[_Child], deadline: float, hurried: Callable[[], bool]) -> None:
        running = [(child, child.process) for child in children if child.process is not None]
        for child, process in running:
            process.send_signal(child.part.stop_signal)
            process.send_signal(signal.SIGCONT)  # a frozen process would never see the first
        while running and time.monotonic() < deadline and not hurried():
            running = [(child, process) for child, process in running if process.poll() is None]
            time.sleep(0.01)
        for child, _ in running:
            self._say(Notice(child.part.name, "did not end in time; killed", "warning"))
            _kill_session(child)


def _kill_session(child: _Child) -> None:
    """End a child and everything that it started, and take its exit code."""
    if child.process is None:
        return
    # The session's id is the child's pid, and Linux gives no pid away while its group has a member: an empty group
    # is "no such process", not a stranger.
    with suppress(ProcessLookupError):
        os.killpg(child.process.pid, signal.SIGKILL)
    child.process.wait()


def _is_in_session(pid: int, child: _Child) -> bool:
    if child.process is None:
        return False
    try:
        return os.getsid(pid) == child.process.pid
    except (ProcessLookupError, PermissionError):
        return False
