"""The schedules of the chaos suite: each of their instants starts one instance, whoever was killed meanwhile.

They catch up on everything and let their instances overlap, so that what must have started is known by arithmetic alone: every
instant from the creation of the schedule up to the one that it waits for at the end. `judge_ticks` compares.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, select

from common.canonical import read
from common.clock import instant_text
from common.db.tables import instances, schedules
from common.ids import TenantId
from common.lifecycle import InstanceStatus
from tests.support.chaos_callers import Caller
from tests.support.chaos_chart import Document
from tests.support.chaos_report import Fault
from tests.support.cluster import Cluster

KEY = "chaos-tick"
CHART: Document = {
    "id": KEY,
    "initial": "ticking",
    "states": {"ticking": {"after": {"100ms": "done"}}, "done": {"type": "final"}},
}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Ticker:
    """A schedule that fires every `step`, from its creation on or (`cron`) at whole multiples, and up to `jitter` later."""

    name: str
    step: timedelta
    when: Mapping[str, str]
    jitter: timedelta = timedelta(0)

    @property
    def body(self) -> dict[str, Any]:
        jitter_ms = self.jitter // timedelta(milliseconds=1)
        policy = {"overlap": "allow", "catchUp": "all", "catchUpLimit": 100}
        return {"definitionKey": KEY, "name": self.name, **self.when, **policy, "jitter": jitter_ms}

    def instants(self, created: datetime, until: datetime) -> list[datetime]:
        """Those after `created` and before `until`."""
        origin = created if "every" in self.when else _EPOCH
        count = (created - origin) // self.step + 1
        found = []
        while (instant := origin + count * self.step) < until:
            found.append(instant)
            count += 1
        return found


TICKERS: Sequence[Ticker] = (
    Ticker("every-second", timedelta(seconds=1), {"every": "1s"}),
    Ticker("even-seconds", timedelta(seconds=2), {"cron": "*/2 * * * * *", "timezone": "Europe/Berlin"}),
    Ticker("sometime", timedelta(seconds=3), {"cron": "*/3 * * * * *"}, jitter=timedelta(milliseconds=1_500)),
)
LONGEST_JITTER_SECONDS = max(ticker.jitter for ticker in TICKERS).total_seconds()


def create(caller: Caller) -> list[str]:
    """Create every schedule; their ids."""
    made = [caller.ask("/schedules", ticker.body, f"ticker-{ticker.name}") for ticker in TICKERS]
    assert all(response.status_code == 201 for response in made), [response.text[:300] for response in made]
    return [response.json()["id"] for response in made]


def pause(caller: Caller, ids: Sequence[str]) -> None:
    """Let none of them start anything more."""
    for schedule_id in ids:
        response = caller.ask(f"/schedules/{schedule_id}/pause", {}, f"pause-{schedule_id}")
        assert response.is_success, response.text[:300]


@dataclass(frozen=True, slots=True)
class Ticks:
    """What is wrong, and how many ran; `latest` is the longest that a run came after its time."""

    findings: Sequence[tuple[Fault, str]]
    number: int
    latest: timedelta


def judge_ticks(cluster: Cluster, *, lateness: timedelta) -> Ticks:
    """Compare the instances with the instants. When it was paused, a schedule may have been behind by `lateness`."""
    with cluster.database.reading() as tx:
        runs = _read_runs(tx, cluster.engine.tenant_id)
        rows = {row.name: row for row in tx.execute(select(schedules))}
    findings: list[tuple[Fault, str]] = []
    for ticker in TICKERS:
        findings += _judge_one(ticker, rows[ticker.name], runs, lateness)
    known = {row.id for row in rows.values()}
    findings += [("wrong", f"{run} is of no schedule") for run in runs if run.schedule_id not in known]
    findings += [
        ("stuck", f"{run} has not completed") for run in runs if run.status != InstanceStatus.COMPLETED
    ]
    findings += [
        ("wrong", f"{run} was told of another instant")
        for run in runs
        if run.told != instant_text(run.scheduled_at)
    ]
    latest = max((run.created_at - run.scheduled_at for run in runs), default=timedelta(0))
    return Ticks(findings, len(runs), latest)


@dataclass(frozen=True, slots=True)
class _Run:
    schedule_id: str
    scheduled_at: datetime
    created_at: datetime
    status: str
    told: str
    """The instant that stands in its input."""


def _read_runs(tx: Connection, tenant_id: TenantId) -> list[_Run]:
    i = instances.c
    query = select(i.schedule_id, i.scheduled_at, i.created_at, i.status, i.input)
    rows = tx.execute(query.where(i.tenant_id == tenant_id, i.definition_key == KEY))
    return [_Run(row[0], row[1], row[2], row[3], read(row[4])["scheduledAt"]) for row in rows]


def _judge_one(
    ticker: Ticker, row: Any, runs: Sequence[_Run], lateness: timedelta
) -> Iterator[tuple[Fault, str]]:
    expected = ticker.instants(row.anchor_at, row.scheduled_at)
    fired = Counter(run.scheduled_at for run in runs if run.schedule_id == row.id)
    wanted = set(expected)
    yield from (("lost", f"{ticker.name} did not fire for {one}") for one in expected if not fired[one])
    yield from (
        ("doubled", f"{ticker.name} fired {times} times for {one}")
        for one, times in fired.items()
        if times > 1
    )
    yield from (
        ("wrong", f"{ticker.name} fired for {one}, which is no time of it") for one in fired.keys() - wanted
    )
    early = (run for run in runs if run.schedule_id == row.id and run.created_at < run.scheduled_at)
    yield from (("wrong", f"{ticker.name} fired early: {run}") for run in early)
    if (row.fired, row.skipped, row.refused) != (len(expected), 0, 0):
        counted = f"{row.fired} fired, {row.skipped} skipped, {row.refused} refused"
        yield "wrong", f"{ticker.name} counts {counted}; expected {len(expected)} fired: {row.last_error}"
    behind = row.updated_at - row.next_at  # when it was paused
    if behind > lateness:
        yield "stuck", f"{ticker.name} was paused at {row.updated_at} and waited for {row.next_at} still"
