"""The heart: lock instances, read their inbox, step them, save everything in one transaction.

Theory of operation (statement by statement; the order matters).

1. A page of the oldest ready inbox rows of each tenant names up to 100 instances, of the tenants in turn. Lock those that are
   free (FOR NO KEY UPDATE SKIP LOCKED).
2. Read their inbox in a NEW statement: its snapshot must be younger than the lock, or rows would be seen that
   the previous holder consumed before it let go.
   So are the configuration values that their charts name, where any does, in one statement.
   Where the inbox is short, the first two are one statement on PostgreSQL, which finds such rows out by the instance's sequence
   (`common.store.ready`).
3. Decide each row, purely. Whatever one instance does wrong is that instance's incident.
4. Save, set-based, guarded by the sequence that was read; delete exactly the rows that were stepped; commit.
5. Ring for new tasks, or call the runners that they were leased to (`common.queues.offers`), then look at what comes
   behind in the inbox, of each tenant by itself, and again from the beginning,
   always, until a whole sweep finds nothing to lock. A sweep that skipped a locked instance may sleep: its holder takes this fifth step too, and
   if it dies its rows are free for the next look.

A batch that the database refuses is rolled back and each of its instances stepped alone; one that is refused
alone gets the incident `engine.rejected`. While a process of this duty has died within the last minute, instances with
rows older than that death are stepped alone after a committed strike; the third strike is the incident `engine.poison`.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from common import decide_ai, faults
from common.canonical import dumps, read, storable
from common.clock import instant_text, read_now
from common.commands.configs import MAX_STEP_BYTES, Wanted, read_wanted, scope_id_of
from common.config import Limits
from common.db import TASK_RUNNER_QUEUE, Database, is_trouble, note_bell
from common.db.tables import InboxType
from common.decide import Decision, Incident, Standing, decide
from common.errors import SignalboxError
from common.ids import InstanceId, TenantId
from common.lifecycle import FINAL, FROZEN, InstanceStatus
from common.queues.offers import Offers, name_of
from common.store import history, inbox, instances
from common.store.inbox import InboxRow, Page, ReadyRow
from common.store.instances import LockedInstance
from common.store.ready import Ready, lock_and_read
from common.store.turns import FROM_THE_FIRST
from orchestrator.batch import Batch, LostRace, error_text
from orchestrator.charts import Charts, CompiledChart
from orchestrator.places import Vacancies, find_full
from statechart import KERNEL, Env

Config = Mapping[str, Mapping[str, Any]]
"""Values by module and key."""
NO_CONFIG: Config = {}
log = structlog.get_logger("signalbox.orchestrator")

BATCH = 100
SHARED_BATCH = 3
SHARED_SECONDS = 5.0
"""While more than one tenant has events, and for so long after, batches are small: nobody waits for a hundred of another's."""
CROWDED_SECONDS = 0.25
"""For so long after an inbox was too long for one look, turns are chosen."""
FEW = 2
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
    limits: Limits = field(default_factory=Limits)
    publish: Callable[[Sequence[str]], None] = lambda _ids: None
    last_death: Callable[[], datetime | None] = lambda: None
    emitted: threading.Event = field(default_factory=threading.Event)
    """Set when a step of this process has published an event that a trigger answers."""
    offers: Offers = field(default_factory=Offers)
    """What task runners have offered to take without a claim."""
    vacancies: Vacancies = field(default_factory=Vacancies)
    """Keys of `concurrency` where this process has seen an instance ask for a place, or give one back."""


@dataclass(frozen=True, slots=True)
class Pass:
    """What one pass did.

    `more`: a sweep must go on, or begin anew; `left` were locked, but the time was over.
    `starts_items`: children of MAPs may have their turn now (`map_children.start_items`).
    """

    steps: int = 0
    instances: int = 0
    tasks: int = 0
    more: bool = False
    changed: tuple[InstanceId, ...] = ()
    left: tuple[InstanceId, ...] = ()
    starts_items: bool = False


NOTHING = Pass()


@dataclass
class _Lap:
    """A tenant's way through its part of the inbox: the row to go on after, the instances that had their turn."""

    after: int = 0
    seen: set[InstanceId] = field(default_factory=set)
    found: bool = False


@dataclass
class Sweep:
    """The way through the inbox, of each tenant by itself: a lap ends where its rows do, whatever others still have waiting.

    A sweep may outlast a drain: who keeps it goes on where it stopped, so that those behind get their turn too.
    With more tenants than a page has room for they come in rounds; `found`: something was, in this round.
    """

    laps: dict[TenantId, _Lap] = field(default_factory=dict)
    turn_after: TenantId = FROM_THE_FIRST
    found: bool = False
    shared_until: float = 0.0
    crowded_until: float = 0.0
    looks_first: bool = False
    """The pass before stepped so few that there is hardly more: a look costs less than a lock that finds nothing."""

    def begun_before(self) -> None:
        """What was passed by may have changed since: let no lap that has begun be the one that finds nothing."""
        self.found |= self.turn_after != FROM_THE_FIRST
        for lap in self.laps.values():
            lap.found = True

    @property
    def is_shared(self) -> bool:
        return time.monotonic() < self.shared_until

    @property
    def is_over_few(self) -> bool:
        """Is it likely that one look takes in all that is ready?"""
        now = time.monotonic()
        is_on_its_way = bool(self.laps) or self.turn_after != FROM_THE_FIRST
        return not is_on_its_way and now >= self.crowded_until and now >= self.shared_until

    @property
    def passed(self) -> dict[TenantId, int]:
        return {tenant: lap.after for tenant, lap in self.laps.items() if lap.after}

    def choose(self, page: Page) -> _Chosen:
        """Take up to a batch of distinct instances of a page that have not had their turn, one of each tenant in turn."""
        of_tenants = {
            tenant: list(rows) for tenant, rows in groupby(page.rows, key=lambda row: row.tenant_id)
        }
        ways = [_Way(tenant, rows, self._seen(tenant)) for tenant, rows in of_tenants.items()]
        if len(ways) > 1 or page.last_tenant is not None:
            self.shared_until = time.monotonic() + SHARED_SECONDS
        room = SHARED_BATCH if self.is_shared else BATCH
        room = max(room, len(ways))  # everybody has a turn
        going = ways
        while going and room:
            going = [way for way in going[:room] if way.take()]
            room -= len(going)
        ends = {way.tenant_id: way.end(page.size) for way in ways}
        taken = {instance_id: way.tenant_id for way in ways for instance_id in way.taken}
        return _Chosen(taken, ends, page.last_tenant)

    def _seen(self, tenant_id: TenantId) -> Set[InstanceId]:
        lap = self.laps.get(tenant_id)
        return lap.seen if lap else frozenset()

    def note(self, chosen: _Chosen, *, found: bool, left: Collection[InstanceId] = ()) -> bool:
        """Take note of what a pass did; must another follow? Not after a round that began anew and found nothing to lock."""
        for tenant_id, end in chosen.ends.items():
            lap = self.laps.setdefault(tenant_id, _Lap())
            lap.found |= found
            lap.seen.update(one for one, of in chosen.tenants.items() if of == tenant_id and one not in left)
            has_left = any(chosen.tenants.get(one) == tenant_id for one in left)
            if end is None and not has_left:
                self._end(tenant_id)
            elif not has_left and end is not None:
                lap.after = end
        for tenant_id in [
            one for one in self.laps if one not in chosen.ends and chosen.has_visited(one, self.turn_after)
        ]:
            self._end(tenant_id)  # it has nothing left behind where it was
        self.turn_after = chosen.last_tenant or FROM_THE_FIRST
        if chosen.last_tenant is not None:
            return True
        more = self.found or bool(self.laps)
        self.found = False
        return more

    def _end(self, tenant_id: TenantId) -> None:
        self.found |= self.laps.pop(tenant_id).found


@dataclass
class _Way:
    """A tenant's rows of a page, and the instances of them that are taken."""

    tenant_id: TenantId
    rows: Sequence[ReadyRow]
    seen: Set[InstanceId]
    taken: dict[InstanceId, None] = field(default_factory=dict)
    at: int = 0

    def take(self) -> bool:
        """Take the next instance that has not had its turn; False where there is none."""
        while self.at < len(self.rows):
            instance_id = self.rows[self.at].instance_id
            self.at += 1
            if instance_id not in self.seen and instance_id not in self.taken:
                self.taken[instance_id] = None
                return True
        return False

    def end(self, size: int) -> int | None:
        """The id to go on after; None where the tenant's rows end with those that were looked at."""
        if self.at < len(self.rows):
            return self.rows[self.at - 1].id if self.at else self.rows[0].id - 1
        return self.rows[-1].id if len(self.rows) >= size else None


@dataclass(frozen=True, slots=True)
class _Chosen:
    """The instances to step now, with their tenants, and where each tenant's lap goes on (None: it ends)."""

    tenants: Mapping[InstanceId, TenantId] = field(default_factory=dict)
    ends: Mapping[TenantId, int | None] = field(default_factory=dict)
    last_tenant: TenantId | None = None

    @property
    def ids(self) -> list[InstanceId]:
        return list(self.tenants)

    def has_visited(self, tenant_id: TenantId, turn_after: TenantId) -> bool:
        """Did the page that began behind `turn_after` have room for this tenant's rows?"""
        return tenant_id > turn_after and (self.last_tenant is None or tenant_id <= self.last_tenant)


def advance_ready(advancing: Advancing, *, until: float, sweep: Sweep | None = None) -> Pass:
    """Sweep the inbox until a whole sweep finds nothing to lock or `until` (monotonic seconds) is over; what was done in all.

    A sweep goes through the inbox page by page, of all tenants at once, and steps each instance once, at most 200 of its
    rows: a giant inbox, an instance that somebody else holds, or a flood of one tenant's hides nobody behind it. `more`
    of the result tells that the time ran out before the work did.
    """
    sweep = sweep or Sweep()
    sweep.begun_before()
    steps = advanced = created = 0
    starts_items = False
    while True:
        done = advance_pass(advancing, sweep)
        starts_items |= done.starts_items
        steps, advanced, created = steps + done.steps, advanced + done.instances, created + done.tasks
        if not done.more or time.monotonic() > until:
            return Pass(steps, advanced, created, more=done.more, starts_items=starts_items)


def advance_pass(advancing: Advancing, sweep: Sweep) -> Pass:
    """Step one batch of ready instances that have not had their turn in this sweep, and publish what changed."""
    death = advancing.last_death()
    if death is not None:
        done = _careful_pass(advancing, sweep, death)
    elif advancing.database.is_sqlite:
        # The one writer's turn is not taken to look, and not at all where there is nothing to do.
        page = _peek(advancing, sweep)
        if not page.rows:
            return Pass(more=sweep.note(_Chosen(), found=False))
        done = _pass(advancing, sweep, lambda _tx: sweep.choose(page))
    else:
        few = _pass_over_all(advancing, sweep) if sweep.is_over_few else None
        done = few or _pass(advancing, sweep, lambda tx: sweep.choose(_read_page(tx, sweep)))
    if done.changed:
        advancing.publish(done.changed)
    return done


def _read_page(tx: Connection, sweep: Sweep) -> Page:
    at_most = inbox.LEAST_PAGE if sweep.is_shared else inbox.PAGE
    return inbox.page_ready(tx, sweep.passed, turn_after=sweep.turn_after, at_most=at_most)


def _peek(advancing: Advancing, sweep: Sweep) -> Page:
    with advancing.database.reading() as tx:
        return _read_page(tx, sweep)


def _pass(advancing: Advancing, sweep: Sweep, choose: Callable[[Connection], _Chosen]) -> Pass:
    """Step one batch, and take note of it."""
    chosen = _Chosen()

    def choose_here(tx: Connection) -> list[InstanceId]:
        nonlocal chosen
        chosen = choose(tx)
        return chosen.ids

    done = _stepped(advancing, lambda tx: _lock(tx, choose_here(tx)))
    # The time of this pass may have been over before all that were locked had their turn: they are next.
    return replace(done, more=sweep.note(chosen, found=done.instances > 0, left=done.left))


def _pass_over_all(advancing: Advancing, sweep: Sweep) -> Pass | None:
    """Step everything that is ready, if that is little: then nobody's turn has to be chosen. Else None."""
    if sweep.looks_first and not _has_ready(advancing):
        sweep.looks_first = False
        return NOTHING
    ready = Ready(is_all=False)

    def lock(tx: Connection) -> Ready:
        nonlocal ready
        ready = lock_and_read(tx, portion=SHARED_BATCH)
        if ready.locked:
            faults.hit("after_lock")
        return ready

    done = _stepped(advancing, lock)
    if not ready.is_all:
        sweep.crowded_until = time.monotonic() + CROWDED_SECONDS
        return None
    sweep.looks_first = 0 < done.instances <= FEW
    return replace(done, more=done.instances > 0)


def _has_ready(advancing: Advancing) -> bool:
    with advancing.database.each_alone() as tx:
        return inbox.has_ready(tx)


def _stepped(advancing: Advancing, lock: Callable[[Connection], Ready]) -> Pass:
    """Step what `lock` locks and reads, in one transaction; each alone where that fails for a reason that does not pass."""
    ids: list[InstanceId] = []

    def step(tx: Connection) -> Pass:
        ids.clear()
        ready = lock(tx)
        ids.extend(held.id for held in ready.locked)
        return _advance_locked(advancing, tx, ready.locked, ready.rows) if ready.locked else NOTHING

    try:
        return advancing.database.run(step)
    except Exception as error:
        if is_trouble(error) or isinstance(error, LostRace) or not ids:
            raise
        log.warning("batch.refused", error=type(error).__name__)
        return _each_alone(advancing, ids)


def _lock(tx: Connection, ids: Sequence[InstanceId]) -> Ready:
    """Lock those of `ids` that are free, then, in a new statement, read what is in their inboxes."""
    locked = instances.lock_ready(tx, ids) if ids else []
    if not locked:
        return Ready(is_all=False)
    faults.hit("after_lock")
    return Ready(False, locked=locked, rows=inbox.read_ready(tx, [held.id for held in locked]))


def _advance_locked(
    advancing: Advancing, tx: Connection, locked: list[LockedInstance], rows: list[InboxRow]
) -> Pass:
    by_instance = {id_: list(group) for id_, group in groupby(rows, key=lambda row: row.instance_id)}
    _add_parked(tx, by_instance)
    charts = advancing.charts.fetch(tx, (held.definition_id for held in locked))
    configs = _read_configs(tx, [held for held in locked if held.id in by_instance], charts)
    full = find_full(tx, [held for held in locked if held.id in by_instance], by_instance, charts)
    batch = Batch(max(held.now for held in locked))
    deadline = time.perf_counter() + STEP_BUDGET
    advanced = []
    left: tuple[InstanceId, ...] = ()
    for at, held in enumerate(locked, start=1):
        waiting = by_instance.get(held.id)
        if not waiting:  # its rows were consumed between the page and the lock: an ordinary race
            continue
        faults.hit("in_step", held.business_key)
        chart, config = charts[held.definition_id], configs.get(held.id, {})
        batch.merge(
            _step_instance(advancing, held, waiting, chart, batch.now, deadline, config, held.id in full)
        )
        advanced.append(held.id)
        if time.perf_counter() > deadline:
            left = tuple(other.id for other in locked[at:])
            break
    batch.save(tx, advancing.limits, advancing.offers)
    advancing.vacancies.note(batch)
    if batch.emitted.has_published:
        advancing.emitted.set()
    if batch.due_tasks:
        note_bell(tx, TASK_RUNNER_QUEUE, *batch.due_tasks)
    for worker, ids in batch.handed.items():
        note_bell(tx, name_of(worker), *ids)
    faults.hit("before_commit")
    # A lock that found an empty inbox still counts as work: the next pass must look again before it may sleep.
    return Pass(
        batch.steps, len(locked), len(batch.due_tasks) + sum(map(len, batch.handed.values())), changed=tuple(advanced), left=left,
        starts_items=batch.starts_items,
    )  # fmt: skip


def _read_configs(
    tx: Connection, locked: Sequence[LockedInstance], charts: Mapping[str, CompiledChart]
) -> dict[InstanceId, Config | None]:
    """The configuration that instances read whose charts name any: one statement for all of them, none for the others.

    None where it is larger than a step may read.
    """
    wanted = [
        (held.id, Wanted(held.tenant_id, chart.config_names, scope_id_of(held.business_key, held.id)))
        for held in locked
        if (chart := charts[held.definition_id].chart) is not None and chart.config_names
    ]
    if not wanted:
        return {}
    found = read_wanted(tx, [one for _, one in wanted])
    return {instance_id: config for (instance_id, _), config in zip(wanted, found, strict=True)}


def _add_parked(tx: Connection, by_instance: dict[InstanceId, list[InboxRow]]) -> None:
    """Who is taken on step by step needs a row that was parked, the oldest first: it comes behind the commands."""
    for instance_id, rows in by_instance.items():
        wanted = sum(row.type is InboxType.STEP for row in rows)
        if wanted:
            behind = sum(row.lane == inbox.CONTROL for row in rows)
            rows[behind:behind] = inbox.read_parked(tx, instance_id, limit=wanted)


def _step_instance(
    advancing: Advancing,
    held: LockedInstance,
    rows: list[InboxRow],
    compiled: CompiledChart,
    now: datetime,
    deadline: float,
    config: Config | None,
    is_full: bool = False,
) -> Batch:
    """Step one instance through its rows. Never raises for what its definition or its events can cause.

    `config` are the values that its chart names; None where they are too large, and then nothing of it is stepped that
    could read them. `is_full`: it has failed, and there is no place for it to go on.
    """
    try:
        return _Stepping(advancing, held, compiled, now, config, is_full).through(rows, deadline)
    except LostRace:
        raise
    except Exception as error:
        log.exception("step.raised", instance_id=held.id, tenant_id=held.tenant_id)
        incident = Incident(
            error.code if isinstance(error, SignalboxError) else "engine.error",
            storable(f"{type(error).__name__}: {error}")[:2_000],
            {
                "trace": storable(traceback.format_exc(limit=-8))[-4_000:],
                "inboxIds": [row.id for row in rows],
            },
        )
        return _Stepping(advancing, held, compiled, now).give_up(incident, rows)


class _Stepping:
    """One instance on its way through its rows of this batch."""

    def __init__(
        self,
        advancing: Advancing,
        held: LockedInstance,
        compiled: CompiledChart,
        now: datetime,
        config: Config | None = NO_CONFIG,
        is_full: bool = False,
    ) -> None:
        self.limit = advancing.max_context_bytes
        self.max_ai_events = advancing.limits.max_ai_events
        self.held = held
        self.compiled = compiled
        self.config = config
        self.is_full = is_full
        # Kernel time never runs backwards for an instance, whatever happens to the host of the database.
        self.at = max(now, held.last_step_at) if held.last_step_at else now
        self.batch = Batch(now)
        self.sequence = held.sequence
        self.head = held.head_hash
        snapshot = None if held.snapshot is None else read(held.snapshot)
        self.decision = Decision(held.status, snapshot, held.snapshot, [])
        self.error = held.error
        self.was_thawed = held.status not in FROZEN
        self.allowed = 0  # rows that may be taken although the instance is paused
        self.releases = False
        self.facts = facts_of(held, self.at)

    def through(self, rows: list[InboxRow], deadline: float) -> Batch:
        """Step rows until `deadline` (perf_counter seconds), at least one; the others stay in the inbox for the next pass.

        Without it, 200 slow steps would hold the locks so long that the database ends our session, again and again.
        """
        for row in rows:
            if row.lane != inbox.CONTROL and self._has_thawed():
                break  # what waited parked was accepted earlier: the next pass reads it together with this row
            if row.lane != inbox.CONTROL and self._waits_for_place():
                self.batch.parked.append(row.id)
                if row.type is InboxType.START:
                    self.batch.ask_for_place(self.held)
                continue
            if self.compiled.chart is None and row.lane != inbox.CONTROL:
                problem = self.compiled.problem or "the definition does not compile"
                self._freeze("definition.unusable", problem)
            if self.config is None and row.lane != inbox.CONTROL:
                self._freeze(
                    "limit.config",
                    f"the configuration values that its definition names are larger than the {MAX_STEP_BYTES} bytes that a "
                    "step may read; make them smaller, then retry",
                    also_paused=self.allowed > 0,
                )
            if row.lane != inbox.CONTROL and not self._may_take():
                self.batch.parked.append(row.id)
            else:
                self._step(row.type, row.body, row.source)
                self.batch.consumed.append(row.id)
            if time.perf_counter() > deadline:
                break
        return self._settled()

    def _has_thawed(self) -> bool:
        """Has a command of this batch let an instance go on that was frozen? What it had parked was not read with this batch."""
        return self.held.status in FROZEN and self.decision.status not in FROZEN

    def _waits_for_place(self) -> bool:
        """Is it queued? Whatever comes to it is set aside, its start before all."""
        return self.held.is_queued and self.decision.status not in FINAL

    def _may_take(self) -> bool:
        """May an ordinary row be stepped: the instance is not frozen, or paused and taken on by hand?"""
        if self.decision.status not in FROZEN:
            return True
        if self.decision.status is InstanceStatus.PAUSED and self.allowed > 0:
            self.allowed -= 1
            return True
        return False

    def _freeze(self, code: str, problem: str, *, also_paused: bool = False) -> None:
        """What its steps need is not to be had: say so once; what is not a control command waits until it is."""
        status = self.decision.status
        if status not in (*FROZEN, *FINAL) or (also_paused and status is InstanceStatus.PAUSED):
            body = dumps({"code": code, "detail": {}, "message": problem})
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
        env = Env(now=self.at, config=self.config or NO_CONFIG, seed=f"{self.held.id}:{self.sequence}")
        standing = Standing(
            self.decision.status,
            self.decision.snapshot,
            self.facts,
            self.sequence,
            self.max_ai_events,
            self.is_full and self.decision.status is InstanceStatus.FAILED,
        )
        chart = self.compiled.chart
        said = read(body)
        decided = decide(chart, standing, type, said, env, max_context_bytes=self.limit)
        entry = history.chained(
            self.held.tenant_id,
            self.held.id,
            self.sequence,
            at=self.at,
            actor=actor,
            input=input_text(type, body, env, self.compiled.checksum, self.limit, standing, decided),
            changes=dumps(decided.changes),
            previous_hash=self.head,
        )
        self.batch.history.append(entry)
        self.head = entry["hash"]
        self.batch.take(self.held, decided, sequence=self.sequence, actor=actor)
        self.batch.children.take(self.held, type, body, actor, self.decision, decided)
        if type is InboxType.TASK:
            self.batch.take_answer(self.held, said["entry"])
        if decided.incident is not None:
            self.error = error_text(decided.incident)
        elif decided.status is not InstanceStatus.FAILED and decided.status is not self.decision.status:
            self.error = self._end_of(decided, body)
        stepped = type is InboxType.STEP and decided.status is InstanceStatus.PAUSED
        self.allowed += stepped
        self.releases = stepped or (self.releases and decided.status is InstanceStatus.PAUSED)
        self.was_thawed |= decided.status not in FROZEN or decided.resolution is not None
        self.decision = decided

    @staticmethod
    def _end_of(decided: Decision, body: str) -> str | None:
        """What the row says of a change that is no failure of its own: its time was over, or why it is undone."""
        undone = (decided.snapshot or {}).get("compensation", {}).get("started")
        if decided.status is InstanceStatus.TIMED_OUT:
            return _timed_out((undone or read(body))["milliseconds"])
        if decided.status is InstanceStatus.COMPENSATING and undone and undone["ends"] == "failed":
            return error_text(Incident(undone["code"], undone["message"], undone["detail"]))
        return None

    def _settled(self) -> Batch:
        self.batch.settle(
            self.held,
            self.compiled.chart,
            self.decision,
            sequence=self.sequence,
            head_hash=self.head,
            at=self.at,
            error=self.error,
            was_thawed=self.was_thawed,
            releases=self.releases,
        )
        return self.batch


def _timed_out(milliseconds: int) -> str:
    message = f"its definition allows {milliseconds:,} ms from start to end, and they are over"
    return error_text(Incident("instance.timed_out", message, {"milliseconds": milliseconds}))


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


def input_text(
    type: InboxType, body: str, env: Env, checksum: str, limit: int, standing: Standing, decided: Decision
) -> str:
    """The history row's `input`: everything that the decision read, so that it can be decided again.

    Limits stand there only where they may have decided something: a later, other setting must not change the past.
    """
    bound = (
        f'"contextLimit":{limit},' if decided.incident and decided.incident.code == "limit.context" else ""
    )
    events = f'"aiEventLimit":{standing.max_ai_events},' if decide_ai.reads_limit(standing, type) else ""
    full = '"full":true,' if standing.is_full else ""
    return f'{{{events}"body":{body},{bound}"definition":"{checksum}","env":{dumps(env.to_json())},{full}"kernel":{KERNEL},"type":"{type.value}"}}'


# -- refused and suspected ---------------------------------------------------------------------------------------


def _careful_pass(advancing: Advancing, sweep: Sweep, death: datetime) -> Pass:
    """A pass within a minute of an unexplained death: instances that the dead process may have held go alone.

    Suspect is who has a row from before the death; a backlog that nobody died on strikes nobody.
    """
    page = _peek(advancing, sweep)
    chosen = sweep.choose(page)
    suspected = {row.instance_id for row in page.rows if row.accepted_at <= death}
    clear = [one for one in chosen.ids if one not in suspected]
    suspects = [one for one in chosen.ids if one in suspected]
    done = _stepped(advancing, lambda tx: _lock(tx, clear)) if clear else NOTHING
    careful = [_step_suspect(advancing, one) for one in suspects]
    touched = tuple(one for one, steps in zip(suspects, careful, strict=True) if steps is not None)
    advanced = done.instances + len(touched)
    return Pass(
        done.steps + sum(steps or 0 for steps in careful),
        advanced,
        done.tasks,
        sweep.note(chosen, found=advanced > 0, left=done.left),
        done.changed + touched,
    )


def _step_suspect(advancing: Advancing, instance_id: InstanceId) -> int | None:
    """Strike an instance and step it alone, before the next one is struck: only who was being stepped pays for a death.

    The turn keeps others from striking it between our strike and our step; they would count a death that nobody died.
    Returns its steps, or None when somebody else has its turn or holds it.
    """
    with advancing.database.reading() as turn:
        if not instances.take_turn(turn, instance_id):
            return None
        strikes = _strike(advancing, instance_id)
        if strikes is None:
            return None
        if strikes < STRIKES:
            return _alone(advancing, instance_id)
    message = f"stepping this instance ended its process {STRIKES - 1} times; it is not tried again by itself"
    log.error("instance.poison", instance_id=instance_id)
    return _give_up_alone(advancing, instance_id, Incident("engine.poison", message, {}))


def _strike(advancing: Advancing, instance_id: InstanceId) -> int | None:
    """Count, in a transaction of its own, that this instance is about to be stepped.

    None where somebody else holds it, or has stepped it since we looked: no step would take such a strike back.
    """

    def count(tx: Connection) -> int | None:
        locked = instances.lock_ready(tx, [instance_id])
        if not locked or not inbox.count_waiting(tx, instance_id):
            return None
        instances.strike(tx, [instance_id])
        return locked[0].strikes + 1

    return advancing.database.run(count)


def _each_alone(advancing: Advancing, ids: Sequence[InstanceId]) -> Pass:
    """Step instances one by one, so that only the one at fault suffers."""
    done = {id_: steps for id_ in ids if (steps := _alone(advancing, id_)) is not None}
    return Pass(sum(done.values()), len(done), changed=tuple(done))


def _alone(advancing: Advancing, instance_id: InstanceId) -> int | None:
    """Step one instance in a transaction of its own, or give it up; its steps, None where not even that could be stored."""
    try:
        return advancing.database.run(lambda tx: _one(advancing, tx, instance_id))
    except Exception as error:
        if is_trouble(error) or isinstance(error, LostRace):
            raise
        reason = str(error.orig if isinstance(error, DBAPIError) else error)
        log.error("instance.refused", instance_id=instance_id, reason=reason[:500])
        message = f"the database refused this step: {storable(reason)[:1_000]}"
        return _give_up_alone(advancing, instance_id, Incident("engine.rejected", message, {}))


def _give_up_alone(advancing: Advancing, instance_id: InstanceId, incident: Incident) -> int | None:
    try:
        advancing.database.run(lambda tx: _give_up(advancing, tx, instance_id, incident))
    except Exception as error:
        if is_trouble(error):
            raise
        # It stays in the inbox, and in the log at each look; what must not happen is that it stops those behind it.
        log.exception("instance.stuck", instance_id=instance_id, code=incident.code)
        return None
    return 0


def _one(advancing: Advancing, tx: Connection, instance_id: InstanceId) -> int:
    ready = _lock(tx, [instance_id])
    return _advance_locked(advancing, tx, ready.locked, ready.rows).steps if ready.locked else 0


def _give_up(advancing: Advancing, tx: Connection, instance_id: InstanceId, incident: Incident) -> None:
    for held in instances.lock_ready(tx, [instance_id]):
        rows = inbox.read_ready(tx, [held.id])
        compiled = advancing.charts.fetch(tx, [held.definition_id])[held.definition_id]
        now = read_now(tx)
        batch = _Stepping(advancing, held, compiled, now).give_up(incident, rows)
        batch.save(tx, advancing.limits)
