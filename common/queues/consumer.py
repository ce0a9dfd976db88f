"""The consumer of a worker: one that outlives whatever stands in its queue.

Messages are doorbells and say nothing, so one that cannot be read is a doorbell that nobody heard: the look makes it good. Celery
sees in it the end of the worker ("Unrecoverable error"), since what it takes out of a queue is all that there is of a task.
"""

from __future__ import annotations

from collections.abc import Callable
from queue import Empty
from typing import Any

import redis
import structlog
from celery.worker.consumer import Consumer

BROKER_ERRORS = (Empty, OSError, redis.RedisError)
"""What tells of the broker, and not of a message: Celery connects anew."""
log = structlog.get_logger("signalbox.consumer")


class TolerantConsumer(Consumer):
    """Drops messages that nothing can be made of, each with a warning."""

    def connect(self) -> Any:
        """A connection whose messages may be any text at all. With Redis a message is read where it is delivered."""
        connection = super().connect()
        handlers = getattr(connection.default_channel, "handlers", {})
        if "BRPOP" in handlers:
            handlers["BRPOP"] = _bearing(handlers["BRPOP"])
        return connection

    def create_task_handler(self, *arguments: Any, **options: Any) -> Any:
        """Who takes a message that could be read: its body may be anything still."""
        return _bearing(super().create_task_handler(*arguments, **options))


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
