"""The task runner as a Celery worker: `celery -A task_runner.worker worker -Q workflow-task-runner`.

Celery carries doorbells; handlers run in our own slots, so that tasks claimed together never share a fate.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from celery import signals

from common.config import Settings
from common.db import TASK_RUNNER_QUEUE
from common.observability import configure_logging
from common.queues import bootstep
from common.queues.app import RUN, make_app, said_in_one_line
from task_runner.duty import TaskRunner

with said_in_one_line("task-runner"):
    settings = Settings.load()
app = make_app(settings.redis_url, name="task_runner", queue=TASK_RUNNER_QUEUE)
_duty: list[TaskRunner] = []


def _make_duty() -> TaskRunner:
    with said_in_one_line("task-runner"):
        _duty[:] = [TaskRunner(settings)]
    return _duty[0]


bootstep.install(app, _make_duty)


@signals.setup_logging.connect
def _configure_logging(**_: Any) -> None:
    configure_logging("task-runner", log_format=settings.log_format, level=settings.log_level)


@app.task(name=RUN)
def run(ids: Sequence[str] = (), count: int = 0) -> dict[str, Any]:  # noqa: ARG001 - hints, for Flower
    """Answer a doorbell: claim and run due tasks. Safe to run twice, safe to miss."""
    return _duty[0].answer() if _duty else {"unready": True}
