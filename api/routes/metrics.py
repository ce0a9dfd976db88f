"""Figures for monitoring: with a key those of its tenant, from this machine without one those of the installation."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from flask import request

from api.auth import Permission, require
from api.metrics import MEDIA_TYPE, exposition
from api.operations import Answer, Routes, Shape
from api.services import Services
from common.errors import Unauthorized
from common.store import overview

routes = Routes("overview", prefix="")

_FORWARDED = ("forwarded", "via", "x-forwarded-", "x-real-ip")
"""How headers begin that proxies add."""


@routes.get(
    "/metrics",
    permission=None,
    answers={200: Shape("gauges, as Prometheus reads them", media_type="text/plain")},
)
def get_metrics(services: Services) -> Answer:
    """Tell the figures of the installation to a monitor on this machine, or those of a tenant to who has a key of it.

    Counts rows: ask every 15 s or more rarely.
    """
    authorization = request.headers.get("Authorization")
    tenant_id = None
    if authorization is not None:
        principal = services.keys.recognise(authorization)
        require(principal, Permission.READ)
        tenant_id = principal.tenant_id
    elif not _is_from_this_machine():
        raise Unauthorized('a valid API key is needed: "Authorization: Bearer sb_…"')
    database = services.database if tenant_id is None else services.tenants.of(tenant_id)
    with database.reading() as tx:
        overview.hold_still(tx)
        return Answer(exposition(tx, tenant_id), media_type=MEDIA_TYPE)


def _is_from_this_machine() -> bool:
    """Asked over loopback, by the name of it, and not by a proxy on behalf of somebody else.

    Many proxies say nothing but the name that they were asked by; so does a browser whose page has made its own name mean loopback.
    """
    is_forwarded = any(name.lower().startswith(_FORWARDED) for name, _ in request.headers)
    return not is_forwarded and _is_loopback(request.remote_addr) and _is_loopback(_asked_name())


def _asked_name() -> str | None:
    """The host that the request names, without its port."""
    try:
        return urlsplit(f"//{request.host}").hostname
    except ValueError:  # no name of anything
        return None


def _is_loopback(host: str | None) -> bool:
    if host is None:
        return False
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
