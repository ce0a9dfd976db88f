"""A process that freezes between two statements that it sends in one go loses its locks, although it is not idle for PostgreSQL."""

from contextlib import suppress
from datetime import timedelta

import psycopg

from common.db import Database
from tests.support.waiting import wait_until

SESSION = "SELECT state FROM pg_stat_activity WHERE application_name = 'frozen' AND xact_start IS NOT NULL"


def test_a_session_that_never_ends_what_it_sends_in_one_go_loses_its_transaction(postgres_url: str) -> None:
    database = Database.open(postgres_url, name="frozen", longest_transaction=timedelta(seconds=1))
    with psycopg.connect(postgres_url, autocommit=True) as observer:
        connection = database.engine.raw_connection()
        sender = connection.driver_connection
        assert isinstance(sender, psycopg.Connection)
        with suppress(psycopg.OperationalError), sender.pipeline():  # it is told when it sends the rest
            sender.execute("SELECT pg_advisory_xact_lock(7)")
            sender.pgconn.send_flush_request()  # sent, and what would end it is not
            sender.pgconn.flush()
            wait_until(
                lambda: observer.execute(SESSION).fetchall() == [("active",)],
                what="a session that is inside a transaction and not idle",
            )

            wait_until(
                lambda: not observer.execute(SESSION).fetchall(), what="the session to be ended", seconds=8
            )

            sender.execute("SELECT 1")
        connection.invalidate()
    database.dispose()
