"""`signalbox up` brings back what dies, and takes all down again: each test has a stack of its own."""

import os
import re
import signal
import socket
import time

import psutil

from signalbox.cli.exits import Exit
from signalbox.folder import DataFolder
from signalbox.stack import READY_SECONDS
from tests.support.processes import Processes
from tests.support.up_command import (
    HELLO,
    PARTS,
    STOP_SECONDS,
    UP_SECONDS,
    Up,
    command_line,
    family,
    living,
    start_up,
)
from tests.support.waiting import wait_until


def test_every_killed_part_is_started_again_and_it_says_so(processes: Processes) -> None:
    up = start_up(processes)
    up.json("apply", str(HELLO))

    for part, pid in up.pids().items():
        os.kill(pid, signal.SIGKILL)

        up.child.wait_for_log(f"{part} │ ended (killed by SIGKILL, pid {pid}); starting it again in 0.2 s")
        wait_until(
            lambda: up.cli("start", "hello-workflow", "--wait", "60", "--json").returncode == 0,
            what=f"starts to be accepted without the old {part}",
            seconds=40,
        )

    wait_until(
        lambda: all(one["status"] == "completed" for one in up.json("ls")["items"]),
        what="every instance to complete",
        seconds=40,
    )
    assert len(up.json("ls")["items"]) >= len(PARTS)
    assert up.json("doctor")["healthy"]


def test_more_workers_than_one_of_each_are_kept_running_like_the_first(processes: Processes) -> None:
    up = start_up(processes, "--orchestrators", "2", "--task-runners", "2")
    assert set(up.pids()) == PARTS | {"orchestrator-2", "task-runner-2"}
    up.json("apply", str(HELLO))
    killed = {name: up.pids()[name] for name in ("orchestrator-2", "task-runner-2")}

    for part, pid in killed.items():
        os.kill(pid, signal.SIGKILL)
        up.child.wait_for_log(f"{part} │ ended (killed by SIGKILL, pid {pid}); starting it again in 0.2 s")

    def pids() -> set[int]:
        return {one["pid"] for one in up.json("stats")["workers"]}

    wait_until(lambda: len(pids() - set(killed.values())) == 4, what="four living workers", seconds=40)
    assert up.json("start", "hello-workflow", "--wait", "60")["status"] == "completed"
    processes_of_it = family(up.child.pid)
    assert up.child.terminate(seconds=STOP_SECONDS) == Exit.OK
    assert living(processes_of_it) == []


def test_on_postgresql_a_second_orchestrator_is_in_reserve_and_comes_back_as_that(
    processes: Processes, postgres_url: str
) -> None:
    up = start_up(processes, env={"DATABASE_URL": postgres_url})
    assert set(up.pids()) == PARTS | {"orchestrator-2"}
    assert f"pid {up.pids()['orchestrator-2']}, in reserve" in up.child.log()
    up.json("apply", str(HELLO))

    def in_reserve() -> list[psutil.Process]:
        return [one for one in family(up.child.pid) if "workflow-orchestrator-reserve" in command_line(one)]

    wait_until(lambda: len(in_reserve()) == 1, what="one in reserve", seconds=20)
    os.kill(up.pids()["orchestrator-2"], signal.SIGKILL)
    up.child.wait_for_log("orchestrator-2 │ ended (killed by SIGKILL")
    wait_until(lambda: len(in_reserve()) == 1, what="another one in reserve", seconds=20)

    # Without the first one, what is started is found by the one in reserve, or by the first that comes back.
    os.kill(up.pids()["orchestrator"], signal.SIGKILL)
    assert up.json("start", "hello-workflow", "--wait", "60")["status"] == "completed"
    assert up.child.terminate(seconds=STOP_SECONDS) == Exit.OK


def test_a_part_that_freezes_with_the_write_lock_is_killed_and_work_goes_on(processes: Processes) -> None:
    # The second batch of each orchestrator's life stops before its commit, so the first life freezes with the lock.
    up = start_up(processes, env={"SIGNALBOX_FAULTS": "before_commit=stop@2"})
    up.json("apply", str(HELLO))
    frozen = up.pids()["orchestrator"]

    identity = up.json("start", "hello-workflow")["id"]

    up.child.wait_for_log(
        f"pid {frozen} held the database's write lock for more than 5 s; killing it", seconds=30
    )
    up.child.wait_for_log(f"orchestrator │ ended (killed by SIGKILL, pid {frozen})")
    assert up.cli("watch", identity, "--timeout", "60").returncode == 0


def test_nobody_has_to_read_what_it_tells(processes: Processes) -> None:
    """A reader who goes away, such as `tee` or a terminal, once ended the stack at the next warning."""
    told = processes.folder / "told"
    os.mkfifo(told)
    child = processes.start("up", "sh", "-c", "exec signalbox up > told")
    up = Up(child, processes.folder)
    with told.open() as reader:
        before = next(line for line in reader if "orchestrator" in line)
        assert any("signalbox apply FILE" in line for line in reader)
    up.json("apply", str(HELLO))

    os.kill(int(before.rpartition("pid ")[2]), signal.SIGKILL)

    assert up.json("start", "hello-workflow", "--wait", "60")["status"] == "completed"
    assert up.child.terminate(seconds=STOP_SECONDS) == 0


def test_a_log_that_cannot_be_written_is_told_at_the_start(processes: Processes) -> None:
    log = processes.folder / ".signalbox" / "logs" / "api.log"
    log.mkdir(parents=True)  # as unwritable for root as for everybody

    child = processes.start("up", "signalbox", "up")

    assert child.wait(seconds=STOP_SECONDS) == Exit.USAGE
    assert f'"{log}": Is a directory' in child.log()
    assert "Traceback" not in child.log()


def test_nothing_is_accepted_any_more_for_a_database_whose_file_is_gone(processes: Processes) -> None:
    """Every process has the file open and would go on with it, acknowledging what nobody could ever find."""
    up = start_up(processes)
    everything = family(up.child.pid)
    database = DataFolder.at(up.data).database_path

    database.rename(database.with_name("away.db"))

    assert up.child.wait(seconds=STOP_SECONDS) == Exit.FAILED
    assert f'error: "{database}" was removed or replaced while it was in use' in " ".join(
        up.child.log().split()
    )
    assert "Traceback" not in up.child.log()
    assert living(everything) == []


def assert_takes_everything_down(up: Up, asked: signal.Signals) -> None:
    everything = family(up.child.pid)
    assert len(everything) >= 1 + len(PARTS)

    up.child.popen.send_signal(asked)

    assert up.child.wait(seconds=STOP_SECONDS) == 0
    assert living(everything) == []
    assert re.search(r"stopped in [\d.]+ s; everything is kept in", up.child.log())
    assert "killed" not in up.child.log()


def test_no_child_outlives_up_and_the_next_one_goes_on_and_takes_everything_down_when_it_is_asked_to(
    processes: Processes,
) -> None:
    up = start_up(processes)
    up.json("apply", str(HELLO))
    identity = up.json("start", "hello-workflow", "--wait", "60")["id"]
    everything = family(up.child.pid)
    key = (up.data / "key").read_text()

    up.child.kill()

    wait_until(lambda: not living(everything), what="every child to end with its supervisor", seconds=10)
    again = start_up(processes, name="again")
    # Its usual port may be another program's by now: tests beside this one start `up`, too.
    assert (again.data / "key").read_text() == key
    assert again.json("show", identity)["status"] == "completed"
    assert again.json("start", "hello-workflow", "--wait", "60")["status"] == "completed"
    assert_takes_everything_down(again, signal.SIGTERM)


def test_it_begins_without_standard_files_and_in_an_environment_of_any_bytes(processes: Processes) -> None:
    """As whatever starts it at boot may leave it."""
    command = "BYTES=$(printf 'a\\377') exec signalbox up <&- >&- 2>&-"
    child = processes.start("up", "sh", "-c", command)
    data = processes.folder / ".signalbox"
    child.wait_until_ready((data / "url").exists, what="it to be up", seconds=UP_SECONDS)

    family_of_it = family(child.pid)
    assert len([one for one in family_of_it if "signalbox.fork_server" in command_line(one)]) == 1
    assert not (data / "logs" / "fork-server.log").exists(), "the first one has ended, and nobody was forked"

    child.terminate(seconds=STOP_SECONDS)
    assert not living(family_of_it)


def test_a_stop_is_obeyed_while_whoever_forks_is_frozen(processes: Processes) -> None:
    child = processes.start("up", "signalbox", "up")

    def forks() -> list[psutil.Process]:
        return [one for one in family(child.pid) if "signalbox.fork_server" in command_line(one)]

    [frozen] = wait_until(forks, what="the process that forks")
    frozen.suspend()  # while it loads
    child.wait_for_log("✓ broker", seconds=UP_SECONDS)
    family_of_it = family(child.pid)
    began = time.monotonic()

    child.terminate(seconds=STOP_SECONDS)

    assert time.monotonic() - began < READY_SECONDS - 5, "it was waited for to the end"
    assert not living(family_of_it)


def test_a_current_folder_that_was_removed_is_told(processes: Processes) -> None:
    child = processes.start("up", "sh", "-c", 'mkdir gone && cd gone && rmdir "$PWD" && exec signalbox up')

    assert child.wait() == Exit.USAGE, child.log()
    assert child.log().strip() == "error: the current folder was removed; change to one that is there"


def test_without_a_broker_work_goes_on_by_looking(processes: Processes) -> None:
    up = start_up(processes, "--no-broker")
    up.json("apply", str(HELLO))

    done = up.json("start", "hello-workflow", "--wait", "60")

    assert done["status"] == "completed"
    assert set(up.pids()) == PARTS - {"broker"}


def test_a_usual_port_that_is_taken_is_stepped_around_flower_shows_on_the_loopback_and_ctrl_c_ends_it_all(
    processes: Processes,
) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (processes.folder / ".signalbox").mkdir()
        (processes.folder / ".signalbox" / "url").write_text(f"http://127.0.0.1:{port}\n")

        up = start_up(processes, "--flower")

        assert up.url.rpartition(":")[2] != str(port)
        assert up.json("stats")["workers"]

    (url,) = re.findall(r"Flower\s+(http://127\.0\.0\.1:\d+)", up.child.log())
    port = int(url.rpartition(":")[2])

    def answers() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    up.child.wait_until_ready(answers, what="Flower", seconds=30)
    assert_takes_everything_down(up, signal.SIGINT)
