"""The orchestrator as a Celery worker: `celery -A orchestrator.worker worker -Q workflow-orchestrator`.

Celery carries doorbells; the dispatcher does the work, and does it without them too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from celery import signals

from common.config import Settings
from common.db import ORCHESTRATOR_QUEUE, RESERVE_QUEUE
from common.observability import configure_logging
from common.queues import bootstep
from common.queues.app import ADVANCE, make_app, said_in_one_line
from orchestrator.duty import Orchestrator

with said_in_one_line("orchestrator"):
    settings = Settings.load()
app = make_app(
    settings.redis_url, name="orchestrator", queue=RESERVE_QUEUE if settings.reserve else ORCHESTRATOR_QUEUE
)
_duty: list[Orchestrator] = []


def _make_duty() -> Orchestrator:
    with said_in_one_line("orchestrator"):
        _duty[:] = [Orchestrator(settings)]
    return _duty[0]


bootstep.install(app, _make_duty)


@signals.setup_logging.connect
def _configure_logging(**_: Any) -> None:
    configure_logging("orchestrator", log_format=settings.log_format, level=settings.log_level)


@app.task(name=ADVANCE)
def advance(ids: Sequence[str] = (), count: int = 0) -> dict[str, Any]:  # noqa: ARG001 - hints, for Flower
    """Answer a doorbell: step every instance that is ready. Safe to run twice, safe to miss."""
    return _duty[0].answer() if _duty else {"unready": True}
