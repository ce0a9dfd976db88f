"""The Celery app that both workers share. Messages are doorbells: lost, doubled or late, they change nothing.

Celery's ETA, retries, result backend, late acks and time limits are not used: leases, `run_at` and the inbox do that work
where the truth is. Results are off; Flower still shows what a doorbell did, from the `task-succeeded` event.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery import Celery
from celery.exceptions import CPendingDeprecationWarning
from kombu import Queue
from sqlalchemy.exc import SQLAlchemyError

from common.db import ORCHESTRATOR_QUEUE, RESERVE_QUEUE, TASK_RUNNER_QUEUE, is_away, reason
from common.errors import Misconfigured

ADVANCE = "orchestrator.advance"
RUN = "task_runner.run"
TASK_OF_QUEUE = {ORCHESTRATOR_QUEUE: ADVANCE, TASK_RUNNER_QUEUE: RUN}


@contextmanager
def said_in_one_line(duty: str) -> Iterator[None]:
    """Say in one line what is `Misconfigured`, its settings, its handlers' modules or the schema, and exit with 2, as the API does.

    A database that does not answer is said in one as well, with the exit code 5 that the command line has for this.
    An exit, and no exception: whatever a worker's module raises, Celery's command line answers with a traceback.
    """
    try:
        yield
    except Misconfigured as error:
        sys.stderr.write(f"signalbox worker {duty}: {error}\n")
        sys.exit(2)
    except SQLAlchemyError as error:
        if not is_away(error):
            raise
        sys.stderr.write(
            f"signalbox worker {duty}: the database cannot be used: {reason(error)}; see to DATABASE_URL and its server, and start the worker again\n"
        )
        sys.exit(5)


def make_app(broker_url: str, *, name: str, queue: str) -> Celery:
    """Make a worker's app for one queue. The broker may be absent now and come later."""
    # What another Celery will do some day is for who upgrades it, and not for who reads the log of an outage.
    warnings.filterwarnings("ignore", category=CPendingDeprecationWarning)
    app = Celery(name, broker=broker_url)
    app.conf.update(
        task_default_queue=queue,
        # Not acknowledged: a doorbell that is lost with its worker is made good by the look.
        task_queues=[Queue(each, no_ack=True) for each in (*TASK_OF_QUEUE, RESERVE_QUEUE)],
        task_create_missing_queues=False,
        task_routes={task: {"queue": each} for each, task in TASK_OF_QUEUE.items()},
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        task_acks_late=False,
        worker_consumer="common.queues.consumer:TolerantConsumer",
        worker_pool="threads",
        worker_concurrency=2,
        worker_prefetch_multiplier=1,
        worker_send_task_events=True,
        task_send_sent_event=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry=True,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,  # the default, 100, would end the worker during a long outage
        broker_channel_error_retry=True,  # what the broker refuses is away for us, too: a replica takes no BRPOP
        broker_transport_options=transport_options(broker_url),
        enable_utc=True,
    )
    return app


def transport_options(broker_url: str) -> dict[str, Any]:
    """Connect quickly or fail: the engine works without the broker, so nothing may hang on it."""
    if broker_url.startswith(("redis", "unix", "valkey")):
        # Without `ack_emulation` nothing is kept to be given back. kombu would give it back when it closes a connection
        # that broke, over a client that is not there any more, and that ends the worker.
        return {"socket_connect_timeout": 1, "socket_timeout": 30, "ack_emulation": False}
    return {"connect_timeout": 1}
