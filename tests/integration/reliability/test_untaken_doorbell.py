"""A worker outlives a broker that ends with a doorbell in the worker's hand, and keeps nothing of those that it has answered."""

from typing import Any

from celery.contrib.testing.worker import start_worker

from common.db import ORCHESTRATOR_QUEUE
from common.queues.app import ADVANCE, make_app
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until

COUNT = 20


def test_a_channel_can_be_closed_when_its_connection_has_been_given_up(valkey: ValkeyServer) -> None:
    """Celery gives up a connection that broke, then closes it. kombu would give unanswered messages back first, over a
    connection that it does not know any more, and the AttributeError ended the worker."""
    app = make_app(valkey.url, name="test", queue=ORCHESTRATOR_QUEUE)
    app.amqp.queues.select([ORCHESTRATOR_QUEUE])  # as `-Q` does
    received: list[Any] = []
    with app.connection_for_write() as sender:
        app.send_task(ADVANCE, kwargs={"ids": [], "count": 1}, queue=ORCHESTRATOR_QUEUE, connection=sender)
    connection = app.connection_for_read()
    channel = connection.default_channel
    app.amqp.TaskConsumer(channel, on_message=received.append).consume()
    connection.drain_events(timeout=5)
    assert len(received) == 1

    valkey.kill()
    channel._disconnect_pools()
    connection.transport.client = None  # what `Connection.collect` leaves behind
    channel.close()

    received[0].ack()  # its task may end later


def test_nothing_is_kept_of_doorbells_that_were_answered(valkey: ValkeyServer) -> None:
    """kombu noted each acknowledgement, to strike the message off those that it keeps, of which there are none: 150 bytes a doorbell,
    and hundreds of megabytes a month."""
    app = make_app(valkey.url, name="test", queue=ORCHESTRATOR_QUEUE)
    app.amqp.queues.select([ORCHESTRATOR_QUEUE])  # as `-Q` does
    answered: list[int] = []

    @app.task(name="test.answer")  # whoever has imported the orchestrator has its task in every app
    def answer(number: int) -> None:
        answered.append(number)

    with start_worker(app, pool="threads", perform_ping_check=False) as worker:
        with app.connection_for_write() as sender:
            for number in range(COUNT):
                app.send_task("test.answer", [number], queue=ORCHESTRATOR_QUEUE, connection=sender)
            app.send_task("nobody.knows", queue=ORCHESTRATOR_QUEUE, connection=sender)
        wait_until(lambda: sorted(answered) == list(range(COUNT)), what="an answer to each doorbell")
        kept = vars(worker.consumer.connection.default_channel.qos)
        sizes = {name: len(value) for name, value in kept.items() if isinstance(value, (set, dict))}

    assert sizes, "kombu keeps what it keeps elsewhere by now"
    assert not any(sizes.values()), sizes
