"""What an orchestrator forgets: as much as callers leave, however much that is."""

from datetime import timedelta

import pytest

from common.config import Settings
from common.db.now import read_now
from common.store import idempotency
from common.store.idempotency import IdempotencyKey
from orchestrator import duty
from orchestrator.duty import Orchestrator
from orchestrator.sweep import ANSWERS
from tests.support.engine import Engine
from tests.support.waiting import wait_until


def answer(engine: Engine, count: int, *, name: str, expires_in: timedelta) -> None:
    """Keep the answers of so many requests, each under a key of its own."""
    with engine.database.transaction() as tx:
        now = read_now(tx)
        for number in range(count):
            key = IdempotencyKey(engine.tenant_id, "key:test", f"{name}-{number}", b"\0" * 32)
            assert idempotency.claim(tx, key, now=now, expires_at=now + expires_in) is None


def test_answers_are_forgotten_as_fast_as_they_come(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand went in ten minutes: with two requests a second the table grew for as long as the installation was there."""
    answer(engine, 2 * ANSWERS + 1, name="old", expires_in=-timedelta(seconds=1))
    answer(engine, 2, name="new", expires_in=timedelta(hours=1))
    url = engine.database.engine.url.render_as_string(hide_password=False)
    monkeypatch.setattr(duty, "FORGET_SECONDS", 0.0)
    orchestrator = Orchestrator(Settings.load(database_url=url, doorbells=False))

    def has_forgotten() -> bool:
        orchestrator.look_at_the_clock()
        monkeypatch.setattr(duty, "FORGET_SECONDS", 600.0)
        return engine.execute("SELECT key FROM idempotency ORDER BY key") == [("new-0",), ("new-1",)]

    try:
        wait_until(has_forgotten, what="that only those are kept which are not over", seconds=10)
    finally:
        orchestrator.database.dispose()
