"""Slots: as many calls at once as there are slots, threads made when needed, and no call takes a slot with it."""

import threading
from collections.abc import Iterator

import pytest

from task_runner.slots import Slots
from tests.support.waiting import wait_until

PATIENCE = 10.0


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Opened at the end, so that no thread is left waiting."""
    gate = threading.Event()
    yield gate
    gate.set()


def nothing(_result: object) -> None: ...


def test_calls_run_beside_each_other_up_to_the_size(gate: threading.Event) -> None:
    slots = Slots(3)
    together = threading.Barrier(4)
    for _ in range(3):
        slots.submit(lambda: together.wait(PATIENCE), nothing)
    assert slots.free == 0

    together.wait(PATIENCE)

    assert slots.wait_idle(PATIENCE)
    assert slots.free == 3


def test_more_than_fit_wait_their_turn(gate: threading.Event) -> None:
    slots = Slots(1)
    done: list[int] = []
    slots.submit(lambda: gate.wait(PATIENCE), nothing)
    for n in range(3):
        slots.submit(lambda n=n: n, done.append)  # type: ignore[misc]
    assert done == []

    gate.set()

    assert slots.wait_idle(PATIENCE)
    assert done == [0, 1, 2]


def test_threads_are_made_when_needed_and_used_again() -> None:
    slots = Slots(8)
    names: set[int] = set()
    for _ in range(20):
        slots.submit(threading.get_ident, names.add)
        assert slots.wait_idle(PATIENCE)

    assert len(names) == 1


def test_waiting_for_idleness_gives_up_in_time(gate: threading.Event) -> None:
    slots = Slots(1)
    slots.submit(lambda: gate.wait(PATIENCE), nothing)

    assert slots.wait_idle(0.01) is False


def test_whoever_is_woken_by_a_result_finds_the_slot_free() -> None:
    """Else he would go back to sleep, and nobody would wake him again."""
    slots = Slots(1)
    free: list[int] = []
    slots.submit(lambda: None, lambda _result: free.append(slots.free))

    assert slots.wait_idle(PATIENCE)
    assert free == [1]


def test_idle_means_that_every_result_is_handed_on(gate: threading.Event) -> None:
    slots = Slots(1)
    slots.submit(lambda: None, lambda _result: gate.wait(PATIENCE) and None)

    assert slots.wait_idle(0.05) is False
    gate.set()
    assert slots.wait_idle(PATIENCE)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_call_that_raises_does_not_cost_its_slot() -> None:
    """Only a fault that a test injects gets this far; the slot must be there afterwards all the same."""
    slots = Slots(1)
    done: list[int] = []

    dying: list[threading.Thread] = []

    def fault() -> int:
        dying.append(threading.current_thread())
        raise SystemExit

    slots.submit(fault, done.append)
    assert slots.wait_idle(PATIENCE)
    dying[0].join(PATIENCE)  # what it raised is this test's to ignore, not the next one's
    slots.submit(lambda: 1, done.append)
    wait_until(lambda: done == [1], what="the next call in the same slot", seconds=3)


def test_an_abandoned_call_gives_its_slot_to_others_and_its_thread_ends_with_it(
    gate: threading.Event,
) -> None:
    slots = Slots(1)
    handed_on: list[str] = []
    ticket = slots.submit(lambda: gate.wait(PATIENCE) and "late", handed_on.append)
    assert slots.free == 0

    assert slots.abandon(ticket) is True
    assert slots.abandon(ticket) is False
    assert (slots.free, slots.zombies) == (1, 1)
    assert slots.wait_idle(0), "nobody waits for a zombie"

    slots.submit(lambda: "next", handed_on.append)
    assert slots.wait_idle(PATIENCE)
    assert handed_on == ["next"]

    gate.set()
    wait_until(lambda: slots.zombies == 0, what="the zombie to return")
    wait_until(lambda: handed_on == ["next", "late"], what="its result to be handed on")
    slots.submit(lambda: "more", handed_on.append)
    assert slots.wait_idle(PATIENCE)
    assert slots.free == 1


def test_a_call_that_is_over_cannot_be_abandoned() -> None:
    slots = Slots(1)
    ticket = slots.submit(lambda: None, nothing)
    assert slots.wait_idle(PATIENCE)
    assert slots.abandon(ticket) is False
    assert (slots.free, slots.zombies) == (1, 0)
