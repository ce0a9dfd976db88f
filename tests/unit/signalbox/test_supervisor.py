"""The supervisor with real children: they come back, they end in order, and they do not outlive it."""

import os
import shutil
import signal
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from signalbox import supervisor
from signalbox.supervisor import (
    HEALTHY_AFTER_SECONDS,
    Notice,
    Part,
    Supervisor,
    how_it_ended,
    pause_before_restart,
)
from tests.support.processes import Processes
from tests.support.slowdown import assert_within
from tests.support.waiting import wait_until

ENVIRONMENT = {"PATH": os.defpath, "PYTHONUNBUFFERED": "1"}


def python(*lines: str) -> tuple[str, ...]:
    return (sys.executable, "-I", "-S", "-c", "\n".join(lines))


FOREVER = python("import signal", "print('here', flush=True)", "signal.pause()")
CHATTY = python(
    "import time",
    "number = 0",
    "while True:",
    "    number += 1",
    "    print(f'{number:09}', 'x' * 100, flush=True)",
    "    time.sleep(0.001)",
)
DEAF = python(
    "import signal",
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)",
    "print('deaf', flush=True)",
    "while True: signal.pause()",
)


class Watched:
    """A supervisor, and everything that it said."""

    def __init__(self, folder: Path, write_lock: Path | None = None, *, logs: Path | None = None) -> None:
        self.said: list[Notice] = []
        self.supervisor = Supervisor(logs or folder, folder, self.said.append, write_lock=write_lock)

    def tick_until(self, condition: Callable[[], object], *, what: str, seconds: float = 10.0) -> None:
        def ticked() -> object:
            self.supervisor.tick()
            return condition()

        wait_until(ticked, what=what, seconds=seconds)

    def texts(self, part: str) -> list[str]:
        return [notice.text for notice in self.said if notice.part == part]


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    watched = Watched(tmp_path)
    yield watched
    watched.supervisor.stop(seconds=0)


def is_running(pid: int) -> bool:
    """A zombie that nobody has reaped yet runs no more."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def pid_of(watched: Watched, part: str) -> int:
    pid = watched.supervisor.pid(part)
    assert pid is not None, f"{part} does not run"
    return pid


@pytest.mark.parametrize(
    ("failures", "pause"), [(1, 0.2), (2, 0.4), (3, 0.8), (4, 1.6), (6, 6.4), (7, 10.0), (5_000, 10.0)]
)
def test_the_pause_before_a_restart_doubles_up_to_ten_seconds(failures: int, pause: float) -> None:
    assert pause_before_restart(failures) == pytest.approx(pause)


@pytest.mark.parametrize(
    ("code", "told"),
    [(0, "exit code 0"), (3, "exit code 3"), (-9, "killed by SIGKILL"), (-40, "killed by signal 40")],
)
def test_an_end_is_told_with_its_code_or_signal(code: int, told: str) -> None:
    assert how_it_ended(code) == told


def test_a_killed_child_is_started_again_and_it_says_so(watched: Watched) -> None:
    watched.supervisor.start(Part("worker", FOREVER, ENVIRONMENT))
    first = pid_of(watched, "worker")

    os.kill(first, signal.SIGKILL)
    watched.tick_until(lambda: watched.supervisor.pid("worker") not in (None, first), what="a new process")

    (said,) = watched.texts("worker")
    assert said.startswith(f"ended (killed by SIGKILL, pid {first}); starting it again in 0.2 s")


def test_a_log_that_cannot_be_written_is_told_and_the_child_comes_back_when_it_can(watched: Watched) -> None:
    watched.supervisor.start(Part("worker", FOREVER, ENVIRONMENT))
    watched.supervisor.start(Part("other", FOREVER, ENVIRONMENT))
    first, other = pid_of(watched, "worker"), pid_of(watched, "other")
    log = watched.supervisor.log_path("worker")
    log.unlink()
    log.mkdir()  # as unwritable for root as for everybody

    os.kill(first, signal.SIGKILL)
    watched.tick_until(lambda: watched.supervisor.failures("worker") >= 3, what="two starts in vain")

    assert f'cannot be started: "{log}" Is a directory; trying again in 0.4 s' in watched.texts("worker")
    assert f'its log cannot be read: "{log}" Is a directory' in watched.texts("worker")
    assert watched.supervisor.pid("worker") is None
    log.rmdir()
    watched.tick_until(lambda: watched.supervisor.pid("worker") is not None, what="a new process")
    assert pid_of(watched, "other") == other


def test_the_log_of_a_child_that_lives_for_long_does_not_grow_without_end(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log was only put aside when its child was started again, which it may not be for months."""
    monkeypatch.setattr(supervisor, "KEPT_LOG_BYTES", 10_000)
    monkeypatch.setattr(supervisor, "SHORTEN_SECONDS", 0.0)
    watched.supervisor.start(Part("worker", CHATTY, ENVIRONMENT))
    pid = pid_of(watched, "worker")
    log = watched.supervisor.log_path("worker")
    aside = log.with_name("worker.log.1")

    def beginning_of_what_was_put_aside() -> str:
        return aside.read_text()[:9] if aside.exists() else ""

    watched.tick_until(beginning_of_what_was_put_aside, what="a log that is put aside")
    first = beginning_of_what_was_put_aside()
    watched.tick_until(lambda: beginning_of_what_was_put_aside() > first, what="the next one in its place")

    assert {path.name for path in log.parent.iterdir()} == {"worker.log", "worker.log.1"}
    assert pid_of(watched, "worker") == pid
    assert watched.texts("worker") == []


def test_a_log_that_cannot_be_put_aside_is_told(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "KEPT_LOG_BYTES", 10_000)
    watched.supervisor.start(Part("worker", CHATTY, ENVIRONMENT))
    log = watched.supervisor.log_path("worker")
    log.with_name("worker.log.1").mkdir()
    wait_until(lambda: log.stat().st_size > 10_000, what="a long log")

    watched.tick_until(lambda: watched.texts("worker"), what="a word of it")

    assert watched.texts("worker") == [
        f'its log grows: what "{log}" holds cannot be put aside, Is a directory'
    ]
    assert log.stat().st_size > 10_000


def test_a_folder_of_logs_that_was_cleared_away_is_made_again(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    watched = Watched(tmp_path, logs=logs)
    try:
        watched.supervisor.start(Part("worker", FOREVER, ENVIRONMENT))
        first = pid_of(watched, "worker")
        shutil.rmtree(logs)

        os.kill(first, signal.SIGKILL)
        watched.tick_until(
            lambda: watched.supervisor.pid("worker") not in (None, first), what="a new process"
        )

        assert stat.S_IMODE(logs.stat().st_mode) == 0o700
        assert watched.supervisor.log_path("worker").exists()
    finally:
        watched.supervisor.stop(seconds=0)


def test_a_child_that_ends_at_once_is_started_with_growing_pauses(watched: Watched) -> None:
    watched.supervisor.start(Part("broken", python("raise SystemExit(3)"), ENVIRONMENT))

    watched.tick_until(lambda: watched.supervisor.failures("broken") >= 3, what="three ends")

    pauses = [text.partition("again in ")[2].partition(",")[0] for text in watched.texts("broken")]
    assert pauses[:3] == ["0.2 s", "0.4 s", "0.8 s"]
    assert all("exit code 3" in text for text in watched.texts("broken"))


def test_a_child_that_lived_long_enough_begins_with_the_shortest_pause(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched.supervisor.start(Part("worker", FOREVER, ENVIRONMENT))
    for _ in range(2):
        os.kill(pid_of(watched, "worker"), signal.SIGKILL)
        before = len(watched.said)
        watched.tick_until(lambda n=before: len(watched.said) > n, what="the end to be noticed")  # type: ignore[misc]
        watched.tick_until(lambda: watched.supervisor.pid("worker"), what="the next life")
    assert watched.supervisor.failures("worker") == 2

    later = time.monotonic() + HEALTHY_AFTER_SECONDS + 1
    monkeypatch.setattr(time, "monotonic", lambda: later)
    watched.supervisor.tick()

    assert watched.supervisor.failures("worker") == 0


def test_what_a_child_had_started_itself_ends_with_it(watched: Watched, tmp_path: Path) -> None:
    grandchild = tmp_path / "grandchild"
    watched.supervisor.start(
        Part(
            "server",
            python(
                "import subprocess, sys, signal, pathlib",
                "child = subprocess.Popen([sys.executable, '-I', '-S', '-c', 'import signal; signal.pause()'])",
                f"pathlib.Path({str(grandchild)!r}).write_text(str(child.pid))",
                "signal.pause()",
            ),
            ENVIRONMENT,
        )
    )
    pid = int(wait_until(lambda: grandchild.exists() and grandchild.read_text(), what="the grandchild"))

    os.kill(pid_of(watched, "server"), signal.SIGKILL)
    watched.tick_until(lambda: watched.said, what="the end to be noticed")

    wait_until(lambda: not is_running(pid), what="the grandchild to end")


def test_parts_end_by_stages(watched: Watched, tmp_path: Path) -> None:
    order = tmp_path / "order"

    def says_when_it_ends(name: str) -> tuple[str, ...]:
        return python(
            "import signal, sys",
            "def end(*_):",
            f"    open({str(order)!r}, 'a').write({name!r} + ' ')",
            "    sys.exit(0)",
            "signal.signal(signal.SIGTERM, end)",
            "print('here', flush=True)",
            "while True: signal.pause()",
        )

    for name, stage in (("broker", 2), ("worker", 1), ("api", 0)):
        watched.supervisor.start(Part(name, says_when_it_ends(name), ENVIRONMENT, stage))
        log = watched.supervisor.log_path(name)
        wait_until(lambda path=log: "here" in path.read_text(), what=f"{name} to be there")  # type: ignore[misc]

    watched.supervisor.stop()

    assert order.read_text().split() == ["api", "worker", "broker"]


def test_a_child_that_does_not_end_is_killed_after_the_wait(watched: Watched) -> None:
    watched.supervisor.start(Part("deaf", DEAF, ENVIRONMENT))
    pid = pid_of(watched, "deaf")
    log = watched.supervisor.log_path("deaf")
    wait_until(lambda: "deaf" in log.read_text(), what="the child to be deaf")

    watched.supervisor.stop(seconds=0.2)

    assert not is_running(pid)
    assert watched.texts("deaf") == ["did not end in time; killed"]


def test_whoever_is_in_a_hurry_does_not_wait(watched: Watched) -> None:
    watched.supervisor.start(Part("deaf", DEAF, ENVIRONMENT))
    log = watched.supervisor.log_path("deaf")
    wait_until(lambda: "deaf" in log.read_text(), what="the child to be deaf")
    began = time.monotonic()

    watched.supervisor.stop(seconds=60, hurried=lambda: True)

    assert_within(time.monotonic() - began, 5)


def test_a_frozen_child_ends_politely(watched: Watched, tmp_path: Path) -> None:
    goodbye = tmp_path / "goodbye"
    watched.supervisor.start(
        Part(
            "frozen",
            python(
                "import signal, sys, pathlib",
                f"signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path({str(goodbye)!r}).touch(), sys.exit(0)))",
                "print('here', flush=True)",
                "while True: signal.pause()",
            ),
            ENVIRONMENT,
        )
    )
    log = watched.supervisor.log_path("frozen")
    wait_until(lambda: "here" in log.read_text(), what="the child to be there")
    os.kill(pid_of(watched, "frozen"), signal.SIGSTOP)

    watched.supervisor.stop()

    assert goodbye.exists()


def test_warnings_of_a_child_are_told_and_the_rest_stays_in_its_log(watched: Watched) -> None:
    watched.supervisor.start(
        Part(
            "worker",
            python(
                """print('{"level": "info", "event": "looked"}')""",
                """print('{"level": "warning", "event": "broker away", "seconds": 3}', flush=True)""",
                "import signal; signal.pause()",
            ),
            ENVIRONMENT,
        )
    )

    watched.tick_until(lambda: watched.said, what="the warning")

    assert watched.texts("worker") == ["broker away seconds=3"]
    assert "looked" in watched.supervisor.log_path("worker").read_text()


def test_a_child_that_froze_with_the_write_lock_is_killed(tmp_path: Path) -> None:
    lock = tmp_path / "db.lock"
    watched = Watched(tmp_path, write_lock=lock)
    watch = watched.supervisor._watch
    assert watch is not None
    watch.patience = 0.2
    holding = python(
        "import fcntl, os, signal",
        f"lock = os.open({str(lock)!r}, os.O_RDWR | os.O_CREAT, 0o600)",
        "fcntl.flock(lock, fcntl.LOCK_EX)",
        "os.pwrite(lock, f'{os.getpid():<12}'.encode(), 0)",
        "signal.pause()",
    )
    try:
        watched.supervisor.start(Part("holder", holding, ENVIRONMENT))
        first = pid_of(watched, "holder")

        watched.tick_until(lambda: len(watched.said) >= 2, what="the holder's end")

        assert watched.texts("holder")[0] == (
            f"pid {first} held the database's write lock for more than 0.2 s; killing it"
        )
        assert "killed by SIGKILL" in watched.texts("holder")[1]
    finally:
        watched.supervisor.stop(seconds=0)


def test_children_die_with_a_killed_supervisor(processes: Processes, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    supervisor = processes.start(
        "supervisor",
        sys.executable,
        "-c",
        "\n".join(
            (
                "import pathlib, signal",
                "from signalbox.supervisor import Part, Supervisor",
                f"folder = pathlib.Path({str(tmp_path)!r})",
                "supervisor = Supervisor(folder, folder, print)",
                f"supervisor.start(Part('child', {FOREVER!r}, {{}}))",
                f"pathlib.Path({str(pid_file)!r}).write_text(str(supervisor.pid('child')))",
                "signal.pause()",
            )
        ),
    )
    supervisor.wait_until_ready(
        lambda: (
            pid_file.exists()
            and pid_file.read_text() != ""
            and "here" in (tmp_path / "child.log").read_text()
        ),
        what="child",
    )
    child = int(pid_file.read_text())

    supervisor.kill()

    wait_until(lambda: not is_running(child), what="the child to die with its supervisor")
