"""Timers that fall due one after the other: each is waited for, not only the first of them."""

from common.config import Settings
from orchestrator.duty import LOOK_GAP_SECONDS, Orchestrator
from tests.support.engine import Engine

SOON_SECONDS = 20


def chart(number: int, delay_ms: int) -> dict[str, object]:
    states = {"asleep": {"after": {str(delay_ms): "awake"}}, "awake": {"type": "final"}}
    return {"id": f"timed-{number}", "initial": "asleep", "states": states}


def test_the_timer_after_one_that_fires_is_waited_for(engine: Engine) -> None:
    """Only the timer that had just fired was known: the next one waited for the look of each half second."""
    for number, delay_ms in enumerate((1, 1_000 * SOON_SECONDS)):
        engine.start(chart(number, delay_ms))
    engine.advance()
    url = engine.database.engine.url.render_as_string(hide_password=False)
    orchestrator = Orchestrator(Settings.load(database_url=url, doorbells=False))
    try:
        seconds = orchestrator.look_at_the_clock()
    finally:
        orchestrator.database.dispose()

    assert engine.execute("SELECT count(*) FROM timers WHERE status = 'fired'") == [(1,)]
    assert seconds is not None
    assert LOOK_GAP_SECONDS <= seconds <= SOON_SECONDS
