"""Workers that start at the same moment do not get in each other's way."""

import threading

from common.db import Database
from common.db.now import read_now
from common.store import workers
from common.store.workers import PublishedHandler

ROUNDS = 5
STARTING = 4


def published(names: list[str], description: str) -> list[PublishedHandler]:
    return [
        PublishedHandler(
            name, "", description, light=False, isolated=False, input_schema=None, output_schema=None
        )
        for name in names
    ]


def test_runners_that_start_together_publish_the_same_handlers(database: Database) -> None:
    """On a fresh database both found nothing and inserted: the second one ended with a broken primary key."""
    failures: list[BaseException] = []

    def start(number: int, together: threading.Barrier) -> None:
        names = [f"work.{turn}" for turn in range(20)]
        ordered = names if number % 2 else names[::-1]

        def publish(tx: object) -> None:
            workers.publish(tx, published(ordered, f"of {number}"), now=read_now(tx))  # type: ignore[arg-type]

        together.wait(10)
        try:
            database.run(publish)
        except BaseException as error:  # noqa: BLE001 - kept for the test's thread, which raises it
            failures.append(error)

    for _ in range(ROUNDS):
        with database.transaction() as tx:
            tx.exec_driver_sql("DELETE FROM handlers")
        together = threading.Barrier(STARTING)
        starting = [threading.Thread(target=start, args=(number, together)) for number in range(STARTING)]
        for thread in starting:
            thread.start()
        for thread in starting:
            thread.join(20)

    assert failures == []
    with database.reading() as tx:
        rows = list(tx.exec_driver_sql("SELECT type, description FROM handlers"))
    assert len(rows) == 20
    assert len({description for _, description in rows}) == 1
