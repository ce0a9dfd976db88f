"""What a task runner with nothing to do asks, each second: one statement, which tells of what falls due and of what waits to be run."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import pytest

from common.commands.limits import set_limit
from common.config import Settings
from common.store.leased import read_unknown
from task_runner import duty as module
from task_runner.duty import TaskRunner
from tests.integration.engine.documents import one_task
from tests.support.engine import Engine
from tests.support.executed import statements

NOOP = one_task("signalbox.noop")


@pytest.fixture(autouse=True)
def never_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A first look is compiled, and a machine may be slow: no look here is long enough to rest from."""
    monkeypatch.setattr(module, "LONG_LOOK", 600.0)


@dataclass
class Watched:
    """A runner that has not begun, the rings that its dispatcher has heard, and how often it told what it would take."""

    duty: TaskRunner
    rung: int = 0
    offered: int = 0

    def claim(self) -> None:
        self.duty.runner.claim(0.0)

    def look(self) -> tuple[int, int]:
        """How often one look rings, and how often it offers."""
        before = self.rung, self.offered
        self.duty.look_at_the_clock()
        return self.rung - before[0], self.offered - before[1]


@contextmanager
def a_runner(engine: Engine, look_seconds: float = 0.000_001) -> Iterator[Watched]:
    url = engine.database.engine.url.render_as_string(hide_password=False)
    duty = TaskRunner(Settings.load(database_url=url, doorbells=False, look_seconds=look_seconds))
    watched = Watched(duty)

    def ring() -> None:
        watched.rung += 1

    def offer() -> None:
        watched.offered += 1

    duty.dispatcher.ring = ring  # type: ignore[method-assign]
    duty.runner.offer_idle = offer  # type: ignore[method-assign]
    try:
        yield watched
    finally:
        duty.runner.executor.close()
        duty.database.dispose()


def start_task(engine: Engine) -> None:
    engine.start(NOOP)
    engine.advance()


def test_nothing_to_do_is_one_statement_and_an_offer(engine: Engine) -> None:
    with a_runner(engine) as one:
        assert one.look() == (1, 0), "it does not know yet what the last claim left"
        one.claim()
        one.look()  # which asks for the time, once

        with statements(one.duty.database) as asked:
            assert one.look() == (0, 1)

        asked = [each for each in asked if each != "BEGIN"]  # SQLite's, which costs no round trip
        assert len(asked) == 1, asked


def test_a_task_that_nobody_has_rung_for_is_found_by_a_look(engine: Engine) -> None:
    with a_runner(engine) as one:
        one.claim()
        assert one.look() == (0, 1)
        start_task(engine)

        assert one.look() == (1, 0)


def test_what_was_leased_to_it_and_not_told_is_found_by_a_look(engine: Engine) -> None:
    with a_runner(engine) as one:
        one.claim()
        start_task(engine)
        engine.worker = one.duty.presence.id
        engine.handler("signalbox.noop", lambda _input: None)
        [claim] = engine.claim()
        with engine.database.reading() as tx:
            assert [each.id for each in read_unknown(tx, one.duty.presence.id, []).claims] == [claim.id]

        assert one.look() == (1, 0)


def test_where_a_limit_may_hold_a_claim_has_to_tell(engine: Engine) -> None:
    with a_runner(engine) as one:
        one.claim()
        with engine.database.transaction() as tx:
            set_limit(tx, engine.tenant_id, "key:mail", max_running=1, rate=None, actor="test")

        assert one.look() == (1, 0)


def test_a_delayed_task_is_rung_for_at_its_instant_though_nobody_looks(engine: Engine) -> None:
    with a_runner(engine, look_seconds=0.0) as one:
        one.claim()
        start_task(engine)

        assert one.look() == (1, 0), "it fell due"
        assert one.look() == (0, 0), "and that is told once"


def test_who_rests_from_a_long_look_claims_blindly(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    with a_runner(engine) as one:
        one.claim()
        monkeypatch.setattr(module, "LONG_LOOK", -1.0)
        monkeypatch.setattr(module, "LOOK_SHARE", 1_000_000)
        assert one.look() == (0, 1)

        with statements(one.duty.database) as asked:
            assert one.look() == (1, 0)
        assert asked == []


@pytest.mark.parametrize("more", [timedelta(minutes=1), timedelta(days=1)])
def test_what_is_due_later_is_left(engine: Engine, more: timedelta) -> None:
    with a_runner(engine) as one:
        one.claim()
        delay = int(more / timedelta(milliseconds=1))
        engine.start(one_task("signalbox.noop", delay=delay))
        engine.advance()

        assert one.look() == (0, 1)
