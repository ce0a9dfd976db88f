"""Workers for tests that are about what they do and how they die, and commands for tests that type many: forked from a process
that has loaded the libraries already.

An interpreter of its own spends a second of CPU time on imports, and the tests of fault points kill sixty workers at the
first thing that they do. What runs is what `celery -A … worker` runs, with an environment, a folder, a process group and a
log of its own; only the libraries were loaded before. How a worker starts and ends when asked is for others to test:
`multiprocessing` ends its processes without calling what is registered for the end.

So it is with the API, which is `python -m api`. A command is what the script `signalbox` or `python -m` calls, with arguments, an environment, a folder and three standard streams of its own.

The process that forks them belongs to this pytest process, and ends with it, however that ends.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

from common.parent import die_with_parent
from tests.support.processes import Child, Processes, plain_environment, worker_command
from tests.support.waiting import wait_until

LIBRARIES = [
    "api.app",
    "api.server",
    "celery.bin.celery",
    "celery.apps.worker",
    "celery.worker.consumer",
    "kombu.transport.memory",
    "sqlalchemy.dialects.postgresql.psycopg",
    "sqlalchemy.dialects.sqlite",
    "common.db.schema",
    "common.queues.bootstep",
    "common.queues.dispatcher",
    "orchestrator.advance",
    "orchestrator.places",
    "orchestrator.retention",
    "orchestrator.schedules",
    "orchestrator.sweep",
    "signalbox.cli.app",
    "signalbox.client",
    "task_runner.isolate",
    "task_runner.links",
    "task_runner.resolve",
    "task_runner.run",
]
"""None of them reads the environment when it is loaded; the modules of the workers do, and are loaded by each."""


HIGHEST_DESCRIPTOR = 1_024
"""Above all that such a process has when it begins."""


class Forked:
    """What a test needs of `subprocess.Popen`, for a process that another one forked for us."""

    def __init__(self, process: ForkServerProcess) -> None:
        self._process = process
        assert process.pid is not None
        self.pid = process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


def forked_orchestrator(processes: Processes, *, env: Mapping[str, str] | None = None) -> Child:
    """What `Processes.orchestrator` starts."""
    return _worker(processes, "orchestrator.worker", "workflow-orchestrator", env or {})


def forked_task_runner(processes: Processes, *, env: Mapping[str, str] | None = None) -> Child:
    """What `Processes.task_runner` starts."""
    return _worker(processes, "task_runner.worker", "workflow-task-runner", env or {})


def doomed_orchestrator(processes: Processes, *, fault: str) -> Child:
    """An orchestrator that dies at `fault`, as SIGNALBOX_FAULTS has it."""
    return forked_orchestrator(processes, env={"SIGNALBOX_FAULTS": fault})


def doomed_task_runner(processes: Processes, *, fault: str) -> Child:
    """A task runner that dies at `fault`, as SIGNALBOX_FAULTS has it."""
    return forked_task_runner(processes, env={"SIGNALBOX_FAULTS": fault})


def forked_api(processes: Processes, *, env: Mapping[str, str]) -> Child:
    """The HTTP API as `python -m api` serves it, where and how `env` says."""
    return _forked(processes, "api", _run_module, ("api",), env)


def forked_command(
    arguments: Sequence[str], *, env: Mapping[str, str], folder: Path, stdin: str, seconds: float
) -> subprocess.CompletedProcess[str]:
    """Run `signalbox ARGUMENTS` to its end, as `subprocess.run` does that captures its output.

    Raises `subprocess.TimeoutExpired` when it still runs after `seconds`; it is killed then.
    """
    return _run_to_its_end(None, ("signalbox", *arguments), env, folder, stdin, seconds)


def forked_module(
    module: str, arguments: Sequence[str], *, env: Mapping[str, str], folder: Path, seconds: float
) -> subprocess.CompletedProcess[str]:
    """Run `python -m MODULE ARGUMENTS` in the same way, with nothing to read."""
    return _run_to_its_end(module, (module, *arguments), env, folder, "", seconds)


def _run_to_its_end(
    module: str | None, argv: Sequence[str], env: Mapping[str, str], folder: Path, stdin: str, seconds: float
) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryDirectory(prefix="signalbox-command-") as streams:
        given, out, err = (Path(streams) / name for name in ("stdin", "stdout", "stderr"))
        given.write_text(stdin, encoding="utf-8")
        process = _context().Process(
            target=_run_command, args=(module, argv, dict(env), folder, given, out, err), daemon=True
        )
        process.start()
        try:
            code = Forked(process).wait(seconds)
        finally:
            process.kill()
            process.join()
        return subprocess.CompletedProcess(
            argv, code, out.read_text(encoding="utf-8"), err.read_text(encoding="utf-8")
        )


def _worker(processes: Processes, app: str, queue: str, env: Mapping[str, str]) -> Child:
    argv = worker_command(app, queue, number=len(processes.children))
    return _forked(processes, queue, _run_celery, argv, env)


def _forked(
    processes: Processes,
    name: str,
    run: Callable[[Sequence[str], _Surroundings], None],
    argv: Sequence[str],
    env: Mapping[str, str],
) -> Child:
    log_path = processes.folder / f"{len(processes.children):02d}-{name}.log"
    log_path.touch()
    surroundings = _Surroundings(
        plain_environment(processes.folder, {**processes.env, **env}),
        processes.folder,
        log_path,
        resource.getrlimit(resource.RLIMIT_NOFILE),
    )
    process = _context().Process(target=run, args=(argv, surroundings), daemon=True)
    process.start()
    child = Child(name, Forked(process), log_path)
    processes.children.append(child)
    wait_until(lambda: _leads_group(child), what=f"{child.name} to lead a group of its own")
    return child


def _leads_group(child: Child) -> bool:
    """Whoever sweeps the child ends its group, which it makes by itself. Also true of one that is gone already."""
    try:
        return os.getpgid(child.pid) == child.pid
    except ProcessLookupError:
        return True


@cache
def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LIBRARIES)
    return context


@dataclass(frozen=True)
class _Surroundings:
    """What a child of pytest would have from it, or be given by `spawn`."""

    env: Mapping[str, str]
    folder: Path
    log_path: Path
    descriptors: tuple[int, int]

    def become(self, argv: Sequence[str]) -> None:
        log = os.open(self.log_path, os.O_WRONLY | os.O_APPEND)
        resource.setrlimit(resource.RLIMIT_NOFILE, self.descriptors)
        _become(argv, self.env, self.folder, (os.open(os.devnull, os.O_RDONLY), log, log))


def _run_celery(argv: Sequence[str], surroundings: _Surroundings) -> None:
    """The life of a forked worker."""
    surroundings.become(argv)
    from celery.__main__ import main  # noqa: PLC0415 - in the process that becomes a worker

    main()


def _run_module(argv: Sequence[str], surroundings: _Surroundings) -> None:
    """The life of a forked `python -m MODULE`."""
    surroundings.become(argv)
    runpy.run_module(argv[0], run_name="__main__", alter_sys=True)


def _run_command(
    module: str | None,
    argv: Sequence[str],
    env: Mapping[str, str],
    folder: Path,
    stdin: Path,
    stdout: Path,
    stderr: Path,
) -> None:
    """The life of a forked command: of `module`, or None for what the script `signalbox` calls."""
    written = os.O_WRONLY | os.O_CREAT
    _become(
        argv, env, folder, (os.open(stdin, os.O_RDONLY), os.open(stdout, written), os.open(stderr, written))
    )
    # As an interpreter of its own would have them; `multiprocessing` has given this one an empty standard input.
    sys.stdin, sys.stdout, sys.stderr = (
        open(descriptor, mode, encoding="utf-8", closefd=False)  # noqa: SIM115 - as long as the process
        for descriptor, mode in ((0, "r"), (1, "w"), (2, "w"))
    )
    if module is not None:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        return
    from signalbox.entry import main  # noqa: PLC0415 - in the process that becomes a command

    main()


def _become(argv: Sequence[str], env: Mapping[str, str], folder: Path, streams: tuple[int, int, int]) -> None:
    """Make this process one of its own, with `streams` as its standard input, output and error."""
    die_with_parent()
    for descriptor, source in enumerate(streams):
        os.dup2(source, descriptor)
    # Among the others is one by which the process that forked us learns that pytest has ended: kept open by us it would never
    # learn it, and its end is ours.
    os.closerange(3, HIGHEST_DESCRIPTOR)
    # Last: whoever waits for it may freeze us the moment after.
    os.setsid()
    os.environ.clear()
    os.environ.update(env)
    os.chdir(folder)
    sys.argv = list(argv)
