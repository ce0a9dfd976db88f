"""One question to a provider by its library: the connection that it gets, and what its failures are called here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from types import ModuleType

import httpx2

from task_runner.handlers.ai_network import GuardedTransport, client_of
from task_runner.handlers.ai_port import Answer
from task_runner.handlers.http_network import Deadline, Egress
from task_runner.redact import NOTHING_HIDDEN, Redaction
from task_runner.registry import HandlerError, Permanent, Retryable

EXTRA = "pip install 'signalbox[ai]'"


@dataclass(frozen=True, slots=True)
class Connection:
    """Where a provider is and how it is reached. `seconds` bounds one question."""

    url: str
    key: str | None = field(repr=False)
    credentials: dict[str, str] = field(repr=False)
    egress: Egress
    seconds: float
    is_cancelled: Callable[[], bool]
    hidden: Redaction = NOTHING_HIDDEN


def asked(connection: Connection, library: str, ask: Callable[[ModuleType, httpx2.Client], Answer]) -> Answer:
    """Ask by a library, which is given a client of ours. Raises `HandlerError`, with nothing chained to it.

    What a library raises may quote what was sent and received, and the trace of an attempt is stored.
    """
    try:
        module = import_module(library)  # only here: it takes a second, and is an extra
    except ImportError:
        missing = f"the library of this provider is not installed: {EXTRA}"
        raise Permanent(missing, code="ai.no_library") from None
    deadline = Deadline(connection.seconds, connection.is_cancelled)
    transport = GuardedTransport(
        connection.egress,
        deadline,
        url=connection.url,
        key=connection.key,
        credentials=connection.credentials,
        hidden=connection.hidden,
    )
    failure: HandlerError
    try:
        with client_of(transport) as client:
            return ask(module, client)
    except Exception as error:  # noqa: BLE001 - the library's own, or ours on its way through it
        unreadable = f"the provider's answer cannot be read: {type(error).__name__}"
        failure = transport.failure or Retryable(unreadable, code="ai.unreadable")
    raise failure from None
