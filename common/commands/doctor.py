"""The examination behind `signalbox doctor`, and after every integration test: do the promises hold, right now?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection

from common.canonical import read
from common.commands.findings import Finding
from common.commands.secrets import count_unopened
from common.commands.verify import verify_instance
from common.db import Database
from common.db.now import read_now
from common.db.room import has_room
from common.db.row_security import why_unrestricted
from common.db.tables import TimerStatus
from common.decision import TIMEOUT_TIMER
from common.lifecycle import ENDED, FINAL, OPEN, InstanceStatus, TaskStatus
from common.sealing import SealingKeys
from common.store import holders, invariants
from common.store.invariants import Obligations
from statechart.maps import map_key

PAGE = 200


def examine(database: Database, *, replay: bool = True, keys: SealingKeys | None = None) -> dict[str, Any]:
    """Examine every instance and the whole system; return {"healthy", "instances", "problems", "delays"}.

    `problems` break a promise; `delays` (expired leases, overdue timers and tasks, inbox age, types without a worker, how
    many orchestrators live, who holds locks for long, whether the database takes no writes or has no room left, why PostgreSQL does not keep the API's callers to their tenants, how many secrets are sealed under each key that is not among `keys`) may be an ordinary backlog. `replay` False leaves out replaying every history, which takes a step per event.
    Without `keys` nobody can tell which secrets open: `unopened` is None.
    """
    examined, problems = find_problems(database, replay=replay)
    with database.reading() as tx:
        delays = invariants.read_delays(tx, now=read_now(tx))
        holding = holders.read_holders(tx, longer_than=holders.LONG)
        unrestricted = why_unrestricted(tx)
        unopened = None if keys is None else count_unopened(tx, keys)
    return {
        "healthy": not problems,
        "instances": examined,
        "problems": [problem.to_json() for problem in problems],
        "delays": {
            "expiredLeases": delays.expired_leases,
            "overdueTimers": delays.overdue_timers,
            "overdueTasks": delays.overdue_tasks,
            "inboxWaiting": delays.inbox_waiting,
            "inboxOldestSeconds": round(delays.inbox_oldest_seconds, 3),
            "unclaimableTypes": list(delays.unclaimable_types),
            "orchestrators": delays.orchestrators,
            "holders": [
                {
                    "pid": one.pid,
                    "application": one.application,
                    "user": one.user,
                    "state": one.state,
                    "seconds": round(one.seconds, 1),
                    "waiting": one.waiting,
                }
                for one in holding
            ],
            "readOnly": not database.takes_writes(),
            "full": not has_room(database),
            "unrestricted": unrestricted,
            "unopened": unopened,
        },
    }


def find_problems(database: Database, *, replay: bool = True) -> tuple[int, list[Finding]]:
    """How many instances there are, and what breaks a promise: the part of `examine` that decides whether all is well."""
    problems: list[Finding] = []
    examined = 0
    for page in _pages(database):
        examined += len(page)
        for one in page:
            problems += check_obligations(one)
        if replay:
            problems += _verify_all(database, page)
    with database.reading() as tx:
        problems += _across(tx)
    return examined, problems


def _pages(database: Database) -> Iterator[list[Obligations]]:
    after: str | None = None
    while True:
        with database.reading() as tx:
            if not database.is_sqlite:  # several statements that must agree: one snapshot for all
                tx.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            page = invariants.read_obligations(tx, after, limit=PAGE)
        if not page:
            return
        yield page
        after = page[-1].instance_id


def check_obligations(one: Obligations) -> list[Finding]:
    """Compare a snapshot's open obligations with the live rows: each must have the other (promise 6).

    A task that ended but whose event is not consumed yet stands for its obligation by its inbox row; so does a timer. In
    a failed instance its incident does: the failure was caught nowhere, or the step that took the answer failed.
    """
    if one.snapshot is None:
        return []
    snapshot = read(one.snapshot)
    counts = tuple(len(snapshot[kind]) for kind in ("tasks", "timers", "children"))
    answering = {read(body).get("key") for type_, body in one.inbox_bodies if type_ in ("task", "timer")}
    is_failed = one.status is InstanceStatus.FAILED
    obligations = [one for one in one.task_keys if map_key(one[0]) is None]
    rows = [({key, *(read(joined) if joined else ())}, status) for key, joined, status, _ in obligations]
    running = [keys for keys, status in rows if status in OPEN]
    ended = [
        keys for keys, status in rows if is_failed and status in ENDED and status != TaskStatus.CANCELLED
    ]
    fired = [{key} for key, status in one.timer_keys if is_failed and status == TimerStatus.FIRED]
    armed = [{key} for key, status in one.timer_keys if status == TimerStatus.ARMED and key != TIMEOUT_TIMER]
    findings = []
    for kind, live, kept in (("task", running, ended), ("timer", armed, fired)):
        wanted = set(snapshot[f"{kind}s"])
        findings += [
            Finding(
                f"{kind}.missing",
                f'the snapshot waits for {kind} "{key}", which has no live row',
                None,
                one.instance_id,
            )
            for key in sorted(wanted.difference(answering, *live, *kept))
        ]
        # A task that was asked for again lives as long as one of those who asked waits for it.
        findings += [
            Finding(
                f"{kind}.unasked",
                f'{kind} "{", ".join(sorted(keys))}" lives, but the snapshot does not wait for it',
                None,
                one.instance_id,
            )
            for keys in live
            if wanted.isdisjoint(keys)
        ]
    findings += _item_findings(one, snapshot)
    findings += _children_findings(one, snapshot)
    if counts != one.counts:
        message = (
            f"its row counts {one.counts} open tasks, timers and children, the snapshot has {counts} of them"
        )
        findings.append(Finding("instance.counts", message, None, one.instance_id))
    if one.status in FINAL and (snapshot["tasks"] or snapshot["timers"] or snapshot["children"]):
        findings.append(Finding("instance.open", "it ended with open obligations", None, one.instance_id))
    return findings


def _item_findings(one: Obligations, snapshot: dict[str, Any]) -> list[Finding]:
    """An item that lives has a MAP that the snapshot waits for, if only until its answer is taken."""
    maps = {map_key(key) for key, _, status, _ in one.task_keys if status in OPEN} - {None}
    return [
        Finding(
            "item.unasked",
            f'items of the MAP "{key}" live, but the snapshot does not wait for it',
            None,
            one.instance_id,
        )
        for key in sorted(str(key) for key in maps.difference(snapshot["tasks"]))
    ]


def _children_findings(one: Obligations, snapshot: dict[str, Any]) -> list[Finding]:
    """An awaited child lives or its answer is in the inbox; a child that nobody awaits was let go, or is being cancelled.

    In a failed parent a child that ended otherwise than it should stays open, for `retry` to start it again. A child that
    failed may have been given up by its parent, and be on its way again.
    """
    workflows = {key for key, task in snapshot["tasks"].items() if "instanceId" in task}
    items = {  # of MAPs; before they run their children are not started yet
        key
        for key, _, status, type_ in one.task_keys
        if type_ == "WORKFLOW" and status == TaskStatus.RUNNING and map_key(key) is not None
    }
    awaited = workflows.union(snapshot["children"], items)
    answering = {read(body)["key"] for type_, body in one.inbox_bodies if type_ == "child"}
    living = {child.key for child in one.children if child.status not in FINAL}
    missing = set() if one.status is InstanceStatus.FAILED else awaited - living - answering
    unasked = {
        child.key
        for child in one.children
        if child.status not in (*FINAL, InstanceStatus.FAILED, InstanceStatus.COMPENSATING)
        and child.key not in awaited
        and child.cancel_with_parent
        and not child.is_being_cancelled
        and not child.has_failed
    }
    return [
        Finding(code, message.format(key), None, one.instance_id)
        for code, keys, message in (
            ("child.missing", missing, 'the snapshot waits for child "{}", which does not live'),
            (
                "child.unasked",
                unasked,
                'child "{}" lives, but its parent neither waits for it nor cancels it',
            ),
        )
        for key in sorted(keys)
    ]


def _verify_all(database: Database, page: list[Obligations]) -> list[Finding]:
    findings = []
    for one in page:
        with database.reading() as tx:
            if not database.is_sqlite:
                tx.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            verified = verify_instance(tx, one.tenant_id, one.instance_id)
        findings += [
            Finding(problem["code"], problem["message"], problem.get("sequence"), one.instance_id)
            for problem in verified["problems"]
        ]
    return findings


def _across(tx: Connection) -> list[Finding]:
    stalled = [
        Finding(
            "instance.stalled",
            "nothing will wake it: no task, timer, child, inbox row, event or incident",
            None,
            id_,
        )
        for id_ in invariants.stalled_instances(tx)
    ]
    violations = [
        Finding(f"{kind}.{what}", _SAID[kind].format(what=_MAPS.get(what, what), id=id_))
        for kind, what, id_ in invariants.read_violations(tx)
    ]
    return stalled + violations


_SAID = {
    "left": "{what} outlived its instance's status: {id}",
    "task": "the attempts of task {id} do not add up to its status",
    "map": "{what}: {id}",
}
_MAPS = {
    "miscounted": "the join of a MAP counts otherwise than its items ended",
    "stuck": "a MAP waits for items, and none of them has its turn",
    "unjoined": "a MAP runs without a join that counts for it, or a join counts for none",
}
