"""The dispatcher: no wake-up is lost, one round at a time, and neither a slow round nor an error stops it for good.

Threads meet on events; where the test says "later" it waits for a fact, never for time.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from common.faults import FaultInjected
from common.queues import dispatcher as module
from common.queues.dispatcher import Dispatcher, Drained, Looks
from tests.support.waiting import wait_until

PATIENCE = 10.0


class Table:
    """What a dispatcher drains: rows that are committed, and how many a round finds."""

    def __init__(self) -> None:
        self.rows = 0
        self.taken = 0
        self.rounds = 0
        self.at_once = 0
        self.most_at_once = 0
        self._turn = threading.Lock()
        self.before_read: Callable[[int], None] = lambda _round: None
        self.after_read: Callable[[int], None] = lambda _round: None

    def commit(self, rows: int = 1) -> None:
        with self._turn:
            self.rows += rows

    def work(self, _until: float) -> Drained:
        with self._turn:
            self.rounds += 1
            number = self.rounds
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        self.before_read(number)
        with self._turn:
            found, self.rows = self.rows, 0
            self.taken += found
        self.after_read(number)
        with self._turn:
            self.at_once -= 1
        return Drained(Counter(rows=found))


def never_due() -> float | None:
    return None


@contextmanager
def running(table: Table, *, due: Callable[[], float | None] = never_due) -> Iterator[Dispatcher]:
    """A dispatcher with its resident thread; by default the clock makes nothing due."""
    dispatcher = Dispatcher("test", work=table.work, due=due)
    dispatcher.start()
    yield dispatcher
    assert dispatcher.end(wait=PATIENCE)


@pytest.fixture
def table() -> Table:
    return Table()


def test_a_ring_starts_a_round(table: Table) -> None:
    with running(table) as dispatcher:
        table.commit()
        dispatcher.ring()
        wait_until(lambda: table.taken == 1, what="the row to be taken")


def test_the_resident_thread_says_that_it_goes_round(table: Table) -> None:
    rounds = threading.Semaphore(0)
    dispatcher = Dispatcher("test", work=table.work, due=never_due, on_round=rounds.release)
    dispatcher.start()
    for _ in range(3):
        assert rounds.acquire(timeout=PATIENCE)
    assert dispatcher.end(wait=PATIENCE)


def test_an_answer_works_in_the_calling_thread_and_says_what_it_did(table: Table) -> None:
    dispatcher = Dispatcher("test", work=table.work, due=never_due)  # no thread of its own
    table.commit(3)

    assert dispatcher.answer() == {"rows": 3}
    assert dispatcher.answer() == {"rows": 0}


def test_a_ring_while_a_round_reads_is_followed_by_another_read(table: Table) -> None:
    """The row is committed after the read and before the round ends: the ring must not be swallowed."""

    def commit_after_the_first_read(number: int) -> None:
        if number == 1:
            table.commit()
            assert dispatcher.answer() == {"coalesced": True}

    table.after_read = commit_after_the_first_read
    dispatcher = Dispatcher("test", work=table.work, due=never_due)

    assert dispatcher.answer() == {"rows": 1}
    assert table.rounds == 2


def test_a_ring_between_the_last_read_and_the_stop_is_not_lost(table: Table) -> None:
    """The hardest place: the work has returned, and the round has not yet said that it stops."""
    dispatcher = Dispatcher("test", work=table.work, due=never_due)
    inner = dispatcher._turn
    passes = iter(range(1, 100))

    class Turn:
        """The dispatcher's lock; just before the stop is decided under it, somebody commits and rings."""

        def __enter__(self) -> None:
            if next(passes) == 3:  # 1: answer takes the round, 2: clears `again`, 3: decides whether to stop
                table.commit()
                dispatcher._turn = inner
                dispatcher.ring()
                dispatcher._turn = self  # type: ignore[assignment]
            inner.acquire()

        def __exit__(self, *_: object) -> None:
            inner.release()

    dispatcher._turn = Turn()  # type: ignore[assignment]

    assert dispatcher.answer() == {"rows": 1}
    assert table.rounds == 2


def test_no_wake_up_is_lost_among_many_threads(table: Table) -> None:
    """Each thread commits and then rings, a thousand times in all; nobody looks. In the end every row is taken."""
    barrier = threading.Barrier(4)

    def sender(ring: Callable[[], Any]) -> None:
        barrier.wait(PATIENCE)
        for _ in range(250):
            table.commit()
            ring()

    with running(table) as dispatcher, ThreadPoolExecutor(4) as senders:
        for done in [senders.submit(sender, ring) for ring in (dispatcher.ring, dispatcher.answer) * 2]:
            done.result(30)
        wait_until(lambda: table.taken == 1_000, what="every row to be taken")

    assert table.most_at_once == 1, "one round at a time"


def test_a_doorbell_during_a_round_is_answered_at_once(table: Table) -> None:
    reading, go_on = threading.Event(), threading.Event()

    def pause(number: int) -> None:
        if number == 1:
            reading.set()
            assert go_on.wait(PATIENCE)

    table.before_read = pause
    with running(table) as dispatcher:
        dispatcher.ring()
        assert reading.wait(PATIENCE)
        assert dispatcher.answer() == {"coalesced": True}
        go_on.set()
        wait_until(lambda: table.rounds == 2, what="the round that the doorbell asked for")


def test_a_round_that_used_up_its_time_hands_over_and_frees_the_doorbell_s_thread(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DRAIN_BUDGET", 0.0)
    monkeypatch.setattr(module, "DUE_CHECK", 60.0)  # so that the resident thread wakes only when it is woken
    left = [3]
    sleeps = threading.Event()

    def endless(_until: float) -> Drained:
        left[0] -= 1
        return Drained(Counter(rows=1), more=left[0] > 0)

    def due() -> float | None:
        sleeps.set()
        return None

    dispatcher = Dispatcher("test", work=endless, due=due)
    dispatcher.start()
    assert sleeps.wait(PATIENCE)

    assert dispatcher.answer() == {"rows": 1, "more": True}

    wait_until(lambda: left[0] == 0, what="the rest to be done, without another ring")
    assert dispatcher.end(wait=PATIENCE)


def test_who_has_less_time_hands_over_sooner() -> None:
    """Work goes on in the resident thread: the one that answered is free to hear the next call."""
    threads: list[str] = []
    bounds: list[float] = []
    is_over = threading.Event()

    def long(until: float) -> Drained:
        threads.append(threading.current_thread().name)
        bounds.append(until)
        while not is_over.is_set() and time.monotonic() <= until:
            is_over.wait(0.001)
        return Drained(Counter(rows=1), more=not is_over.is_set())

    dispatcher = Dispatcher("test", work=long, due=never_due)
    before = time.monotonic()
    assert dispatcher.answer(budget=0.02)["more"]
    assert bounds[0] - before < module.DRAIN_BUDGET / 2
    assert set(threads) == {threading.current_thread().name}

    dispatcher.start()
    wait_until(lambda: threads[-1] == "dispatcher-test", what="the resident thread to go on")
    is_over.set()
    assert dispatcher.end(wait=PATIENCE)


def test_work_left_over_within_the_time_is_done_in_the_same_round(table: Table) -> None:
    left = [3]

    def more(_until: float) -> Drained:
        left[0] -= 1
        return Drained(Counter(rows=1), more=left[0] > 0)

    assert Dispatcher("test", work=more, due=never_due).answer() == {"rows": 3}


def failing_once(error: BaseException, table: Table) -> Callable[[float], Drained]:
    errors = [error]

    def work(until: float) -> Drained:
        if errors:
            raise errors.pop()
        return table.work(until)

    return work


@pytest.mark.parametrize(
    "error",
    [
        OperationalError("SELECT 1", {}, Exception("gone")), KeyError("a bug"), OSError(5),
        SystemExit("from somebody's code"), KeyboardInterrupt(),
    ],
)  # fmt: skip
def test_an_error_rests_the_dispatcher_and_keeps_the_wake_up(
    table: Table, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """A round that never ended would leave every ring after it to nobody."""
    monkeypatch.setattr(module, "REST_AFTER_ERROR", 0.05)
    dispatcher = Dispatcher("test", work=failing_once(error, table), due=never_due)
    dispatcher.start()
    table.commit()

    assert dispatcher.answer() == {"error": type(error).__name__}

    wait_until(lambda: table.taken == 1, what="the row to be taken after the rest, though nobody rang again")
    assert dispatcher.end(wait=PATIENCE)


def test_while_it_rests_doorbells_are_not_worked_on(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REST_AFTER_ERROR", 60.0)
    dispatcher = Dispatcher("test", work=failing_once(OSError(5), table), due=never_due)
    dispatcher.answer()

    assert dispatcher.answer() == {"coalesced": True}
    assert table.rounds == 0


def test_an_injected_fault_passes_through_and_leaves_the_next_round_possible(table: Table) -> None:
    dispatcher = Dispatcher("test", work=failing_once(FaultInjected(), table), due=never_due)
    with pytest.raises(FaultInjected):
        dispatcher.answer()

    table.commit()

    assert dispatcher.answer() == {"rows": 1}


def test_without_a_ring_it_asks_what_waits(table: Table) -> None:
    looks = Looks(0.01)

    def due() -> float | None:
        if looks.is_time():
            dispatcher.ring()
        return 0.005

    dispatcher = Dispatcher("test", work=table.work, due=due)
    dispatcher.start()
    table.commit()
    wait_until(lambda: table.taken == 1, what="the row that nobody rang for")
    assert dispatcher.end(wait=PATIENCE)


def test_it_is_time_to_look_at_once_and_then_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    looks, never = Looks(1.0), Looks(0)

    def is_time_at(seconds: float) -> bool:
        now[0] = 100.0 + seconds
        return looks.is_time()

    assert [is_time_at(at) for at in (0, 0.5, 0.84, 0.9, 1.0, 1.7, 1.76, 9.0)] == [
        True, False, False, True, False, False, True, True,
    ], "a look may come a little early, to be one with that at the clock"  # fmt: skip
    assert not never.is_time()


def test_only_rings_and_due_instants_count(table: Table) -> None:
    asked: list[int] = []

    def due() -> float | None:
        asked.append(1)
        if len(asked) == 2:
            table.commit()
            dispatcher.ring()  # what a worker does when a timer has fired
        return 0.005

    dispatcher = Dispatcher("test", work=table.work, due=due)
    dispatcher.start()
    wait_until(lambda: table.taken == 1, what="the row that a due instant made")
    table.commit()
    so_far = len(asked)
    wait_until(lambda: len(asked) >= so_far + 5, what="the clock to be asked five times more")

    assert table.taken == 1, "nobody rang for the second row"
    assert dispatcher.end(wait=PATIENCE)


def test_it_sleeps_no_longer_than_until_the_next_due_instant(table: Table) -> None:
    asked: list[float] = []

    def due() -> float | None:
        asked.append(time.monotonic())
        return 0.02

    with running(table, due=due):
        wait_until(lambda: len(asked) >= 4, what="the clock to be asked again and again")

    assert asked[3] - asked[0] < 3 * module.DUE_CHECK, "not at the second at which it asks anyway"


def test_what_is_known_to_fall_due_is_asked_for_then(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DUE_CHECK", 60.0)
    asked: list[float] = []

    def due() -> float | None:
        asked.append(time.monotonic())
        return None

    with running(table, due=due) as dispatcher:
        wait_until(lambda: len(asked) == 1, what="the first look at the clock")
        told_at = time.monotonic()
        dispatcher.due_in(50.0)
        dispatcher.due_in(0.1)
        dispatcher.due_in(40.0)
        wait_until(lambda: len(asked) == 2, what="the look at the earliest of them")

    assert asked[1] - told_at >= 0.1, "not before"
    assert table.rounds == 0, "nobody has rung"


def test_an_error_while_asking_the_clock_does_not_end_the_looking(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REST_AFTER_ERROR", 0.02)
    monkeypatch.setattr(module, "DUE_CHECK", 0.01)
    asked: list[int] = []

    def due() -> float | None:
        asked.append(1)
        raise ValueError("a bug in the clock")

    with running(table, due=due) as dispatcher:
        wait_until(lambda: len(asked) >= 2, what="the clock to be asked again")
        table.commit()
        dispatcher.ring()
        wait_until(lambda: table.taken == 1, what="work to go on")


def test_the_end_lets_a_round_finish_and_takes_no_other(table: Table) -> None:
    reading, go_on = threading.Event(), threading.Event()

    def pause(number: int) -> None:
        reading.set()
        assert go_on.wait(PATIENCE)

    table.before_read = pause
    dispatcher = Dispatcher("test", work=table.work, due=never_due)
    dispatcher.start()
    table.commit()
    with ThreadPoolExecutor(1) as doorbell:
        answered = doorbell.submit(dispatcher.answer)
        assert reading.wait(PATIENCE)
        dispatcher.begin_end()
        assert dispatcher.end(wait=0.05) is False, "the round still runs"
        assert dispatcher.answer() == {"coalesced": True}
        go_on.set()
        assert answered.result(PATIENCE) == {"rows": 1}

    assert dispatcher.end(wait=PATIENCE) is True
    assert dispatcher.answer() == {"coalesced": True}
    assert table.rounds == 1
