"""The process of an isolated handler: `python -m task_runner.isolated FD`, started by `isolate.py` and nobody else.

It makes one call at a time, in its main thread, and talks with the runner over the socket FD: JSON messages
{call}, {cancel} and {answer} come, {begun}, {beat}, {ask} and {done} go. It ends when that socket does, and on Linux with the
runner whatever it is doing. It is light to start: it imports no database, and only the modules of the handlers that it is asked for.
"""

from __future__ import annotations

import faulthandler
import itertools
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from common.canonical import dumps, read
from common.observability import configure_logging
from common.parent import die_with_parent
from task_runner.attempt import Result, attempt, described
from task_runner.context import TaskContext
from task_runner.metadata import RemoteMetadata
from task_runner.redact import Redaction
from task_runner.registry import REGISTRY, HandlerError

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Facts:
    """What the handler's context tells of its claim."""

    id: str
    tenant_id: str
    instance_id: str
    type: str
    name: str
    attempt: int
    max_attempts: int
    idempotency_key: str | None
    progress: str | None
    state: str | None
    options: str | None


class OutOfMemory(HandlerError):
    """The handler wanted more than its limit; whether that helps another time is the policy's to say."""

    default_code = "task.out_of_memory"


class Isolated:
    """This process: a reader thread for what the runner says, the main thread for the handler."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._calls: SimpleQueue[tuple[Json, TaskContext]] = SimpleQueue()
        self._context: TaskContext | None = None
        self._answers: dict[int, SimpleQueue[Json]] = {}
        self._numbers = itertools.count()

    def run(self) -> None:
        """Answer calls for ever; the reader ends the process."""
        hello = read(self._connection.recv_bytes())
        sys.path[:] = hello["path"]
        configure_logging("task-runner", log_format=hello["log_format"], level=hello["log_level"])
        threading.Thread(target=self._read, name="reader", daemon=True).start()
        while True:
            call, context = self._calls.get()
            self._send({"begun": True})
            result = self._answer(call, context)
            self._context = None
            self._send({"done": asdict(result), "memory": address_space()})

    def _read(self) -> None:
        try:
            while True:
                message = read(self._connection.recv_bytes())
                if "call" in message:
                    call = message["call"]
                    metadata = RemoteMetadata(self._ask)
                    self._context = TaskContext(_Facts(**call["facts"]), tell=self._beat, metadata=metadata)
                    self._context.conceal(Redaction(call["hidden"]))
                    self._calls.put((call, self._context))
                elif "answer" in message:
                    self._answers.pop(message["number"]).put(message["answer"])
                elif self._context is not None:
                    self._context.cancel()
        except (EOFError, OSError):  # the runner is gone, or done with us
            os._exit(0)

    @staticmethod
    def _answer(call: Json, context: TaskContext) -> Result:
        try:
            import_module(call["module"])
            handler = REGISTRY.find(context.type, context.name)
        except Exception as error:  # noqa: BLE001 - the user's module, or a handler that is none of it
            return Result(error=described(error, context.redaction))
        bounded = replace(handler, function=within(call["memory"], handler.function))
        return attempt(bounded, call["input"], context, max_output_bytes=call["maxOutput"])

    def _ask(self, request: Json) -> Json:
        """Ask the runner and wait for what it answers; a handler's own threads may ask at once."""
        number = next(self._numbers)
        answer = self._answers[number] = SimpleQueue()
        self._send({"ask": request, "number": number})
        return answer.get()

    def _beat(self, progress: str | None) -> None:
        self._send({"beat": progress})

    def _send(self, message: Json) -> None:
        with self._sending:  # a handler's own threads may give signs of life
            self._connection.send_bytes(dumps(message).encode())


def within(limit: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, with at most `limit` bytes of address space for this process while it runs."""

    def bounded(*arguments: Any) -> Any:
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (limit, most))
        try:
            return function(*arguments)
        except MemoryError:
            # What the handler held is freed with its frames, before anything of this is told.
            pass
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (most, most))
        message = f"the handler asked for more than {limit // 2**20} MB of memory, its memory_limit"
        raise OutOfMemory(message, data={"limitBytes": limit})

    return bounded


def address_space() -> int:
    """The bytes of address space that this process has in use."""
    pages = Path("/proc/self/statm").read_text().split(maxsplit=1)[0]
    return int(pages) * resource.getpagesize()


def main() -> None:
    die_with_parent()  # elsewhere the end of the socket ends it
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the runner's to answer
    Isolated(Connection(int(sys.argv[1]))).run()


if __name__ == "__main__":
    main()
