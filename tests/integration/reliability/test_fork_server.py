"""Parts that are forked by a process that has loaded their code: they are our children all the same, whatever happens to it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
import pytest

from signalbox.parts import api_command, worker_command
from signalbox.processes import ForkServer, can_adopt
from signalbox.supervisor import FORK_SERVER, Notice, Part, Supervisor
from tests.support.processes import Processes
from tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(
    not can_adopt(), reason="only Linux lets a process adopt what another has forked"
)

ENVIRONMENT = {"PATH": os.defpath, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
TELLS = """
import json, os, signal, sys
print(json.dumps({
    "pid": os.getpid(), "parent": os.getppid(), "session": os.getsid(0), "cwd": os.getcwd(), "path": sys.path[0],
    "argv": sys.argv[1:], "environment": dict(os.environ), "name": __name__, "celery": "celery" in sys.modules,
    "files": sorted(int(number) for number in os.listdir("/proc/self/fd")),
    "inherited": [os.fstat(int(number)).st_ino for number in sys.argv[1:]],
}), flush=True)
signal.pause()
"""
"""A part that says what it is, and stays."""
ENDS = "import sys; sys.exit(int(sys.argv[1]))"


class Forking:
    """A supervisor whose parts are forked, in a folder with a few modules to run."""

    def __init__(self, folder: Path) -> None:
        for name, source in (("tells", TELLS), ("ends", ENDS)):
            (folder / f"{name}.py").write_text(source)
        self.folder = folder
        self.said: list[Notice] = []
        self.supervisor = Supervisor(folder / "logs", folder, self.said.append)
        self.supervisor.start_fork_server(ENVIRONMENT, stage=1)
        self.supervisor.await_fork_server(60)

    def start(self, name: str, module: str, *arguments: str, sockets: tuple[int, ...] = ()) -> None:
        self.supervisor.start(
            Part(
                name,
                (sys.executable, "-m", module, *arguments),
                {**ENVIRONMENT, "OWN": name},
                sockets=sockets,
            )
        )

    def told(self, name: str, *, life: int = 0) -> Mapping[str, object]:
        """What a part says that it is, in the life of that number."""

        def said() -> str | None:
            self.supervisor.tick()
            lines = self.supervisor.log_path(name).read_text().splitlines()
            return lines[life] if len(lines) > life else None

        line = wait_until(said, what=f"{name} to tell what it is", seconds=20.0)
        assert line is not None
        found: Mapping[str, object] = json.loads(line)
        return found

    def texts(self, part: str) -> list[str]:
        self.supervisor.tick()
        return [notice.text for notice in self.said if notice.part == part]

    def pid(self, part: str) -> int:
        pid = self.supervisor.pid(part)
        assert pid is not None, f"{part} does not run"
        return pid


@pytest.fixture
def forking(tmp_path: Path) -> Iterator[Forking]:
    forking = Forking(tmp_path)
    yield forking
    forking.supervisor.stop(seconds=0)


def test_what_is_forked_is_a_child_of_ours_and_no_more_than_it_would_be(forking: Forking) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number = str(listener.fileno())
        forking.start("forked", "tells", number, sockets=(listener.fileno(),))
        told = forking.told("forked")
        inode = os.fstat(listener.fileno()).st_ino

    assert told["celery"] is True, "it was not forked: it has loaded nothing"
    assert told["pid"] == told["session"] == forking.supervisor.pid("forked")
    assert told["parent"] == os.getpid()
    assert told["cwd"] == told["path"] == str(forking.folder)
    assert told["name"] == "__main__"
    assert told["argv"] == [number]
    assert told["inherited"] == [inode]
    assert told["environment"] == {**ENVIRONMENT, "OWN": "forked"} | {
        name: value
        for name, value in told["environment"].items()
        if name == "LC_CTYPE"  # type: ignore[attr-defined]
    }  # which Python itself sets in the "C" locale
    files = told["files"]
    assert isinstance(files, list)
    assert len(files) == 5, (
        f"expected standard files, the socket and the folder that was just listed, found {files}"
    )
    assert f"-m tells {number}" in " ".join(psutil.Process(forking.pid("forked")).cmdline())


@pytest.mark.parametrize("code", [0, 3])
def test_its_exit_code_is_ours_to_take(forking: Forking, code: int) -> None:
    forking.start("short", "ends", str(code))

    wait_until(lambda: forking.texts("short"), what="its end to be told")
    assert f"ended (exit code {code}, pid" in forking.texts("short")[0]


def test_one_that_was_killed_is_forked_again(forking: Forking) -> None:
    forking.start("forked", "tells")
    first = forking.told("forked")

    os.kill(forking.pid("forked"), signal.SIGKILL)

    second = forking.told("forked", life=1)
    assert second["celery"] is True
    assert second["pid"] != first["pid"]
    assert "killed by SIGKILL" in forking.texts("forked")[0]


def test_parts_live_on_when_the_process_that_forked_them_is_killed(forking: Forking) -> None:
    forking.start("forked", "tells")
    pid = forking.told("forked")["pid"]
    killed = forking.pid(FORK_SERVER)

    os.kill(killed, signal.SIGKILL)

    wait_until(lambda: forking.texts(FORK_SERVER), what="its end to be told")
    forking.start("meanwhile", "tells")  # before the next one has loaded its code
    assert forking.told("meanwhile")["celery"] is False
    assert forking.supervisor.pid("forked") == pid
    wait_until(lambda: forking.texts(FORK_SERVER) and forking.supervisor.pid(FORK_SERVER), what="another one")
    forking.supervisor.await_fork_server(60)
    forking.start("later", "tells")
    assert forking.told("later")["celery"] is True
    assert forking.texts("forked") == []


def test_one_that_is_frozen_keeps_nobody_from_beginning(forking: Forking) -> None:
    os.kill(forking.pid(FORK_SERVER), signal.SIGSTOP)

    forking.start("executed", "tells")

    assert forking.told("executed")["celery"] is False
    assert "could not be forked (timed out), so it loads its code itself" in forking.texts("executed")
    wait_until(lambda: forking.texts(FORK_SERVER), what="the frozen one to be ended")
    assert "killed by SIGKILL" in forking.texts(FORK_SERVER)[0]
    time.sleep(0.5)  # whoever was asked for twice would have begun by now
    assert len(forking.supervisor.log_path("executed").read_text().splitlines()) == 1


def test_what_is_too_long_to_be_asked_for_is_executed(forking: Forking) -> None:
    forking.supervisor.start(
        Part(
            "long",
            (sys.executable, "-m", "tells"),
            {**ENVIRONMENT, **{f"V{n}": "x" * 100_000 for n in range(6)}},
        )
    )

    assert forking.told("long")["celery"] is False


def test_whom_nobody_wants_any_more_does_not_begin(tmp_path: Path) -> None:
    """The supervisor gave up while it was being forked: no second one beside the one that it executes instead."""
    (tmp_path / "tells.py").write_text(TELLS)
    server = ForkServer()
    with (tmp_path / "log").open("ab") as log:
        process = server.begin(ENVIRONMENT, tmp_path, output=log.fileno())
        try:
            assert server.await_ready(60)
            control = server._control
            assert control is not None
            word, our_word = os.pipe()
            order = {
                "module": "tells", "arguments": [], "environment": ENVIRONMENT, "cwd": str(tmp_path), "sockets": [],
            }  # fmt: skip
            socket.send_fds(control, [json.dumps(order).encode()], [word, log.fileno()])
            control.settimeout(10)
            forked = psutil.Process(int(control.recv(32)))
            os.close(word)
            assert forked.is_running()

            os.close(our_word)

            wait_until(
                lambda: not forked.is_running() or forked.status() == psutil.STATUS_ZOMBIE, what="its end"
            )
            assert (tmp_path / "log").read_text() == ""
        finally:
            server.close()
            process.wait()


def test_everybody_dies_with_a_killed_supervisor(processes: Processes, tmp_path: Path) -> None:
    (tmp_path / "tells.py").write_text(TELLS)
    script = f"""
import os, pathlib, signal, sys
from signalbox.supervisor import Part, Supervisor
folder = pathlib.Path({str(tmp_path)!r})
supervisor = Supervisor(folder, folder, print)
environment = dict(os.environ)
supervisor.start_fork_server(environment, stage=1)
supervisor.await_fork_server(60)
supervisor.start(Part("forked", (sys.executable, "-m", "tells"), environment))
signal.pause()
"""
    supervisor = processes.start("supervisor", sys.executable, "-c", script)
    log = tmp_path / "forked.log"
    supervisor.wait_until_ready(
        lambda: log.exists() and log.read_text().endswith("\n"), what="the part", seconds=30
    )
    family = psutil.Process(supervisor.pid).children(recursive=True)
    assert json.loads(log.read_text())["celery"] is True
    assert len(family) == 2

    supervisor.kill()

    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive


def test_all_that_parts_load_has_been_loaded(tmp_path: Path) -> None:
    """What is missing from the list costs its time again with each start: these are to load settings and what belongs to them."""
    program = """
import importlib, sys
from signalbox.fork_server import LOADED
for module in LOADED:
    importlib.import_module(module)
before = set(sys.modules)
import orchestrator.worker, task_runner.worker, api.app
print(*sorted(name for name in set(sys.modules) - before))
"""
    found = subprocess.run(
        [sys.executable, "-c", program],
        env={**ENVIRONMENT, "SIGNALBOX_DATA": str(tmp_path)},
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert found.stdout.split() == ["orchestrator.worker", "task_runner.worker"]


def test_the_commands_of_our_parts_are_ones_that_can_be_forked() -> None:
    for command in (api_command(), worker_command("orchestrator"), worker_command("task-runner")):
        assert command[:2] == (sys.executable, "-m")
