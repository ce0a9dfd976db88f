"""A start inside the caller's own transaction, over an engine of the caller's own: with what is committed, or not at all."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine as SqlEngine
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

import signalbox
from common.lifecycle import InstanceStatus
from tests.support.engine import Engine

PAGE = (Path(__file__).parents[3] / "docs" / "guides" / "python.md").read_text()
[_, IN_A_TRANSACTION] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
ORDER: dict[str, Any] = {
    "id": "order",
    "initial": "open",
    "states": {"open": {"on": {"PAID": "paid"}}, "paid": {"type": "final"}},
}


def plain_url(database_url: str) -> str:
    """The URL as an application writes it that knows nothing of this engine."""
    url = make_url(database_url)
    return (
        url.set(drivername="postgresql+psycopg") if url.drivername.startswith("postgresql") else url
    ).render_as_string(hide_password=False)


@pytest.fixture
def theirs(engine: Engine, database_url: str) -> Iterator[SqlEngine]:
    """The application's own engine on the same database, in which its orders stand."""
    engine.apply(ORDER)
    theirs = create_engine(plain_url(database_url))
    with theirs.begin() as connection:
        connection.execute(text("CREATE TABLE orders (id integer)"))
    yield theirs
    theirs.dispose()


def test_it_starts_with_what_is_committed(engine: Engine, theirs: SqlEngine) -> None:
    with theirs.begin() as connection:
        connection.execute(text("INSERT INTO orders (id) VALUES (7)"))
        started = signalbox.start(connection, "order", input={"order": 7}, business_key="order-7")
    with theirs.begin() as connection:
        again = signalbox.start(connection, "order", business_key="order-7")
    engine.settle()

    assert (started.created, again.created, again.instance_id) == (True, False, started.instance_id)
    assert engine.status(started.instance_id) is InstanceStatus.WAITING


def test_nothing_starts_with_what_is_rolled_back(engine: Engine, theirs: SqlEngine) -> None:
    with theirs.connect() as connection:
        connection.execute(text("INSERT INTO orders (id) VALUES (7)"))
        signalbox.start(connection, "order")
        connection.rollback()
    engine.settle()

    found = engine.execute("SELECT (SELECT count(*) FROM instances), (SELECT count(*) FROM orders)")
    assert [tuple(row) for row in found] == [(0, 0)]


def test_a_refusal_leaves_the_transaction_as_it_was(theirs: SqlEngine) -> None:
    with theirs.begin() as connection:
        connection.execute(text("INSERT INTO orders (id) VALUES (7)"))
        with pytest.raises(signalbox.NotFound):
            signalbox.start(connection, "ordre")
        with pytest.raises(signalbox.NotFound, match='no tenant "nobody"'):
            signalbox.start(connection, "order", tenant="nobody")
    with theirs.begin() as connection:
        assert connection.execute(text("SELECT count(*) FROM orders")).scalar_one() == 1


def test_the_program_of_the_guide_does_what_the_page_says(
    engine: Engine, theirs: SqlEngine, database_url: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", IN_A_TRANSACTION],
        env={
            "DATABASE_URL": plain_url(database_url),
            "PATH": "",
            "PYTHONPATH": str(Path(__file__).parents[3]),
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    instance_id, created = done.stdout.split()
    assert created == "True"
    engine.settle()
    assert engine.status(instance_id) is InstanceStatus.WAITING
    with theirs.begin() as connection:
        assert connection.execute(text("SELECT id FROM orders")).scalars().all() == [7]
