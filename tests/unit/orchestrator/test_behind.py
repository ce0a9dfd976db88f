"""The thread that saves a batch while the next is stepped: one at a time, and what one was lost by is told once."""

import threading
from collections.abc import Iterator

import pytest

from orchestrator.behind import Behind
from orchestrator.passed import Pass


@pytest.fixture
def behind() -> Iterator[Behind]:
    one = Behind()
    yield one
    one.close()


def lost() -> Pass:
    raise ConnectionError("the database is away")


def test_nothing_was_saved_where_nothing_was_given(behind: Behind) -> None:
    assert behind.is_free(within=0.0)
    assert behind.join() == []


def test_it_is_free_when_the_batch_is_saved(behind: Behind) -> None:
    go_on = threading.Event()

    def slowly() -> Pass:
        assert go_on.wait(10)
        return Pass(steps=3)

    behind.save(slowly)

    assert not behind.is_free(within=0.05)
    go_on.set()
    assert behind.is_free(within=None)
    behind.save(lambda: Pass(steps=4))
    assert [one.steps for one in behind.join()] == [3, 4]
    assert behind.join() == []


def test_a_lost_batch_is_told_with_the_next_one_or_at_the_end(behind: Behind) -> None:
    behind.save(lost)
    assert behind.is_free(within=None), "to ask whether it is free does not raise"
    with pytest.raises(ConnectionError):
        behind.save(lambda: Pass(steps=1))
    assert [one.steps for one in behind.join()] == [1], "the next one is saved all the same"

    behind.save(lost)
    with pytest.raises(ConnectionError):
        behind.join()
    assert behind.join() == []


def test_an_abandoned_batch_is_waited_for_and_never_told_of(behind: Behind) -> None:
    saved = threading.Event()

    def save_and_fail() -> Pass:
        saved.set()
        return lost()

    behind.save(save_and_fail)
    behind.abandon()

    assert saved.is_set()
    assert behind.join() == []
    behind.save(lambda: Pass(steps=1))
    assert [one.steps for one in behind.join()] == [1]


def test_who_has_drained_waits_for_no_batch_that_hangs(behind: Behind) -> None:
    """A stranger's lock holds up a statement for 30 s, and a supervisor grants less."""
    go_on, ended = threading.Event(), threading.Event()
    threads: list[threading.Thread] = []

    def hang() -> Pass:
        threads.append(threading.current_thread())
        assert go_on.wait(30)
        return Pass(steps=1)

    behind.save(hang)

    def close() -> None:
        behind.close()
        ended.set()

    threading.Thread(target=close, daemon=True).start()

    try:
        assert ended.wait(5), "the batch is waited for"
        assert all(thread.daemon for thread in threads), "the interpreter's end waits for nobody either"
    finally:
        go_on.set()
    assert [one.steps for one in behind.join()] == [1], "what is saved all the same counts"
    threads[0].join(10)
    assert not threads[0].is_alive()
