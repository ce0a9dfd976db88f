"""How often a worker with nothing to do is woken by what Celery and kombu do for the broker."""

import time

from kombu.asynchronous import Hub

from common.db import ORCHESTRATOR_QUEUE
from common.queues.app import make_app
from common.queues.consumer import TIDYING_SECONDS, TolerantConsumer
from tests.support.valkey import ValkeyServer

SELDOM = 9.0
"""Seconds; kombu's own shortest timer but one is of ten."""


def seconds_until_timers(valkey: ValkeyServer) -> list[float]:
    """When the timers of a new connection's loop go off, whose consumer is ours."""
    app = make_app(valkey.url, name="test", queue=ORCHESTRATOR_QUEUE)
    consumer = TolerantConsumer.__new__(TolerantConsumer)  # nothing of a worker but its connection
    hub = Hub()
    vars(consumer).update(app=app, hub=hub, amqheartbeat=None)
    connection = consumer.connect()
    try:
        now = time.monotonic()
        return sorted(one.eta - now for one in hub.timer._queue if not one.entry.canceled)
    finally:
        connection.close()
        hub.close()


def test_no_timer_wakes_a_worker_for_nothing_each_second(valkey: ValkeyServer) -> None:
    seconds = seconds_until_timers(valkey)

    assert seconds[0] > SELDOM, seconds
    assert TIDYING_SECONDS - 1 < seconds[-1] <= TIDYING_SECONDS
