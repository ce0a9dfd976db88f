"""The consumer of a worker: one that outlives whatever stands in its queue, and whatever its broker refuses.

Messages are doorbells and say nothing, so one that cannot be read is a doorbell that nobody heard: the look makes it good. Celery
sees in it the end of the worker ("Unrecoverable error"), since what it takes out of a queue is all that there is of a task.

A broker that answers and refuses (it has become a replica, may not write its files, or has something else under a queue's name) is as
good as away: Celery connects anew (`broker_channel_error_retry`), and would do it at once, as it did get a connection.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from queue import Empty
from typing import Any

import redis
import structlog
from celery.worker.consumer import Consumer
from kombu.transport import virtual

BROKER_ERRORS = (Empty, OSError, redis.RedisError)
"""What tells of the broker, and not of a message: Celery connects anew."""
REST_AFTER_REFUSAL = 2.0
WAITING_SECONDS = 5
"""For how long one question to Redis waits for a message; kombu asks each second, which wakes both sides for nothing."""
TIDYING_SECONDS = 60
"""How often kombu sees to the tables of queues that expire. It looks each second for what is done each minute at the most, and a table lives for an hour."""
log = structlog.get_logger("signalbox.consumer")


class TolerantConsumer(Consumer):
    """Drops messages that nothing can be made of, each with a warning."""

    def connect(self) -> Any:
        """A connection whose messages may be any text at all. With Redis a message is read where it is delivered."""
        connection = super().connect()
        channel: Any = connection.default_channel
        if isinstance(getattr(channel, "qos", None), virtual.QoS):  # kombu's own, where the broker has none
            channel.qos.ack = channel.qos.reject = _keep_nothing
        handlers = getattr(channel, "handlers", {})
        if "BRPOP" in handlers:
            handlers["BRPOP"] = _bearing(handlers["BRPOP"])
            # Of this worker's channels alone: kombu's option for it would have Flower sleep as long between two events.
            transport: Any = connection.transport
            channel.brpop_timeout = transport.brpop_timeout = WAITING_SECONDS
            hub = getattr(self, "hub", None)  # where there is one to wait in; Celery sets it
            if hub:
                _tidy_rarely(transport.cycle, hub)
        return connection

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Give the connection up, and rest where it was not lost: the next one would be refused at once."""
        super().on_connection_error_after_connected(exc)
        if isinstance(exc, redis.ResponseError):
            log.warning("broker.refused", error=str(exc)[:200], rest_seconds=REST_AFTER_REFUSAL)
            time.sleep(REST_AFTER_REFUSAL)

    def create_task_handler(self, *arguments: Any, **options: Any) -> Any:
        """Who takes a message that could be read: its body may be anything still."""
        return _bearing(super().create_task_handler(*arguments, **options))


def _tidy_rarely(cycle: Any, hub: Any) -> None:
    timer = getattr(cycle, "_binding_expiry_tref", None)  # another release may have none
    if timer is not None:
        timer.cancel()
        cycle._binding_expiry_tref = hub.call_repeatedly(TIDYING_SECONDS, cycle.maybe_refresh_binding_expiry)


def _keep_nothing(*_arguments: Any, **_options: Any) -> None:
    """What a message that was taken without (`no_ack`) needs to be acknowledged, which Celery does all the same.

    kombu would keep each of these until it strikes the message off those that wait for one, and as there are none, for ever.
    """


def _bearing(take: Callable[..., Any]) -> Callable[..., Any]:
    def bear(*arguments: Any, **options: Any) -> Any:
        try:
            return take(*arguments, **options)
        except BROKER_ERRORS:
            raise
        except Exception as error:  # noqa: BLE001 - whoever reaches the broker can put anything into a queue
            log.warning("message.unreadable", error=f"{type(error).__name__}: {error}"[:200])
            return None

    return bear
