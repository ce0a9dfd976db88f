"""The heart: lock instances, read their inbox, step them, save everything in one transaction.

Theory of operation (statement by statement; the order matters).

1. A page of the oldest ready inbox rows names up to 100 instances. Lock those that are free (FOR NO KEY UPDATE SKIP LOCKED).
2. Read their inbox in a NEW statement: its snapshot must be younger than the lock, or rows would be seen that
   the previous holder consumed before it let go.
3. Decide each row, purely. Whatever one instance does wrong is that instance's incident.
4. Save, set-based, guarded by the sequence that was read; delete exactly the rows that were stepped; commit.
5. Ring for new tasks, then look again from the beginning, always, until a pass finds nothing to lock. A pass that skipped a
   locked instance may sleep: its holder takes this fifth step too, and if it dies its rows are free for the next look.

A batch that the database refuses is rolled back and each of its instances stepped alone; one that is refused
alone gets the incident `engine.rejected`. While a process of this duty has died within the last minute, instances with
rows older than that death are stepped alone after a committed strike; the third strike is the incident `engine.poison`.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import groupby

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from common import faults
from common.canonical import dumps, read
from common.clock import instant_text, read_now
from common.db import TASK_RUNNER_QUEUE, Database, is_trouble, note_bell
from common.db.tables import InboxType
from common.decide import Decision, Incident, Standing, decide
from common.errors import SignalboxError
from common.ids import InstanceId
from common.lifecycle import FINAL, FROZEN, InstanceStatus
from common.store import history, inbox, instances
from common.store.inbox import InboxRow
from common.store.instances import LockedInstance
from orchestrator.batch import Batch, LostRace, error_text
from orchestrator.charts import Charts, CompiledChart
from statechart import KERNEL, Env

log = structlog.get_logger("signalbox.orchestrator")

BATCH = 100
STEP_BUDGET = 0.1
"""Seconds of stepping in one transaction; instances that are left over are taken by the next."""
SUSPICION = timedelta(seconds=60)
STRIKES = 3


@dataclass(frozen=True)
class Advancing:
    """What advancing needs: one a process."""

    database: Database
    max_context_bytes: int
    charts: Charts = field(default_factory=Charts)
    publish: Callable[[Sequence[str]], None] = lambda _ids: None
    last_death: Callable[[], datetime | None] = lambda: None


@dataclass(frozen=True, slots=True)
class Pass:
    """What one pass did. `resume_after` names the inbox id to go on from when nothing could be locked."""

    steps: int = 0
    instances: int = 0
    tasks: int = 0
    resume_after: int | None = None
    changed: tuple[InstanceId, ...] = ()


NOTHING = Pass()


def advance_ready(advancing: Advancing, *, until: float) -> Pass:
    """Pass until nothing is left to lock or `until` (monotonic seconds) is over; return what was done in all.

    `resume_after` of the result is not None when the time ran out before the work did.
    """
    steps = advanced = created = 0
    after = 0
    while True:
        done = advance_pass(advancing, after)
        steps, advanced, created = steps + done.steps, advanced + done.instances, created + done.tasks
        if done.instances == 0 and done.resume_after is None:
            return Pass(steps, advanced, created)
        after = done.resume_after or 0
        if time.monotonic() > until:
            return Pass(steps, advanced, created, resume_after=after)


def advance_pass(advancing: Advancing, after: int) -> Pass:
    """Step one batch of ready instances whose oldest row is beyond inbox id `after`, and publish what changed."""
    death = advancing.last_death()
    if death is not None:
        done = _careful_pass(advancing, after, death)
    elif advancing.database.is_sqlite and not _peek(advancing, after):
        return NOTHING  # the one writer's turn is not taken just to find that there is nothing to do
    else:
        done = _pass(advancing, lambda tx: inbox.page_ready(tx, after))
    if done.changed:
        advancing.publish(done.changed)
    return done


_Page = Sequence[tuple[int, InstanceId, datetime]]


def _peek(advancing: Advancing, after: int) -> _Page:
    with advancing.database.reading() as tx:
        return inbox.page_ready(tx, after)


def _pass(advancing: Advancing, read_page: Callable[[Connection], _Page]) -> Pass:
    """Step the instances of a page in one transaction; each alone where that fails for a reason that does not pass."""
    page: _Page = ()

    def step(tx: Connection) -> Pass:
        nonlocal page
        page = read_page(tx)
        return _batch(advancing, tx, page)

    try:
        return advancing.database.run(step)
    except Exception as error:
        if is_trouble(error) or isinstance(error, LostRace):
            raise
        log.warning("batch.refused", error=type(error).__name__)
        return _each_alone(advancing, _first_instances(page)[0])


def _batch(advancing: Advancing, tx: Connection, page: _Page) -> Pass:
    ids, last, is_whole = _first_instances(page)
    locked = instances.lock_ready(tx, ids) if ids else []
    if not locked:
        return Pass(resume_after=None if is_whole else last)
    faults.hit("after_lock")
    return _advance_locked(advancing, tx, locked)


def _first_instances(page: _Page) -> tuple[list[InstanceId], int, bool]:
    """The first 100 distinct instances of a page, the last row considered, and whether the inbox ends there."""
    distinct: dict[InstanceId, None] = {}
    last = 0
    for row_id, instance_id, _ in page:
        if instance_id not in distinct and len(distinct) == BATCH:
            return list(distinct), last, False
        distinct[instance_id] = None
        last = row_id
    return list(distinct), last, len(page) < inbox.PAGE


def _advance_locked(advancing: Advancing, tx: Connection, locked: list[LockedInstance]) -> Pass:
    rows = inbox.read_ready(tx, [held.id for held in locked])
    by_instance = {id_: list(group) for id_, group in groupby(rows, key=lambda row: row.instance_id)}
    charts = advancing.charts.fetch(tx, (held.definition_id for held in locked))
    batch = Batch(max(held.now for held in locked))
    deadline = time.perf_counter() + STEP_BUDGET
    advanced = []
    for held in locked:
        waiting = by_instance.get(held.id)
        if not waiting:  # its rows were consumed between the page and the lock: an ordinary race
            continue
        faults.hit("in_step", held.business_key)
        batch.merge(_step_instance(advancing, held, waiting, charts[held.definition_id], batch.now))
        advanced.append(held.id)
        if time.perf_counter() > deadline:
            break
    batch.save(tx)
    if batch.due_tasks:
        note_bell(tx, TASK_RUNNER_QUEUE, *batch.due_tasks)
    faults.hit("before_commit")
    # A lock that found an empty inbox still counts as work: the next pass must look again before it may sleep.
    return Pass(batch.steps, len(locked), len(batch.due_tasks), changed=tuple(advanced))


def _step_instance(
    advancing: Advancing, held: LockedInstance, rows: list[InboxRow], compiled: CompiledChart, now: datetime
) -> Batch:
    """Step one instance through its rows. Never raises for what its definition or its events can cause."""
    try:
        return _Stepping(advancing, held, compiled, now).through(rows)
    except LostRace:
        raise
    except Exception as error:
        log.exception("step.raised", instance_id=held.id, tenant_id=held.tenant_id)
        incident = Incident(
            error.code if isinstance(error, SignalboxError) else "engine.error",
            f"{type(error).__name__}: {error}"[:2_000],
            {"trace": traceback.format_exc(limit=-8)[-4_000:], "inboxIds": [row.id for row in rows]},
        )
        return _Stepping(advancing, held, compiled, now).give_up(incident, rows)


class _Stepping:
    """One instance on its way through its rows of this batch."""

    def __init__(
        self, advancing: Advancing, held: LockedInstance, compiled: CompiledChart, now: datetime
    ) -> None:
        self.limit = advancing.max_context_bytes
        self.held = held
        self.compiled = compiled
        # Kernel time never runs backwards for an instance, whatever happens to the host of the database.
        self.at = max(now, held.last_step_at) if held.last_step_at else now
        self.batch = Batch(now)
        self.sequence = held.sequence
        self.head = held.head_hash
        snapshot = None if held.snapshot is None else read(held.snapshot)
        self.decision = Decision(held.status, snapshot, held.snapshot, [])
        self.error = held.error
        self.facts = facts_of(held, self.at)

    def through(self, rows: list[InboxRow]) -> Batch:
        for row in rows:
            if self.compiled.chart is None and row.lane != inbox.CONTROL:
                self._freeze_without_chart()
            if self.decision.status in FROZEN and row.lane != inbox.CONTROL:
                self.batch.parked.append(row.id)
            else:
                self._step(row.type, row.body, row.source)
                self.batch.consumed.append(row.id)
        return self._settled()

    def _freeze_without_chart(self) -> None:
        """The definition does not compile: say so once; what is not a control command waits for code that reads it."""
        if self.decision.status not in (*FROZEN, *FINAL):
            problem = self.compiled.problem or "the definition does not compile"
            body = dumps({"code": "definition.unusable", "detail": {}, "message": problem})
            self._step(InboxType.INCIDENT, body, "engine")

    def give_up(self, incident: Incident, rows: list[InboxRow]) -> Batch:
        """Record an incident of the engine itself; the rows are parked, for `retry` to take up again."""
        body = dumps({"code": incident.code, "detail": incident.detail, "message": incident.message})
        if self.held.status not in FINAL:
            self._step(InboxType.INCIDENT, body, "engine")
            self.batch.parked += [row.id for row in rows]
        else:
            self.batch.consumed += [row.id for row in rows]
        return self._settled()

    def _step(self, type: InboxType, body: str, actor: str) -> None:
        self.sequence += 1
        env = Env(now=self.at, seed=f"{self.held.id}:{self.sequence}")
        standing = Standing(self.decision.status, self.decision.snapshot, self.facts)
        chart = self.compiled.chart
        decided = decide(chart, standing, type, read(body), env, max_context_bytes=self.limit)
        entry = history.chained(
            self.held.tenant_id,
            self.held.id,
            self.sequence,
            at=self.at,
            actor=actor,
            input=input_text(type, body, env, self.compiled.checksum, self.limit, decided),
            changes=dumps(decided.changes),
            previous_hash=self.head,
        )
        self.batch.history.append(entry)
        self.head = entry["hash"]
        self.batch.take(self.held, decided, sequence=self.sequence, actor=actor)
        if decided.incident is not None:
            self.error = error_text(decided.incident)
        elif decided.status is not InstanceStatus.FAILED:
            self.error = None
        self.decision = decided

    def _settled(self) -> Batch:
        self.batch.settle(
            self.held,
            self.compiled.chart,
            self.decision,
            sequence=self.sequence,
            head_hash=self.head,
            at=self.at,
            error=self.error,
        )
        return self.batch


def facts_of(held: LockedInstance, started_at: datetime) -> dict[str, object]:
    """What a definition may read of its instance as `instance`: fixed at its start, and kept in the snapshot."""
    return {
        "businessKey": held.business_key,
        "definitionKey": held.definition_key,
        "definitionVersion": held.definition_version,
        "id": held.id,
        "parentId": held.parent_id,
        "startedAt": instant_text(held.started_at or started_at),
    }


def input_text(type: InboxType, body: str, env: Env, checksum: str, limit: int, decided: Decision) -> str:
    """The history row's `input`: everything that the decision read, so that it can be decided again.

    The context limit stands there only where it decided something: a later, other setting must not change the past.
    """
    bound = (
        f'"contextLimit":{limit},' if decided.incident and decided.incident.code == "limit.context" else ""
    )
    return f'{{"body":{body},{bound}"definition":"{checksum}","env":{dumps(env.to_json())},"kernel":{KERNEL},"type":"{type.value}"}}'


# -- refused and suspected ---------------------------------------------------------------------------------------


def _careful_pass(advancing: Advancing, after: int, death: datetime) -> Pass:
    """A pass within a minute of an unexplained death: instances that the dead process may have held go alone.

    Suspect is who has a row from before the death; a backlog that nobody died on strikes nobody.
    """
    page = _peek(advancing, after)
    ids, last, is_whole = _first_instances(page)
    suspected = {instance_id for _, instance_id, accepted_at in page if accepted_at <= death}
    clean = [row for row in page if row[1] not in suspected and row[1] in set(ids)]
    done = _pass(advancing, lambda _tx: clean) if clean else NOTHING
    alone = [id_ for id_ in ids if id_ in suspected and _strike(advancing, id_)]
    careful = _each_alone(advancing, alone)
    total = Pass(
        done.steps + careful.steps,
        done.instances + careful.instances,
        done.tasks,
        None,
        done.changed + careful.changed,
    )
    if total.instances == 0 and not is_whole:
        return Pass(resume_after=last)
    return total


def _strike(advancing: Advancing, instance_id: InstanceId) -> bool:
    """Count, in a transaction of its own, that this instance is about to be stepped; False where it should not be."""
    database = advancing.database

    def count(tx: Connection) -> int | None:
        locked = instances.lock_ready(tx, [instance_id])
        if not locked:
            return None
        instances.strike(tx, [instance_id])
        return locked[0].strikes + 1

    strikes = database.run(count)
    if strikes is not None and strikes >= STRIKES:
        message = (
            f"stepping this instance ended its process {STRIKES - 1} times; it is not tried again by itself"
        )
        log.error("instance.poison", instance_id=instance_id)
        database.run(lambda tx: _give_up(advancing, tx, instance_id, Incident("engine.poison", message, {})))
        return False
    return strikes is not None


def _each_alone(advancing: Advancing, ids: Sequence[InstanceId]) -> Pass:
    """Step instances one by one, so that only the one at fault suffers."""
    steps = sum(_alone(advancing, id_) for id_ in ids)
    return Pass(steps, len(ids), changed=tuple(ids))


def _alone(advancing: Advancing, instance_id: InstanceId) -> int:
    try:
        return advancing.database.run(lambda tx: _one(advancing, tx, instance_id))
    except Exception as error:
        if is_trouble(error) or isinstance(error, LostRace):
            raise
        reason = str(error.orig if isinstance(error, DBAPIError) else error)
        log.error("instance.refused", instance_id=instance_id, reason=reason[:500])
        incident = Incident("engine.rejected", f"the database refused this step: {_storable(reason)}", {})
        advancing.database.run(lambda tx: _give_up(advancing, tx, instance_id, incident))
        return 0


def _storable(text: str) -> str:
    return text.replace("\x00", "␀").encode("utf-8", "replace").decode()[:1_000]


def _one(advancing: Advancing, tx: Connection, instance_id: InstanceId) -> int:
    locked = instances.lock_ready(tx, [instance_id])
    return _advance_locked(advancing, tx, locked).steps if locked else 0


def _give_up(advancing: Advancing, tx: Connection, instance_id: InstanceId, incident: Incident) -> None:
    for held in instances.lock_ready(tx, [instance_id]):
        rows = inbox.read_ready(tx, [held.id])
        compiled = advancing.charts.fetch(tx, [held.definition_id])[held.definition_id]
        now = read_now(tx)
        batch = _Stepping(advancing, held, compiled, now).give_up(incident, rows)
        batch.save(tx)
