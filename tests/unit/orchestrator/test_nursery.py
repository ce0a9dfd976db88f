"""Steppers as processes: they begin with the first call, are replaced where they die, and end with their worker however that ends."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.processes import Child, Processes
from tests.support.waiting import wait_until

WORKER = """
import os, sys, time
from orchestrator.nursery import Steppers, wait_for_calls

def step_beside(calls):
    told = lambda what: os.write(1, f"{what} {os.getpid()}\\n".encode())
    told("began")
    wait_for_calls(calls, lambda: told("called"))
    told("drained")

steppers = Steppers.fork(2, step_beside)
print("forked", flush=True)
for line in sys.stdin:
    if line == "call\\n":
        steppers.call()
    else:
        print("ended", steppers.end(wait=10), flush=True)
        break
"""


@pytest.fixture
def worker(processes: Processes, tmp_path: Path) -> Iterator[tuple[Child, int]]:
    """A process that forks two steppers, and a pipe that tells it what to do."""
    pipe = tmp_path / "told"
    os.mkfifo(pipe)
    child = processes.start("worker", "sh", "-c", f'exec "{sys.executable}" -c "$0" <"{pipe}"', WORKER)
    told = os.open(pipe, os.O_WRONLY)
    child.wait_for_log("forked")
    yield child, told
    os.close(told)


def pids(child: Child, what: str) -> list[int]:
    return [int(line.split()[1]) for line in child.log().splitlines() if line.startswith(what)]


def call_until_begun(child: Child, told: int, number: int) -> list[int]:
    os.write(told, b"call\n")
    wait_until(lambda: len(pids(child, "began")) >= number, what=f"{number} steppers to have begun")
    return pids(child, "began")


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_they_begin_with_the_first_call_and_drain_with_their_worker(worker: tuple[Child, int]) -> None:
    child, told = worker
    [nursery] = psutil.Process(child.pid).children()
    assert nursery.children() == []

    begun = call_until_begun(child, told, 2)

    assert len(set(begun)) == 2
    wait_until(lambda: pids(child, "called"), what="a call to be heard, the first one at the latest")
    os.write(told, b"end\n")
    child.wait_for_log("ended True")
    assert sorted(pids(child, "drained")) == sorted(begun)
    assert child.wait() == 0
    assert is_gone(nursery.pid)


def test_one_that_dies_is_replaced(worker: tuple[Child, int]) -> None:
    child, told = worker
    first, second = call_until_begun(child, told, 2)

    os.kill(first, signal.SIGKILL)

    wait_until(lambda: len(pids(child, "began")) == 3, what="another stepper")
    assert not is_gone(second)
    os.write(told, b"end\n")
    child.wait_for_log("ended True")
    assert sorted(pids(child, "drained")) == sorted({*pids(child, "began")} - {first})


def test_one_that_is_asked_to_end_drains_and_is_replaced(worker: tuple[Child, int]) -> None:
    child, told = worker
    first, _ = call_until_begun(child, told, 2)
    wait_until(
        lambda: psutil.Process(first).status() == psutil.STATUS_SLEEPING, what="the stepper to wait for calls"
    )

    os.kill(first, signal.SIGTERM)

    wait_until(lambda: first in pids(child, "drained"), what="the stepper to drain")
    wait_until(lambda: len(pids(child, "began")) == 3, what="another stepper")


def test_none_outlives_a_worker_that_is_killed(worker: tuple[Child, int]) -> None:
    child, told = worker
    [nursery] = psutil.Process(child.pid).children()
    begun = call_until_begun(child, told, 2)

    child.kill()

    wait_until(lambda: all(map(is_gone, [nursery.pid, *begun])), what="nursery and steppers to be gone")


def test_a_worker_that_never_calls_leaves_nothing(worker: tuple[Child, int]) -> None:
    child, told = worker
    [nursery] = psutil.Process(child.pid).children()

    os.write(told, b"end\n")

    child.wait_for_log("ended True")
    assert pids(child, "began") == []
    wait_until(lambda: is_gone(nursery.pid), what="the nursery to be gone")


def test_a_worker_whose_nursery_was_killed_goes_on(worker: tuple[Child, int]) -> None:
    child, told = worker
    [nursery] = psutil.Process(child.pid).children()
    begun = call_until_begun(child, told, 2)

    nursery.kill()

    wait_until(lambda: all(map(is_gone, begun)), what="its steppers to be gone")
    for _ in range(3):
        os.write(told, b"call\n")
    child.wait_for_log("steppers.gone")
    os.write(told, b"end\n")
    child.wait_for_log("ended True")
    assert child.wait() == 0
