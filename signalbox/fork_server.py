"""The process that the parts of `signalbox up` are forked from: `python -m signalbox.fork_server SUPERVISOR FD`.

Loading its code is nearly all that a worker does before it works, and three parts load mostly the same. Here it is loaded once,
before anybody needs it: a part begins in a tenth of the time, the first as well as the one that follows a killed one, and what none of them writes
to is in memory once. Whoever asks is `signalbox/processes.py`, over the socket FD, one message for each question and answer.

A part is forked twice, and whoever forked it ends: so it becomes the child of the supervisor, which takes its exit code, and lives on when
this process ends. It waits for the supervisor's word, since one that was given up must not begin after all, and then is what `python -m MODULE ARGUMENT…` would be, in a session, an environment and with files of its own.

Nothing that is loaded here reads settings, opens a file or a connection, or starts a thread: what a part has of its own, it has after the fork.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import multiprocessing
import os
import runpy
import signal
import socket
import sys
import time
from dataclasses import dataclass
from typing import Any

from setproctitle import setproctitle

LOADED = (
    "billiard.pool",
    "common.queues.command",
    "celery.app.routes",
    "celery.apps.worker",
    "celery.backends.base",
    "celery.concurrency.thread",
    "celery.events.receiver",
    "celery.fixups.django",
    "kombu.matcher",
    "common.queues.consumer",
    "orchestrator.duty",
    "task_runner.duty",
    "task_runner.handlers",
    "api.server",
)
"""What the parts load themselves before they work, as far as it reads no settings."""
READY = b"ready"
FORK = b"fork"
MOST_SOCKETS = 8
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True)
class Order:
    """A part to fork: what to run, in which environment, and the files of the supervisor that it gets, as numbered here."""

    module: str
    arguments: list[str]
    environment: dict[str, str]
    cwd: str
    word: int
    """A pipe: one byte says that it may begin, its end that nobody wants it any more."""
    log: int
    sockets: dict[int, int]
    """By the number that the part knows it by."""


def serve(control: socket.socket, supervisor: int) -> Order | None:
    """Fork whatever is asked for until the supervisor closes its end. Returns None then, and in each part that was forked what it is to be."""
    control.send(READY)
    while True:
        order = _receive(control)
        if order is None:
            return None
        answers, answer = os.pipe()
        middle = os.fork()
        if middle == 0:
            os.close(answers)
            if os.fork() != 0:
                os._exit(0)
            # Before anybody knows it: whoever ends a part ends its session, and would wait for one that has none yet.
            os.setsid()
            os.write(answer, str(os.getpid()).encode())
            os.close(answer)
            control.close()
            _await_word(order.word, supervisor)
            return order
        for descriptor in (answer, order.word, order.log, *order.sockets.values()):
            os.close(descriptor)
        os.waitpid(middle, 0)
        told = os.read(answers, 32)
        os.close(answers)
        control.send(told or b"0")


def written(order: dict[str, Any]) -> int:
    """An order as a file in memory, which is open for who asked: a message has no room for a long environment.

    JSON by the standard library, since that of an environment may be no UTF-8, and stays what it is there.
    """
    file = os.memfd_create("order")
    with open(file, "w", encoding="ascii", closefd=False) as text:
        json.dump(order, text)
    return file


def _receive(control: socket.socket) -> Order | None:
    message, files, flags, _ = socket.recv_fds(control, len(FORK), 3 + MOST_SOCKETS)
    if message != FORK or flags & socket.MSG_CTRUNC:
        return None
    file, word, log, *sockets = files
    with open(file, encoding="ascii") as text:
        text.seek(0)  # one offset for both of us
        said: dict[str, Any] = json.load(text)
    return Order(**said | {"sockets": dict(zip(said["sockets"], sockets, strict=True))}, word=word, log=log)


def _await_word(word: int, supervisor: int) -> None:
    """Wait until the supervisor knows us, and ask to die with it, as `launch.py` does for commands. Ends the part that nobody would end."""
    is_wanted = os.read(word, 1) != b""
    os.close(word)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if not is_wanted or os.getppid() != supervisor:
        os._exit(1)


def become(order: Order, loaded_in: str) -> None:
    """Be the part until its end: `python -m MODULE ARGUMENT…`. Returns or raises as that does. `loaded_in` is the folder of who forked it."""
    _take_files(order)
    os.chdir(order.cwd)
    os.environ.clear()
    os.environ.update(order.environment)
    time.tzset()
    _look_for_modules(order, loaded_in)
    # Drawn as it is loaded. Who knows it may send objects to whatever listens by it, which a handler may have begun.
    multiprocessing.current_process().authkey = os.urandom(32)
    sys.argv = [order.module, *order.arguments]
    sys.orig_argv = [sys.executable, "-m", *sys.argv]
    setproctitle(" ".join(sys.orig_argv))
    runpy.run_module(order.module, run_name="__main__", alter_sys=True)


def _look_for_modules(order: Order, loaded_in: str) -> None:
    """Have modules looked for where `-m` has it: first in the current folder, unless that is said to be unsafe."""
    if not sys.flags.safe_path and sys.path[:1] == [loaded_in]:
        del sys.path[0]
    if not order.environment.get("PYTHONSAFEPATH"):
        sys.path.insert(0, os.getcwd())
    importlib.invalidate_caches()  # a folder that was not there as we began may be there now


def _take_files(order: Order) -> None:
    """Have standard input, output and error, and each socket under the number that the part knows it by."""
    wanted = {1: order.log, 2: order.log, **order.sockets}
    received = {order.log, *order.sockets.values()}
    above = max(*wanted, *received) + 1  # where nobody's number is overwritten before it has been read
    moved = {number: os.dup2(held, above + at) for at, (number, held) in enumerate(wanted.items())}
    for held in received:
        os.close(held)
    for number, held in moved.items():
        os.dup2(held, number)
        os.close(held)


def main(supervisor: int, descriptor: int) -> Order | None:
    """Load what the parts need, and serve."""
    # Whoever began us may have had a signal ignored, the ends of its children above all. Commands that are executed do not inherit
    # that: the supervisor handles these by the time that it executes them.
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    os.environ["NOSETPS"] = "1"  # read by Celery as it is loaded: the title of a part is ours to give
    gc.disable()  # what is loaded now stays
    for module in LOADED:
        importlib.import_module(module)
    gc.freeze()
    gc.enable()
    return serve(socket.socket(fileno=descriptor), supervisor)


if __name__ == "__main__":
    cwd = os.getcwd()
    part = main(int(sys.argv[1]), int(sys.argv[2]))
    if part is not None:
        become(part, cwd)
