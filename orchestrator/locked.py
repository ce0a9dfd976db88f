"""Instances in one transaction: locked, their inboxes read, stepped, and everything saved."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import groupby

from sqlalchemy import Connection

from common import faults
from common.clock import ReadClock
from common.commands.configs import Wanted, read_wanted, scope_id_of
from common.db import TASK_RUNNER_QUEUE, note_bell
from common.db.tables import InboxType
from common.ids import InstanceId
from common.queues.answers import Answer
from common.queues.offers import name_of
from common.store import inbox, instances
from common.store.inbox import InboxRow
from common.store.instances import LockedInstance
from common.store.ready import Ready
from orchestrator.advancing import Advancing
from orchestrator.answers import for_this_step, note_receipts, row_of
from orchestrator.batch import Batch
from orchestrator.charts import CompiledChart
from orchestrator.light_calls import LightCalls
from orchestrator.passed import Pass
from orchestrator.places import find_full
from orchestrator.stepped import Stepped, begin_instance
from orchestrator.stepping import Config
from statechart.record import record

STEP_BUDGET = 0.1
"""Seconds of stepping in one transaction; instances that are left over are taken by the next."""


BEGINNING = 0.4
"""Of that time, after which no further instance is begun beside those that light handlers take on: in one transaction to their end costs least."""
NO_LIGHT_CALLS = LightCalls()
"""For batches in which a handler would only be one more that may be at fault."""


@record
class Unsaved:
    """A batch that is decided: who was `locked` at `now`, who was `stepped`, who is `left`, and the answers that were `taken`."""

    now: datetime
    locked: list[InstanceId]
    stepped: dict[InstanceId, Stepped]
    left: tuple[InstanceId, ...]
    taken: dict[InstanceId, Answer]


def lock_free(tx: Connection, ids: Sequence[InstanceId]) -> Ready:
    """Lock those of `ids` that are free, then, in a new statement, read what is in their inboxes."""
    locked = instances.lock_ready(tx, ids) if ids else []
    if not locked:
        return Ready(is_all=False)
    faults.hit("after_lock")
    return Ready(False, locked=locked, rows=inbox.read_ready(tx, [held.id for held in locked]))


def advance_locked(
    advancing: Advancing,
    tx: Connection,
    locked: list[LockedInstance],
    rows: list[InboxRow],
    answers: Sequence[Answer] = (),
    *,
    light: LightCalls = NO_LIGHT_CALLS,
) -> Pass:
    """Step locked instances through their rows until the budget is used up, and save everything; the caller commits.

    Of `answers` those are taken whose instances have nothing else to step; their ends are written as well. `light` calls
    the light handlers that they ask for, and they go on with what those return.
    """
    return save_stepped(advancing, tx, step_locked(advancing, tx, locked, rows, answers, light=light))


def step_locked(
    advancing: Advancing,
    tx: Connection,
    locked: list[LockedInstance],
    rows: list[InboxRow],
    answers: Sequence[Answer] = (),
    *,
    light: LightCalls = NO_LIGHT_CALLS,
) -> Unsaved:
    """The first half of `advance_locked`: everything is decided, nothing is written."""
    by_instance = {id_: list(group) for id_, group in groupby(rows, key=lambda row: row.instance_id)}
    taken = for_this_step(answers, locked, by_instance)
    by_instance.update((id_, [row_of(answer)]) for id_, answer in taken.items())
    _add_parked(tx, by_instance)
    charts = advancing.charts.fetch(tx, (held.definition_id for held in locked))
    configs = _read_configs(tx, [held for held in locked if held.id in by_instance], charts)
    full = find_full(tx, [held for held in locked if held.id in by_instance], by_instance, charts)
    now = max(held.now for held in locked)
    began = time.perf_counter()
    deadline, began_until = began + STEP_BUDGET, began + STEP_BUDGET * BEGINNING
    stepped: dict[InstanceId, Stepped] = {}
    left: tuple[InstanceId, ...] = ()
    with light.of_batch(ReadClock.just_read(now), deadline) as calling:
        for at, held in enumerate(locked, start=1):
            waiting = by_instance.get(held.id)
            if not waiting:  # its rows were consumed between the page and the lock: an ordinary race
                continue
            faults.hit("in_step", held.business_key)
            chart, config = charts[held.definition_id], configs.get(held.id, {})
            one = begin_instance(
                advancing.step_limits, held, waiting, chart, now, deadline, config, held.id in full
            )
            stepped[held.id] = one
            if calling is not None:
                calling.ask(one)
            if time.perf_counter() > (
                began_until if calling is not None and calling.has_called else deadline
            ):
                left = tuple(other.id for other in locked[at:])
                break
        if calling is not None:
            calling.wait()
    return Unsaved(now, [held.id for held in locked], stepped, left, taken)


def save_stepped(advancing: Advancing, tx: Connection, unsaved: Unsaved) -> Pass:
    """The second half of `advance_locked`, in the same transaction, by whichever thread: everything is written."""
    batch = Batch(unsaved.now)
    for one in unsaved.stepped.values():
        batch.merge(one.settled())
    advanced = list(unsaved.stepped)
    answered = [unsaved.taken[id_] for id_ in advanced if id_ in unsaved.taken]
    batch.ended += [answer.end for answer in answered]
    batch.save(tx, advancing.limits, advancing.offers)
    note_receipts(tx, answered)
    if batch.due_tasks:
        note_bell(tx, TASK_RUNNER_QUEUE, *batch.due_tasks)
    for worker, ids in batch.handed.items():
        note_bell(tx, name_of(worker), *ids, *batch.told.get(worker, ()))
    under_way = batch.under_way
    faults.hit("before_commit")
    # A lock that found an empty inbox still counts as work: the next pass must look again before it may sleep.
    return Pass(
        batch.steps, len(unsaved.locked), len(batch.lent.ended) + len(batch.due_tasks) + sum(map(len, batch.handed.values())), left=unsaved.left, changed=tuple(one for one in advanced if one not in under_way),
        answered=frozenset(answer.end.claim for answer in answered), starts_items=batch.starts_items,
        due_in=batch.due_in, opened=batch.opened, asking=batch.asking, vacated=batch.vacated, has_published=batch.emitted.has_published,
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
