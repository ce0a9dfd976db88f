"""The WSGI application: puts the services together and turns the table of operations into routes.

What happens to a request, in this order: trace id, route, key, role, path, query, body, transaction, answer. Whatever is
refused on the way is stored nowhere and leaves one line in the log. Nothing is made per request that can be made once.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import structlog
from flask import Flask, Response, current_app, g, request
from sqlalchemy import Connection
from werkzeug.routing import Map, Rule

from api.answering import discard_body, harden, refuse, respond
from api.auth import KeyRing, require
from api.calculating import Calculating
from api.cursors import Cursors
from api.health import Health
from api.link_gate import LinkGate
from api.link_pages import LinkPages
from api.openapi import build_document
from api.operations import JSON, Answer, Call, Operation
from api.problems import describe, unavailable
from api.reading import read_body, read_idempotency_key, read_path, read_query
from api.reference import Documents, render
from api.routes import OPERATIONS
from api.routes.links import LinkCall
from api.services import Services
from api.transactions import Command, Sent, Transactions, send
from api.waiting import Waiter, wait_seconds
from common.config import Limits, Settings
from common.credentials import Principal, read_secret
from common.db import LONGEST_WAIT, is_away, is_full, is_incomplete
from common.db.tenants import Tenants
from common.links import PATH as LINKS
from common.links import Links
from common.queues.changes import Changes
from common.queues.doorbell import attach
from common.randomness import random_bytes
from common.retention import Keeping
from common.sealing import SealingKeys
from common.store.idempotency import IdempotencyKey
from common.store.keys import StoredKey, find_usable_key
from common.version import signalbox_version

THREADS = 32
"""Requests served at once by one process; half of them may be waiting by `Prefer`."""

_EXTENSION = "signalbox"
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_SMALL_BODY_BYTES = 65_536  # the server itself reads that much away


def create_app(
    settings: Settings | None = None, *, limits: Limits | None = None, threads: int = THREADS
) -> Flask:
    """Make the application. Call it in the process that serves: it opens the database and starts ringing.

    Raises `Misconfigured` without a usable `SIGNALBOX_SECRET` or database URL. Connects with the first request.
    """
    settings = settings or Settings.load()
    limits = limits or Limits.load()
    app = Flask("api", static_folder=None)
    app.url_map = _url_map()
    app.config["MAX_CONTENT_LENGTH"] = limits.max_body_bytes + 1  # see reading._bounded
    services = _open_services(app, settings, limits, threads)
    app.extensions[_EXTENSION] = services
    transactions = Transactions(services.tenants, services.waiter, services.sealing_keys)
    for operation in OPERATIONS:
        app.view_functions[operation.name] = _view(operation, services, transactions)
    app.before_request(_begin)
    app.after_request(_finish)
    app.register_error_handler(Exception, _refused)
    return app


def services_of(app: Flask) -> Services:
    """What an application of ours was put together from; close it when the process ends."""
    services: Services = app.extensions[_EXTENSION]
    return services


@cache
def _documents() -> Documents:
    """What /docs shows: it tells of the operations alone, so one writing serves every application of a process."""
    document = build_document(OPERATIONS, version=signalbox_version())
    return render(document, Flask("api", static_folder=None).jinja_env)


@cache
def _url_map() -> Map:
    """Which operation an address means: for every application of a process, like what /docs shows."""
    rules = (
        Rule(operation.rule, endpoint=operation.name, methods=[operation.method]) for operation in OPERATIONS
    )
    return Map(list(rules), merge_slashes=False)


def _open_services(app: Flask, settings: Settings, limits: Limits, threads: int) -> Services:
    written, older = settings.installation_secrets()
    secret = read_secret(written)
    # Every thread may need a connection at once; the engine opens as many again as it keeps.
    tenants = Tenants.open(
        settings.database_url,
        pool_size=max(threads // 2, 1),
        name="signalbox-api",
        longest_wait=LONGEST_WAIT,
    )
    database = tenants.database  # whose key it is tells the key: before, there is no tenant

    def find(prefix: str) -> StoredKey | None:
        with database.reading() as tx:
            return find_usable_key(tx, prefix)

    return Services(
        tenants=tenants,
        limits=limits,
        keeping=Keeping.of(settings),
        keys=KeyRing(secret, find),
        cursors=Cursors.of(secret),
        sealing_keys=SealingKeys.read(written, older),
        waiter=Waiter(tenants, Changes.open(settings.redis_url), most=max(threads // 2, 1)),
        health=Health(database, settings.redis_url if settings.doorbells else None, tenants=tenants),
        documents=_documents(),
        links=Links.read_secrets(written, older, settings.public_url),
        link_pages=LinkPages.of(app.jinja_env),
        link_gate=LinkGate(),
        calculating=Calculating(),
        doorbells=attach(database, settings),
    )


# -- one request --------------------------------------------------------------------------------------------------


def _view(operation: Operation, services: Services, transactions: Transactions) -> Callable[..., Response]:
    """The function that Flask calls for an operation."""
    if operation.kind == "open":

        def view(**_path: str) -> Response:
            read_query(None, request)
            return respond(send(operation.handler(services)))

        return view

    if operation.kind == "link":

        def link_view(token: str) -> Response:
            read_query(None, request)
            wants_json = request.accept_mimetypes.best_match(["text/html", JSON], "text/html") == JSON
            call = LinkCall(services, transactions, request.content_length or 0, wants_json)
            return respond(send(operation.handler(call, token)))

        return link_view

    def authenticated_view(**path: str) -> Response:
        principal = services.keys.recognise(request.headers.get("Authorization"))
        g.principal = principal
        structlog.contextvars.bind_contextvars(tenant_id=principal.tenant_id)
        return respond(_serve(operation, services, transactions, principal, path))

    return authenticated_view


def _serve(
    operation: Operation,
    services: Services,
    transactions: Transactions,
    principal: Principal,
    path: dict[str, str],
) -> Sent:
    if operation.permission is not None:
        require(principal, operation.permission)
    arguments: dict[str, Any] = read_path(path)
    query = read_query(operation.query, request)
    if query is not None:
        arguments["query"] = query
    key, digest = None, b""
    if operation.method == "POST":
        key = read_idempotency_key(request)
    if operation.method in ("POST", "PUT"):
        arguments["body"], digest = read_body(operation, request, services.limits)
    if operation.prepare is not None:
        arguments["prepared"] = operation.prepare(arguments["body"], services.limits)
    address, trace_id = request.path, g.trace_id

    def handle(tx: Connection) -> Answer:
        return operation.handler(Call(services, principal, tx, address, trace_id), **arguments)

    def handle_alone(tx: Connection) -> Answer | None:
        call = Call(services, principal, tx, address, trace_id)
        return operation.alone(call, **arguments) if operation.alone is not None else None

    alone = handle_alone if operation.alone is not None else None
    if operation.kind == "read":
        return transactions.read(principal.tenant_id, handle, alone)
    asked = wait_seconds(request.headers.get("Prefer")) if operation.wait is not None else None
    command = Command(
        tenant_id=principal.tenant_id,
        handle=handle,
        key=IdempotencyKey(principal.tenant_id, principal.key_id, key, digest) if key else None,
        alone=alone,
        wait=asked if asked is not None else operation.wait or None,
        was_asked=asked is not None,
        seals_answer=operation.seals_answer,
    )
    return transactions.command(command) if operation.kind == "command" else transactions.calculate(command)


def _begin() -> None:
    g.began = time.monotonic()
    found = _TRACEPARENT.fullmatch(request.headers.get("traceparent", ""))
    g.trace_id = found[1] if found else random_bytes(16).hex()
    structlog.contextvars.clear_contextvars()  # threads are used again
    structlog.contextvars.bind_contextvars(trace_id=g.trace_id)


def _finish(response: Response) -> Response:
    return harden(response, trace_id=g.trace_id)


def _shown_path() -> str:
    """The request's path as a log may show it: who reads a link can use it, and may be faster than its person."""
    return f"{LINKS}…" if request.path.startswith(LINKS) else request.path


def _refused(error: Exception) -> Response:
    path, trace_id = _shown_path(), g.trace_id
    if is_away(error):
        no_room = is_full(error)
        if no_room:
            services_of(current_app).health.note_full()
        if is_incomplete(error):
            services_of(current_app).health.note_incomplete()
        problem = unavailable(path=path, trace_id=trace_id, is_full=no_room)
    else:
        problem = describe(error, path=path, trace_id=trace_id)
    principal: Principal | None = g.get("principal")
    about = {
        "method": request.method,
        "path": path,
        "tenant_id": principal.tenant_id if principal else None,
        "key_name": principal.name if principal else None,
        "trace_id": trace_id,
        "duration_ms": round((time.monotonic() - g.began) * 1000, 1),
    }
    response = refuse(problem, cause=error, about=about)
    if "HTTP_TRANSFER_ENCODING" in request.environ or (request.content_length or 0) > _SMALL_BODY_BYTES:
        environ = request.environ
        response.call_on_close(lambda: discard_body(environ))
    return response
