"""How it goes: figures, health."""

from __future__ import annotations

from api.operations import Answer, Call, Routes, Shape
from api.schemas.answers import Alive, Readiness, RetentionStatus, Stats
from api.services import Services
from api.shapes import worker_json
from common.commands.retention import retention_status
from common.store import overview
from common.store.invariants import stalled_instances

routes = Routes("overview")
health_routes = Routes("health", prefix="/health")


@routes.get("/stats", answers={200: Shape("the figures", Stats)})
def get_stats(call: Call) -> Answer:
    """Count what there is, by status, and what waits.

    Reads every row of the tenant: for people, not for polling.
    """
    overview.hold_still(call.tx)
    figures = overview.read_figures(call.tx, call.tenant_id)
    return Answer(
        {
            "instances": dict(figures.instances),
            "tasks": dict(figures.tasks),
            "inbox": {"waiting": figures.inbox_waiting, "oldestSeconds": figures.inbox_oldest_seconds},
            "stalled": len(stalled_instances(call.tx, call.tenant_id)),
            "workers": [worker_json(record) for record in overview.list_workers(call.tx)],
        }
    )


@routes.get("/retention", answers={200: Shape("what is due and what was deleted", RetentionStatus)})
def get_retention(call: Call) -> Answer:
    """Tell how many finished instances are due to be deleted, and how many were.

    `keptDays` is what holds where a definition says nothing, by the settings of the API.
    """
    return Answer(retention_status(call.tx, call.services.keeping, tenant_id=call.tenant_id))


@health_routes.get("/live", permission=None, answers={200: Shape("this process answers", Alive)})
def get_liveness(services: Services) -> Answer:  # noqa: ARG001 - being able to answer is all there is to it
    """Tell that this process is alive.

    Asks nobody else.
    """
    return Answer({"status": "alive"})


@health_routes.get(
    "/ready",
    permission=None,
    answers={
        200: Shape("ready", Readiness),
        503: Shape("the database is away, takes no writes or has no room, or its schema is older", Readiness),
    },
)
def get_readiness(services: Services) -> Answer:
    """Tell whether this process can serve.

    The broker is told of and not needed.
    """
    report = services.health.report()
    return Answer(
        {
            "status": "ready" if report.is_ready else "not ready",
            "database": report.database,
            "schema": report.schema,
            "broker": report.broker,
        },
        200 if report.is_ready else 503,
    )
