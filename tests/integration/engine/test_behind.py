"""A batch is saved while the next one is stepped: nothing is lost, stepped twice or left waiting by it, whatever happens to either."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from common import faults
from common.commands.definitions import apply_definition
from common.commands.verify import verify_instance
from common.faults import FaultInjected
from common.ids import InstanceId
from common.lifecycle import InstanceStatus
from orchestrator.advance import advance_ready, save_all
from orchestrator.behind import PATIENCE, WORTH
from orchestrator.laps import BATCH, Sweep
from orchestrator.passed import Pass
from tests.integration.engine.documents import COUNTER, ON_POSTGRESQL, ON_SQLITE
from tests.support.engine import LIMITS, Engine

COMPLETED, FAILED, WAITING = InstanceStatus.COMPLETED, InstanceStatus.FAILED, InstanceStatus.WAITING
MANY = 2 * BATCH.alone + WORTH
"""Two whole batches, and one more that is worth it."""


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    faults.disarm()


def backlog(engine: Engine, size: int = MANY) -> list[InstanceId]:
    """So many instances whose start waits, too many for one look."""
    key = engine.apply(COUNTER)
    return [engine.start(key, business_key=f"n-{n}") for n in range(size)]


def is_behind() -> bool:
    return threading.current_thread().name.startswith("behind")


def assert_all_waiting(engine: Engine, started: list[InstanceId]) -> None:
    """Each has taken one step, its start, and nothing waits."""
    rows = engine.execute("SELECT status, sequence, strikes FROM instances")
    assert [tuple(row) for row in rows] == [(WAITING.value, 1, 0)] * len(started)
    assert engine.execute("SELECT count(*) FROM inbox")[0][0] == 0
    assert engine.execute("SELECT count(*) FROM history")[0][0] == len(started)


@ON_POSTGRESQL
def test_the_next_batch_is_stepped_while_one_is_saved(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = backlog(engine)
    is_handed_over, is_next_stepped, saving_threads = threading.Event(), threading.Event(), set()
    seen: list[bool] = []
    behind, hand_over = engine.advancing.behind, engine.advancing.behind.save

    def note_and_hand_over(work: Callable[[], Pass]) -> None:
        is_handed_over.set()
        hand_over(work)

    def step() -> None:
        if is_handed_over.is_set():  # what is stepped from now on is of the next batch
            is_next_stepped.set()

    def save() -> None:
        saving_threads.add(threading.current_thread().name)
        if is_behind() and not seen:
            seen.append(is_next_stepped.wait(10))

    faults.arm("before_commit", save)
    faults.arm("in_step", step)
    monkeypatch.setattr(behind, "save", note_and_hand_over)

    done = engine.advance()

    assert seen == [True], "a step while the batch before was not committed yet"
    assert any(name.startswith("behind") for name in saving_threads)
    assert done.steps == MANY
    assert done.instances >= MANY, "who is saved between a look and its lock is locked once more"
    assert_all_waiting(engine, started)


@ON_POSTGRESQL
def test_few_are_saved_by_who_has_stepped_them(engine: Engine) -> None:
    started = backlog(engine, WORTH - 1)
    threads: list[bool] = []
    faults.arm("before_commit", lambda: threads.append(is_behind()))

    # As amid a backlog, where one look would not take in everything.
    crowded = Sweep(crowded_until=time.monotonic() + 60)
    advance_ready(engine.advancing, until=time.monotonic() + 30, sweep=crowded)

    assert threads == [False]
    assert_all_waiting(engine, started)


@ON_SQLITE
def test_where_one_writes_at_a_time_nothing_is_saved_behind(engine: Engine) -> None:
    started = backlog(engine)
    threads: list[bool] = []
    faults.arm("before_commit", lambda: threads.append(is_behind()))

    engine.advance()

    assert not any(threads)
    assert_all_waiting(engine, started)


@ON_POSTGRESQL
def test_what_comes_to_an_instance_while_it_is_saved_needs_no_other_ring(engine: Engine) -> None:
    """Whoever looks meanwhile passes it by, for it is locked; who holds it looks again."""
    started = backlog(engine)
    sent: list[InstanceId] = []

    def save() -> None:
        if is_behind() and (locked := held_by_others(engine, started)):
            sent.append(max(locked))  # of the last batch, where this is the last
            engine.send(sent[-1], "ADD", n=len(sent))
            time.sleep(0.3)  # who steps has looked for more meanwhile

    faults.arm("before_commit", save)

    engine.advance()

    assert len(sent) >= 2
    assert engine.execute("SELECT count(*) FROM inbox")[0][0] == 0
    assert sum(len(engine.context(one)["seen"]) for one in set(sent)) == len(sent)


def held_by_others(engine: Engine, among: list[InstanceId]) -> set[InstanceId]:
    """Those that somebody has locked at this moment."""
    with engine.database.transaction() as tx:
        free = tx.execute(text("SELECT id FROM instances FOR NO KEY UPDATE SKIP LOCKED")).scalars()
        return set(among) - set(map(InstanceId, free))


@ON_POSTGRESQL
def test_of_a_batch_that_is_refused_behind_only_the_one_at_fault_suffers(engine: Engine) -> None:
    started = backlog(engine)
    engine.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "IF NEW.business_key = 'n-7' AND NEW.sequence > 0 AND NEW.status <> 'failed' THEN RAISE 'not this one'; END IF; "
        "RETURN NEW; END $$"
    )
    engine.execute("CREATE TRIGGER refuse BEFORE UPDATE ON instances FOR EACH ROW EXECUTE FUNCTION refuse()")
    refused_behind: list[bool] = []
    faults.arm("before_commit", lambda: refused_behind.append(is_behind()))

    engine.advance()

    assert engine.status(started[7]) is FAILED
    assert [row[0] for row in engine.execute("SELECT code FROM incidents")] == ["engine.rejected"]
    assert {engine.status(one) for one in started if one != started[7]} == {WAITING}
    assert any(refused_behind)
    with engine.database.reading() as tx:
        assert all(verify_instance(tx, engine.tenant_id, one)["valid"] for one in started[:10])


@ON_POSTGRESQL
def test_a_batch_that_waits_for_a_lock_of_the_next_one_is_let_go_first(engine: Engine) -> None:
    """The database sees no circle where one end of it is a thread that waits for another."""
    started = backlog(engine)
    waited: list[float] = []

    def save() -> None:
        if not is_behind() or waited:
            return
        until = time.monotonic() + 5
        while not (locked := held_by_others(engine, started[BATCH.alone :])) and time.monotonic() < until:
            time.sleep(0.01)
        assert locked, "the next batch is locked meanwhile"
        began = time.monotonic()
        with engine.database.transaction() as tx:  # as if this batch needed it
            tx.execute(text("SELECT id FROM instances WHERE id = :id FOR UPDATE"), {"id": min(locked)})
        waited.append(time.monotonic() - began)

    faults.arm("before_commit", save)

    engine.advance()

    assert waited[0] < PATIENCE + 2.5, "until the next one gave up, and not until a timeout took its session"
    faults.disarm()
    assert_all_waiting(engine, started)


@ON_POSTGRESQL
@pytest.mark.parametrize(
    "error", [FaultInjected, lambda: OperationalError("COMMIT", None, Exception("away"))]
)
def test_who_is_lost_behind_is_stepped_by_the_next_drain(engine: Engine, error: type[BaseException]) -> None:
    started = backlog(engine)
    raised: list[bool] = []

    def save() -> None:
        if is_behind() and len(raised) < 2:
            raised.append(True)
            raise error()

    faults.arm("before_commit", save)

    drains = 0
    while drains < 5:
        drains += 1
        try:
            engine.advance()
            break
        except (FaultInjected, OperationalError):
            continue

    assert 1 < drains < 5, "what a batch was lost by is told to who drains, and stops nobody for good"
    assert raised
    faults.disarm()
    engine.advance()
    assert_all_waiting(engine, started)
    with engine.database.reading() as tx:
        assert all(verify_instance(tx, engine.tenant_id, one)["valid"] for one in started[:10])


@ON_POSTGRESQL
def test_a_drain_that_is_to_go_on_does_not_wait_for_its_last_batch(engine: Engine) -> None:
    started = backlog(engine)
    go_on = threading.Event()
    faults.arm("before_commit", lambda: go_on.wait(30) if is_behind() else None)
    # As amid a backlog: a look over all that is ready is not for so many.
    sweep = Sweep(crowded_until=time.monotonic() + 60)

    first = advance_ready(engine.advancing, until=time.monotonic() - 1, sweep=sweep)

    assert first.more, "and it is back, although nothing can be saved"
    assert engine.execute("SELECT count(*) FROM history")[0][0] == 0
    go_on.set()
    rest = advance_ready(engine.advancing, until=time.monotonic() + 30, sweep=sweep)
    assert first.steps + rest.steps == len(started), "what was saved meanwhile is told by who drains next"
    assert_all_waiting(engine, started)


@ON_POSTGRESQL
def test_what_the_last_batch_of_a_drain_was_lost_by_is_told_by_the_next(engine: Engine) -> None:
    started = backlog(engine)
    raised: list[bool] = []

    def save() -> None:
        if is_behind() and len(raised) < 2:
            raised.append(True)
            raise FaultInjected

    faults.arm("before_commit", save)
    sweep = Sweep(crowded_until=time.monotonic() + 60)
    assert advance_ready(engine.advancing, until=time.monotonic() - 1, sweep=sweep).more

    with pytest.raises(FaultInjected):
        save_all(engine.advancing)

    faults.disarm()
    engine.advance()
    assert_all_waiting(engine, started)


@ON_POSTGRESQL
def test_what_a_batch_leaves_to_be_done_is_told_once_others_can_see_it(engine: Engine) -> None:
    """Who gave the places and started what was published before the commit would find nothing; a look comes a second later."""
    answering = {**COUNTER, "id": "answering", "triggers": [{"event": "entered"}]}
    with engine.database.transaction() as tx:
        apply_definition(tx, engine.tenant_id, answering, actor="test", limits=LIMITS)
    queued = engine.apply({**COUNTER, "id": "one-at-a-time", "concurrency": {"max": 1}})
    said = {"entry": [{"type": "emit", "event": {"type": "entered"}}], **COUNTER["states"]["counting"]}
    telling = engine.apply({**COUNTER, "id": "telling", "states": {**COUNTER["states"], "counting": said}})
    wait = [engine.start(queued) for _ in range(WORTH)]
    for _ in range(BATCH.alone):
        engine.start(telling)
    advancing, is_written, go_on = engine.advancing, threading.Event(), threading.Event()

    def save() -> None:
        if is_behind():
            is_written.set()
            assert go_on.wait(10)

    faults.arm("before_commit", save)

    advance_ready(advancing, until=time.monotonic())  # its time is over with the first batch
    assert is_written.wait(10)
    told_before = bool(advancing.vacancies.take()) or advancing.emitted.is_set()
    go_on.set()
    save_all(advancing)

    assert not told_before
    assert list(advancing.vacancies.take().values()) == [set(wait)]
    assert advancing.emitted.is_set()
