"""Logs: structlog through the standard library, one JSON line an event, or readable text on a terminal.

Bind what a line is about with `structlog.contextvars`: tenant_id, instance_id, task_id, trace_id. Bodies, inputs,
keys and secrets are never logged.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import orjson
import structlog
from structlog.typing import Processor

_QUIET = {
    "kombu": "WARNING",
    "amqp": "WARNING",
    "celery.worker.strategy": "WARNING",
    "celery.app.trace": "WARNING",
}


def configure_logging(process: str, *, log_format: str = "auto", level: str = "INFO") -> None:
    """Send every log line of this process, ours and the libraries', to stderr in one form.

    `log_format`: `json`, `text`, or `auto` (text on a terminal). Called once, before work starts.
    """
    as_text = log_format == "text" or (log_format == "auto" and sys.stderr.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _name_process(process),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    ending: list[Processor] = (
        # Plain: the pretty traceback shows the values of variables, and those are bodies, inputs and secrets.
        [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            )
        ]
        if as_text
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=_json)]
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *ending],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name, quiet in _QUIET.items():
        logging.getLogger(name).setLevel(quiet)


def _name_process(process: str) -> Processor:
    def add(_logger: Any, _method: str, event: Any) -> Any:
        event["process"] = process
        return event

    return add


def _json(event: Any, **_kw: Any) -> str:
    return orjson.dumps(event, default=str, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS).decode()
