"""The figures of an installation, or of one tenant, in the text format that Prometheus reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector
from sqlalchemy import Connection

from common.breaker import BreakerState
from common.db.now import read_now
from common.ids import TenantId
from common.lifecycle import InstanceStatus, TaskStatus
from common.store import breakers, overview, places
from common.store.invariants import count_open_incidents, read_delays, stalled_instances

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def exposition(tx: Connection, tenant_id: TenantId | None) -> bytes:
    """Every gauge, read now. `tenant_id` None: of all tenants, and of the workers that they share."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Figures(_gauges(tx, tenant_id)))
    return generate_latest(registry)


class _Figures(Collector):
    """Metrics that were read before they are asked for."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = list(metrics)

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def _gauges(tx: Connection, tenant_id: TenantId | None) -> Iterable[Metric]:
    figures = overview.read_figures(tx, tenant_id)
    yield _by("signalbox_instances", "Instances by status", InstanceStatus, figures.instances)
    yield _by("signalbox_tasks", "Tasks by status", TaskStatus, figures.tasks)
    yield _one("signalbox_inbox_waiting", "Accepted events that no step has consumed", figures.inbox_waiting)
    yield _one("signalbox_inbox_oldest_seconds", "Age of the oldest of them", figures.inbox_oldest_seconds)
    yield _one(
        "signalbox_incidents_open", "Incidents nobody has resolved", count_open_incidents(tx, tenant_id)
    )
    yield _one(
        "signalbox_stalled_instances",
        "Instances that nothing will ever wake; anything but 0 is a defect",
        len(stalled_instances(tx, tenant_id)),
    )
    yield _one(
        "signalbox_queued_instances",
        "Instances that wait for a place among those of their definition that may run at once",
        places.count_queued(tx, tenant_id),
    )
    # By state alone: targets are whatever tasks call, and a series for each would never end. `GET /breakers` names them.
    yield _by(
        "signalbox_breakers",
        "Circuit breakers by state, one for each type of task and target of which a call has failed",
        BreakerState,
        breakers.count_by_state(tx, tenant_id),
        label="state",
    )
    yield _one(
        "signalbox_tasks_behind_breakers",
        "Pending tasks that wait for a circuit breaker",
        breakers.count_waiting(tx, tenant_id),
    )
    if tenant_id is None:
        delays = read_delays(tx, now=read_now(tx))
        yield _one(
            "signalbox_expired_leases", "Running tasks whose lease is over by 2 s", delays.expired_leases
        )
        yield _one("signalbox_overdue_timers", "Armed timers that are late by 2 s", delays.overdue_timers)
        yield _one("signalbox_overdue_tasks", "Open tasks beyond a time limit by 2 s", delays.overdue_tasks)
        yield _one(
            "signalbox_types_without_worker",
            "Types of pending tasks that no living runner offers",
            len(delays.unclaimable_types),
        )
        workers = GaugeMetricFamily(
            "signalbox_workers", "Workers that have not ended, by duty", labels=["duty"]
        )
        running = [record.duty for record in overview.list_workers(tx)]
        for duty in ("orchestrator", "task-runner"):
            workers.add_metric([duty], running.count(duty))
        yield workers


def _one(name: str, said: str, value: float) -> Metric:
    return GaugeMetricFamily(name, said, value=value)


def _by(
    name: str, said: str, statuses: type[StrEnum], counts: Mapping[str, int], *, label: str = "status"
) -> Metric:
    """A gauge for every status, those without rows too: a series that comes and goes is no use to an alarm."""
    gauge = GaugeMetricFamily(name, said, labels=[label])
    for status in statuses:
        gauge.add_metric([status.value], counts.get(status.value, 0))
    return gauge
