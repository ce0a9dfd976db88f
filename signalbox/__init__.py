"""Durable statecharts on Celery: what users import. What they type is `signalbox.cli`.

    from signalbox import Client, Continue, Permanent, Retryable, handler, start

The errors are what `Client` and `start` raise.

Each name is loaded when it is first used, so that a handler's module does not pay for an HTTP client, and
`signalbox --help` not for SQLAlchemy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from common.errors import (
        Conflict,
        Forbidden,
        Invalid,
        LimitExceeded,
        NotFound,
        SignalboxError,
        Unauthorized,
        Unavailable,
    )
    from signalbox.client import Client
    from signalbox.transactional import Started, start
    from task_runner.context import TaskContext
    from task_runner.registry import Continue, Permanent, Retryable, handler

_HOMES = {
    "Client": "signalbox.client",
    "Conflict": "common.errors",
    "Continue": "task_runner.registry",
    "Forbidden": "common.errors",
    "Invalid": "common.errors",
    "LimitExceeded": "common.errors",
    "NotFound": "common.errors",
    "Permanent": "task_runner.registry",
    "Retryable": "task_runner.registry",
    "SignalboxError": "common.errors",
    "Started": "signalbox.transactional",
    "TaskContext": "task_runner.context",
    "Unauthorized": "common.errors",
    "Unavailable": "common.errors",
    "handler": "task_runner.registry",
    "start": "signalbox.transactional",
}

__all__ = [
    "Client",
    "Conflict",
    "Continue",
    "Forbidden",
    "Invalid",
    "LimitExceeded",
    "NotFound",
    "Permanent",
    "Retryable",
    "SignalboxError",
    "Started",
    "TaskContext",
    "Unauthorized",
    "Unavailable",
    "handler",
    "start",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'signalbox' has no attribute {name!r}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return __all__
