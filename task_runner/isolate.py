"""Isolated handlers, seen from the runner: processes that can be killed, kept warm, one call at a time each.

A child is a fresh interpreter (`task_runner/isolated.py`), never a fork of this process, whose other threads may hold any
lock. All are started by one thread that lives as long as this process: on Linux a child is bound to the thread that
started it. Whatever a child does to itself, its call ends with an outcome: `task.crashed` where it did not say one.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from common.canonical import dumps, read
from common.store.claims import TaskClaim
from common.task_error import TaskError
from task_runner.attempt import Result
from task_runner.context import TaskContext
from task_runner.metadata import MetadataPort, answer_request
from task_runner.registry import Handler
from task_runner.resolve import Input

_FACTS = (
    "id",
    "tenant_id",
    "instance_id",
    "type",
    "name",
    "attempt",
    "max_attempts",
    "idempotency_key",
    "progress",
    "state",
    "options",
)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What each child is told first: how it logs, and how much memory a handler has that names no limit."""

    log_format: str = "auto"
    log_level: str = "INFO"
    memory_bytes: int = 1_024 * 2**20


class Child:
    """One process and our end of its socket."""

    def __init__(self, surroundings: Surroundings) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self.popen = subprocess.Popen(  # noqa: S603 - our own list of arguments, no shell
                [sys.executable, "-m", "task_runner.isolated", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            )
        self._connection = Connection(ours.detach())
        self._sending = threading.Lock()
        self.calls = 0
        """Calls that it has ended; one that has ended none was not idle before."""
        self.began = False
        """Has it begun the call that it was given last?"""
        self.grown = 0
        """Bytes of address space that it has more than after its first call."""
        self._first: int | None = None
        self.send(
            {"path": sys.path, "log_format": surroundings.log_format, "log_level": surroundings.log_level}
        )

    def send(self, message: dict[str, Any]) -> None:
        """Raises `OSError` when the child is gone."""
        with self._sending:
            self._connection.send_bytes(dumps(message).encode())

    def listen(self, beat: Callable[[str | None], None], metadata: MetadataPort) -> Result | None:
        """Wait for the end of a call, answering what it asks of `metadata`; None when the child ended first."""
        self.began = False
        try:
            while True:
                message = read(self._connection.recv_bytes())
                if "done" in message:
                    self._note_memory(message["memory"])
                    return _result(message["done"])
                if "begun" in message:
                    self.began = True
                elif "ask" in message:
                    self.send(
                        {"answer": answer_request(metadata, message["ask"]), "number": message["number"]}
                    )
                else:
                    beat(message["beat"])
        except (EOFError, OSError):
            return None

    def kill(self) -> None:
        """End the process, whatever it is doing. Its listener finds the socket at its end."""
        self.popen.kill()

    def close(self) -> int:
        """Let the child go and return how it ended, negative for a signal."""
        with suppress(OSError):
            self._connection.close()
        try:
            return self.popen.wait(1)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            return self.popen.wait()

    def _note_memory(self, memory: int) -> None:
        self.calls += 1
        if self._first is None:
            self._first = memory
        self.grown = memory - self._first


class IsolatedCall:
    """One attempt in a child, for the watch to end: `kill` gives the error that the attempt then ends with."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._child: Child | None = None
        self._verdict: TaskError | None = None
        self._is_over = False

    @property
    def verdict(self) -> TaskError | None:
        return self._verdict

    def kill(self, verdict: TaskError) -> bool:
        """End the attempt with `verdict`; False when it was over already."""
        with self._turn:
            if self._is_over:
                return False
            self._verdict = self._verdict or verdict
            if self._child is not None:
                self._child.kill()
            return True

    def enter(self, child: Child) -> bool:
        """Bind the call to its child; False when it was killed before it began."""
        with self._turn:
            self._child = child
            return self._verdict is None

    def leave(self) -> None:
        """The child has told its end or has none to tell: it is not to be killed any more."""
        with self._turn:
            self._is_over = True
            self._child = None


class Children:
    """The children of a runner. As many as calls run at once; those that are idle wait for the next call."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._surroundings = surroundings
        self._nursery = ThreadPoolExecutor(1, thread_name_prefix="nursery")
        self._turn = threading.Lock()
        self._idle: list[Child] = []
        self._is_closed = False

    def call(
        self,
        call: IsolatedCall,
        handler: Handler,
        claim: TaskClaim,
        context: TaskContext,
        input: Input,
        metadata: MetadataPort,
        *,
        max_output_bytes: int,
    ) -> Result:
        """Make one attempt in a child; never raises for what the handler, or its process, does."""
        memory = handler.options.memory_bytes or self._surroundings.memory_bytes
        message = {
            "call": {
                "facts": {name: getattr(claim, name) for name in _FACTS},
                "input": input.text,
                "hidden": input.redaction.hidden,
                "maxOutput": max_output_bytes,
                "memory": memory,
                "module": handler.function.__module__,
            }
        }
        while True:
            try:
                child = self._idle_or_new()
            except OSError as error:
                call.leave()
                return Result(
                    error=TaskError(
                        "task.not_isolated", f"no process could be started for the handler: {error}"
                    )
                )
            with suppress(OSError):  # it is gone; who listens to it finds out
                child.send(message)
            result = None
            if call.enter(child):
                context.on_cancel(partial(_tell_cancelled, child))
                result = child.listen(context.note_heartbeat, metadata)
                context.on_cancel(None)
            # One that died while it was idle is nobody's failure: it has not begun the call, and the handler was not called.
            if result is not None or call.verdict is not None or child.began or child.calls == 0:
                break
            child.close()
        call.leave()
        if result is not None and self._is_fit(child, result, memory):
            self._keep(child)
            return result
        code = child.close()
        return result or Result(error=call.verdict or crashed(code))

    def close(self) -> None:
        """End the idle children; those that run end with their calls, or with this process."""
        with self._turn:
            self._is_closed = True
            idle, self._idle = self._idle, []
        for child in idle:
            child.close()
        self._nursery.shutdown(wait=False)

    def _idle_or_new(self) -> Child:
        with self._turn:
            child = self._idle.pop() if self._idle else None
        return child or self._nursery.submit(Child, self._surroundings).result()

    def _keep(self, child: Child) -> None:
        with self._turn:
            if not self._is_closed:
                self._idle.append(child)
                return
        child.close()

    @staticmethod
    def _is_fit(child: Child, result: Result, memory: int) -> bool:
        """May the next attempt have this child? Not one that ran out of memory, or keeps more and more of it."""
        if result.error is not None and result.error.code == "task.out_of_memory":
            return False
        return child.grown < memory // 4


def crashed(code: int) -> TaskError:
    """What an exit code says of a process that ended without an answer."""
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        return TaskError(
            "task.crashed", f"the process of the isolated handler was killed by {name}", {"signal": name}
        )
    return TaskError(
        "task.crashed", f"the process of the isolated handler ended with exit code {code}", {"exitCode": code}
    )


def _tell_cancelled(child: Child) -> None:
    with suppress(OSError):  # it is gone; its listener finds out
        child.send({"cancel": True})


def _result(told: dict[str, Any]) -> Result:
    error = told["error"]
    return Result(
        told["output"], None if error is None else TaskError(**error), told["again_ms"], told["state"]
    )
