"""A worker outlives a broker that ends with a doorbell in the worker's hand."""

from typing import Any

from common.db import ORCHESTRATOR_QUEUE
from common.queues.app import ADVANCE, make_app
from tests.support.valkey import ValkeyServer


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
