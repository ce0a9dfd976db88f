"""What an orchestrator with nothing to do asks, each second: one statement, which tells of what falls due and of what waits to be stepped."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from common.config import Settings
from common.queues.dispatcher import DUE_CHECK
from orchestrator.duty import Orchestrator
from orchestrator.reserve import LOOKS
from tests.integration.engine.documents import COUNTER
from tests.support.engine import Engine
from tests.support.executed import statements


@contextmanager
def an_orchestrator(
    engine: Engine, look_seconds: float, *, reserve: bool = False
) -> Iterator[tuple[Orchestrator, list[str]]]:
    """One that has not begun, and the rings that its dispatcher has heard."""
    url = engine.database.engine.url.render_as_string(hide_password=False)
    settings = Settings.load(database_url=url, doorbells=False, look_seconds=look_seconds, reserve=reserve)
    orchestrator = Orchestrator(settings)
    rung: list[str] = []
    orchestrator.dispatcher.ring = lambda: rung.append("rung")  # type: ignore[method-assign]
    try:
        yield orchestrator, rung
    finally:
        orchestrator.database.dispose()


def test_nothing_to_do_is_one_statement_and_no_ring(engine: Engine) -> None:
    with an_orchestrator(engine, 1.0) as (orchestrator, rung):
        with statements(orchestrator.database) as asked:
            orchestrator.look_at_the_clock()

        asked = [one for one in asked if one != "BEGIN"]  # SQLite's, which costs no round trip
        assert len(asked) == 1, asked
        assert rung == []


def test_what_nobody_has_rung_for_is_found_by_a_look_and_no_oftener_than_it_is_set(engine: Engine) -> None:
    engine.start(COUNTER)
    with an_orchestrator(engine, 60.0) as (orchestrator, rung):
        orchestrator.look_at_the_clock()
        assert rung == ["rung"]

        orchestrator.look_at_the_clock()
        assert rung == ["rung"], "somebody may hold it: to look again at once would find the same"


@pytest.mark.parametrize("reserve", [False, True])
def test_each_round_of_its_own_is_a_look(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, *, reserve: bool
) -> None:
    """Else what nobody has rung for waits for the next but one: in reserve, and with the first one gone, for 7.2 s instead of 3.6."""
    with an_orchestrator(engine, 1.0, reserve=reserve) as (orchestrator, rung):
        engine.start(COUNTER)
        orchestrator.look_at_the_clock()

        later = time.monotonic() + DUE_CHECK * (LOOKS if reserve else 1)
        monkeypatch.setattr(time, "monotonic", lambda: later)
        orchestrator.look_at_the_clock()

        assert rung == ["rung"] * 2


@pytest.mark.parametrize("parked", [False, True])
def test_without_looks_and_for_what_is_parked_nobody_is_rung(engine: Engine, *, parked: bool) -> None:
    engine.start(COUNTER)
    if parked:
        engine.execute("UPDATE inbox SET parked = true")
    with an_orchestrator(engine, 1.0 if parked else 0.0) as (orchestrator, rung):
        orchestrator.look_at_the_clock()

        assert rung == []
    engine.execute("UPDATE inbox SET parked = false")
