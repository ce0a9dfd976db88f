"""Figures for monitoring: with a key those of its tenant, from this machine without one those of the installation."""

from __future__ import annotations

import ipaddress

from flask import request

from api.auth import Permission, require
from api.metrics import MEDIA_TYPE, exposition
from api.operations import Answer, Routes, Shape
from api.services import Services
from common.errors import Unauthorized
from common.store import overview

routes = Routes("overview", prefix="")

_FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Real-IP")


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
    with services.database.reading() as tx:
        overview.hold_still(tx)
        return Answer(exposition(tx, tenant_id), media_type=MEDIA_TYPE)


def _is_from_this_machine() -> bool:
    """Asked over loopback, and not by a proxy on behalf of somebody else."""
    address = request.remote_addr
    is_loopback = address is not None and ipaddress.ip_address(address).is_loopback
    return is_loopback and not any(name in request.headers for name in _FORWARDED)
