"""Parts that are forked by a process that has loaded their code: they are our children all the same, whatever happens to it."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from signalbox.fork_server import FORK, written
from signalbox.parts import api_command, worker_command
from signalbox.processes import ForkServer, can_adopt
from signalbox.supervisor import FORK_SERVER, Notice, Part, Supervisor
from tests.support.processes import Processes
from tests.support.slowdown import assert_within
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
    "ignored": [name for name in ("SIGCHLD", "SIGTERM") if signal.getsignal(signal.Signals[name]) == signal.SIG_IGN],
    "inherited": [os.fstat(int(number)).st_ino for number in sys.argv[1:]],
}), flush=True)
signal.pause()
"""
"""A part that says what it is, and stays."""
ENDS = "import sys; sys.exit(int(sys.argv[1]))"


class Forking:
    """A supervisor whose parts are forked, in a folder with a few modules to run."""

    def __init__(self, folder: Path, environment: Mapping[str, str] = ENVIRONMENT) -> None:
        for name, source in (("tells", TELLS), ("ends", ENDS)):
            (folder / f"{name}.py").write_text(source)
        self.folder = folder
        self.said: list[Notice] = []
        self.supervisor = Supervisor(folder / "logs", folder, self.said.append)
        self.supervisor.start_fork_server(environment, stage=1)
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
            *lines, _begun = self.supervisor.log_path(name).read_text().split("\n")
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


@contextmanager
def kept(forking: Forking) -> Iterator[Forking]:
    """For as long as the block lasts."""
    try:
        yield forking
    finally:
        forking.supervisor.stop(seconds=0)


@pytest.fixture
def forking(tmp_path: Path) -> Iterator[Forking]:
    with kept(Forking(tmp_path)) as forking:
        yield forking


def test_missing_standard_files_are_opened(tmp_path: Path) -> None:
    """Else a socket would have the number of one, and be closed as that by whom we begin."""
    told = tmp_path / "told"
    program = (
        "import json, os, socket; from signalbox.processes import have_standard_files; have_standard_files(); "
        "ends = socket.socketpair(); files = [os.fstat(n).st_rdev for n in range(3)]; "
        f"open({str(told)!r}, 'w').write(json.dumps([files, min(end.fileno() for end in ends)]))"
    )

    command = f"exec '{sys.executable}' -c \"$0\" <&- >&- 2>&-"
    subprocess.run(["/bin/sh", "-c", command, program], env=ENVIRONMENT, check=True)

    files, lowest = json.loads(told.read_text())
    assert files == [os.stat(os.devnull).st_rdev] * 3
    assert lowest > 2


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
    environment = told["environment"]
    assert isinstance(environment, dict)
    environment.pop("LC_CTYPE", None)  # which Python itself sets in the "C" locale
    assert environment == {**ENVIRONMENT, "OWN": "forked"}
    files = told["files"]
    assert isinstance(files, list)
    assert len(files) == 5, (
        f"expected standard files, the socket and the folder that was just listed, found {files}"
    )
    assert f"-m tells {number}" in " ".join(psutil.Process(forking.pid("forked")).cmdline())


SECRETS = """
import json, multiprocessing, random, secrets, signal, uuid
import uuid_utils
from common.ids import new_id, new_token
from common.randomness import random_bytes
print(json.dumps([
    multiprocessing.current_process().authkey.hex(), random.random(), secrets.token_hex(8),
    str(uuid.uuid4()), str(uuid_utils.uuid4()), str(uuid_utils.uuid7()), new_id(), new_token(), random_bytes(16).hex(),
]), flush=True)
signal.pause()
"""


def test_no_two_have_ids_or_random_bytes_in_common(forking: Forking) -> None:
    (forking.folder / "drawn.py").write_text(SECRETS)
    names = [f"part{number}" for number in range(3)]

    for name in names:
        forking.start(name, "drawn")

    drawn = [forking.told(name) for name in names]
    assert [len(set(values)) for values in zip(*drawn, strict=True)] == [len(names)] * len(drawn[0])


def test_where_one_that_began_before_there_was_a_log_told_its_end_is_said(tmp_path: Path) -> None:
    said: list[Notice] = []
    server = ForkServer()
    with (tmp_path / "ours").open("ab") as ours:
        server.begin(ENVIRONMENT, tmp_path, output=ours.fileno())
    supervisor = Supervisor(tmp_path / "logs", tmp_path, said.append, fork_server=server)
    supervisor.start_fork_server(ENVIRONMENT, stage=1)
    pid = supervisor.pid(FORK_SERVER)
    assert pid is not None
    try:
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: supervisor.tick() >= 0 and said, what="its end to be told")
        assert said[0].text.endswith("starting it again in 0.2 s, what it said stands above")

        successor = wait_until(
            lambda: supervisor.tick() >= 0 and supervisor.pid(FORK_SERVER), what="the next one"
        )
        assert successor
        os.kill(successor, signal.SIGKILL)
        wait_until(lambda: supervisor.tick() >= 0 and len(said) > 1, what="its end to be told")
        assert said[1].text.endswith(f"its log is {supervisor.log_path(FORK_SERVER)}")
    finally:
        supervisor.stop(seconds=0)


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


def test_whom_we_adopt_without_having_asked_stays_no_zombie(forking: Forking) -> None:
    """As what is left of one that was killed while it forked. Here: of a child of ours that ends while we wait for an answer."""
    os.kill(forking.pid(FORK_SERVER), signal.SIGSTOP)
    parent = subprocess.Popen(
        ["/bin/sh", "-c", "sleep 1.2 & echo $!; exec sleep 0.4"], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    orphan = psutil.Process(int(parent.stdout.readline()))
    forking.start("executed", "tells")
    parent.stdout.close()
    parent.wait()
    assert orphan.ppid() == os.getpid(), "it was not adopted"
    wait_until(lambda: orphan.status() == psutil.STATUS_ZOMBIE, what="its end")
    wait_until(lambda: forking.texts(FORK_SERVER) and forking.supervisor.pid(FORK_SERVER), what="another one")
    forking.supervisor.await_fork_server(60)

    forking.start("forked", "tells")

    assert not orphan.is_running()


def test_an_environment_may_be_long_and_no_utf8(forking: Forking) -> None:
    environment = {
        **ENVIRONMENT,
        **{f"V{n}": "x" * 100_000 for n in range(6)},
        "BYTES": os.fsdecode(b"a\xff\xfe"),
    }

    forking.supervisor.start(Part("long", (sys.executable, "-m", "tells"), environment))

    told = forking.told("long")
    assert told["celery"] is True
    found = told["environment"]
    assert isinstance(found, dict)
    assert {name: found.get(name) for name in environment} == environment


def test_a_folder_that_was_made_anew_is_the_current_one_again(tmp_path: Path) -> None:
    """As after a checkout: its path is all that stays."""
    folder = tmp_path / "current"
    folder.mkdir()
    with kept(Forking(folder)) as forking:
        folder.rename(tmp_path / "before")
        shutil.rmtree(tmp_path / "before")
        folder.mkdir()
        (folder / "tells.py").write_text(TELLS)

        forking.start("forked", "tells")

        told = forking.told("forked")
        assert told["celery"] is True
        assert told["cwd"] == told["path"] == str(folder)


def test_modules_are_found_in_a_folder_that_was_not_there_before(tmp_path: Path) -> None:
    later = tmp_path / "later"
    environment = {**ENVIRONMENT, "PYTHONPATH": f"{later}{os.pathsep}{ENVIRONMENT['PYTHONPATH']}"}
    with kept(Forking(tmp_path, environment)) as forking:
        later.mkdir()
        (later / "late.py").write_text(TELLS)

        forking.supervisor.start(Part("forked", (sys.executable, "-m", "late"), environment))

        assert forking.told("forked")["celery"] is True


def test_modules_of_the_current_folder_are_not_looked_for_where_that_is_said_to_be_unsafe(
    tmp_path: Path,
) -> None:
    (tmp_path / "celery.py").write_text("raise SystemExit('this is not Celery')")
    safe = {**ENVIRONMENT, "PYTHONSAFEPATH": "1"}
    with kept(Forking(tmp_path, safe)) as forking:
        forking.supervisor.start(Part("safe", (sys.executable, "-m", "tells"), safe))
        forking.start("unsafe", "tells")

        wait_until(lambda: forking.texts("safe"), what="the end of who finds no such module")
        assert "No module named tells" in forking.supervisor.log_path("safe").read_text()
        told = forking.told("unsafe")
        assert told["celery"] is True
        assert told["path"] == str(tmp_path)


def test_it_does_not_matter_which_signals_whoever_began_us_has_ignored(tmp_path: Path) -> None:
    ignored = (signal.SIGCHLD, signal.SIGTERM)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in ignored}
    try:
        with kept(Forking(tmp_path)) as forking:
            forking.start("forked", "tells")
            told = forking.told("forked")
            os.kill(forking.pid("forked"), signal.SIGTERM)

            wait_until(lambda: forking.texts("forked"), what="its end to be told")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert told["celery"] is True
    assert told["ignored"] == []


def test_whoever_forks_is_not_waited_for_by_who_is_asked_to_stop(tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path, tmp_path, lambda _notice: None)
    supervisor.start_fork_server(ENVIRONMENT, stage=1)
    pid = supervisor.pid(FORK_SERVER)
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)  # while it loads
    try:
        began = time.monotonic()
        supervisor.await_fork_server(60, lambda: time.monotonic() > began + 0.3)
        assert_within(time.monotonic() - began, 5)
    finally:
        supervisor.stop(seconds=0)


@contextmanager
def asked_for(folder: Path) -> Iterator[tuple[psutil.Process, int]]:
    """What was forked and waits for the word of its supervisor, and our end of the pipe that it waits at."""
    (folder / "tells.py").write_text(TELLS)
    server = ForkServer()
    with (folder / "log").open("ab") as log:
        process = server.begin(ENVIRONMENT, folder, output=log.fileno())
        try:
            assert server.await_ready(60)
            control = server._control
            assert control is not None
            word, our_word = os.pipe()
            order = written(
                {
                    "module": "tells", "arguments": [], "environment": ENVIRONMENT, "cwd": str(folder), "sockets": [],
                }
            )  # fmt: skip
            socket.send_fds(control, [FORK], [order, word, log.fileno()])
            control.settimeout(10)
            forked = psutil.Process(int(control.recv(32)))
            os.close(word)
            os.close(order)
            yield forked, our_word
        finally:
            server.close()
            process.wait()


def test_whom_nobody_wants_any_more_does_not_begin(tmp_path: Path) -> None:
    """The supervisor gave up while it was being forked: no second one beside the one that it executes instead."""
    with asked_for(tmp_path) as (forked, our_word):
        assert forked.is_running()

        os.close(our_word)

        wait_until(lambda: not forked.is_running() or forked.status() == psutil.STATUS_ZOMBIE, what="its end")
        assert (tmp_path / "log").read_text() == ""


def test_it_has_its_session_before_anybody_knows_it(tmp_path: Path) -> None:
    """Whoever ends a part ends its session and waits: without one nobody would have been ended."""
    with asked_for(tmp_path) as (forked, our_word):
        session = os.getsid(forked.pid)
        os.close(our_word)
    assert session == forked.pid


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
