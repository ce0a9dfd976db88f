"""Instants: aware, UTC, the same text for the same instant, and one clock that a test can set."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import create_engine, literal, select
from sqlalchemy.dialects import postgresql, sqlite

from common.clock import (
    UtcDateTime,
    database_now,
    instant_text,
    parse_instant,
    set_host_clock,
    sqlite_now_text,
)
from common.db import Database
from common.db.now import read_now

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def real_clock_afterwards() -> Iterator[None]:
    yield
    set_host_clock(None)


def test_the_host_clock_can_be_set_and_given_back() -> None:
    set_host_clock(lambda: NOON)
    assert sqlite_now_text() == "2026-03-01 12:00:00.000000"

    set_host_clock(None)
    assert sqlite_now_text() > "2026-03-01 12:00:00.000000" or sqlite_now_text()[:4] >= "2025"


def test_a_clock_in_another_zone_is_told_in_utc() -> None:
    set_host_clock(lambda: NOON.astimezone(timezone(timedelta(hours=9))))
    assert sqlite_now_text() == "2026-03-01 12:00:00.000000"


def test_the_database_reads_the_host_clock_on_sqlite(sqlite_url: str) -> None:
    database = Database.open(sqlite_url)
    set_host_clock(lambda: NOON + timedelta(microseconds=7))

    with database.reading() as tx:
        now = read_now(tx)

    assert now == NOON + timedelta(microseconds=7)
    assert now.tzinfo is UTC
    database.dispose()


def test_on_postgresql_the_clock_is_the_server_s_unless_a_test_sets_it() -> None:
    text = str(select(database_now()).compile(dialect=postgresql.dialect()))
    assert (
        "coalesce(nullif(current_setting('signalbox.now', true), '')::timestamptz, clock_timestamp())" in text
    )


def test_a_naive_instant_is_refused_before_the_database_guesses() -> None:
    with pytest.raises(ValueError, match="an instant must be aware"):
        UtcDateTime().process_bind_param(datetime(2026, 3, 1), sqlite.dialect())  # noqa: DTZ001


def test_instants_are_stored_as_utc_and_come_back_aware() -> None:
    engine = create_engine("sqlite://")
    tokyo = NOON.astimezone(timezone(timedelta(hours=9)))
    with engine.connect() as connection:
        back = connection.execute(select(literal(tokyo, UtcDateTime()))).scalar_one()

    assert back == NOON
    assert back.tzinfo is UTC
    assert UtcDateTime().process_bind_param(None, sqlite.dialect()) is None


def test_texts_of_instants_sort_as_the_instants_do() -> None:
    instants = [
        NOON,
        NOON + timedelta(microseconds=1),
        NOON + timedelta(seconds=1),
        NOON + timedelta(days=400),
    ]
    texts = [instant_text(instant) for instant in instants]

    assert texts == sorted(texts)
    assert texts[0] == "2026-03-01T12:00:00.000000Z"
    assert [parse_instant(text) for text in texts] == instants
