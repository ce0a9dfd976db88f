"""The threads that serve: no more than are needed, never more than there may be, and every call is made."""

import threading
from collections.abc import Callable

import pytest

from api.worker import SPARE, Threads
from tests.support.waiting import wait_until


@pytest.fixture
def threads() -> Threads:
    return Threads(3)


def test_calls_one_after_the_other_are_made_by_one_thread(threads: Threads) -> None:
    by: list[int] = []
    for number in range(1, 6):
        threads.submit(lambda: by.append(threading.get_ident()))
        wait_until(lambda number=number: len(by) == number and len(threads._free) == 1, what="the call")

    assert len(set(by)) == 1


def test_no_more_calls_are_made_at_once_than_there_are_threads_and_none_is_lost(threads: Threads) -> None:
    gate, begun, ended = threading.Event(), threading.Semaphore(0), []

    def wait(number: int) -> Callable[[], None]:
        def call() -> None:
            begun.release()
            gate.wait(20)
            ended.append(number)

        return call

    for number in range(10):
        threads.submit(wait(number))
    assert all(begun.acquire(timeout=20) for _ in range(3))
    assert not begun.acquire(timeout=0.05), "the fourth waits for a thread"
    gate.set()

    wait_until(lambda: len(ended) == 10, what="every call")
    assert sorted(ended) == list(range(10))


def test_urgent_calls_are_made_beside_all_others(threads: Threads) -> None:
    gate, made = threading.Event(), threading.Semaphore(0)
    for _ in range(5):
        threads.submit(lambda: gate.wait(20))
    for _ in range(3 * SPARE):
        threads.submit(made.release, is_urgent=True)

    assert all(made.acquire(timeout=20) for _ in range(3 * SPARE))
    gate.set()
    threads.submit(made.release)
    assert made.acquire(timeout=20)


def test_threads_end_when_they_have_done_what_was_submitted(threads: Threads) -> None:
    gate, names = threading.Event(), []

    def call() -> None:
        gate.wait(20)
        names.append(threading.current_thread())

    for _ in range(5):
        threads.submit(call)
    threads.shutdown(wait=False)
    gate.set()

    wait_until(lambda: len(names) == 5, what="every call")
    for thread in set(names):
        thread.join(20)
        assert not thread.is_alive()


def test_idle_threads_end_at_once(threads: Threads) -> None:
    seen: list[threading.Thread] = []
    threads.submit(lambda: seen.append(threading.current_thread()))
    wait_until(lambda: len(threads._free) == 1, what="the thread to be free")

    threads.shutdown(wait=True)

    assert not seen[0].is_alive()
