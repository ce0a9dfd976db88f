"""What an instance emits starts others: the step keeps the event for each trigger that answers it, and this starts them.

Theory of operation. A batch with `emit` effects asks once which triggers answer, in its own transaction, and writes a row of
`published` for each: the event is published if and only if the step is. Another transaction takes such rows, starts the instances and
deletes the rows: each once, whoever dies between the two. So no step waits for the business keys of what it causes, and a
trigger that cannot start harms no step. Batches that emit nothing ask nothing.

What was started or refused stands in the emitter's history, as a record. An instance that was started this way is one deeper than its emitter,
and depth is bounded: triggers that answer each other without end are refused after a while.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from common.canonical import dumps, read, size, storable
from common.commands.publish import Reaction, start_by_triggers
from common.config import Limits
from common.db import ORCHESTRATOR_QUEUE, Database, is_trouble, note_bell
from common.db.now import read_now
from common.db.tables import InboxType
from common.errors import Invalid
from common.event_names import is_well_formed
from common.ids import TenantId
from common.store import inbox, instances
from common.store import triggers as store
from common.store.instances import LockedInstance
from common.store.triggers import Published
from statechart.triggers import patterns_of

log = structlog.get_logger("signalbox.orchestrator")

START_SECONDS = 0.25


@dataclass
class Emitted:
    """What the steps of a batch have emitted, collected first and kept once."""

    _events: list[tuple[LockedInstance, dict[str, Any]]] = field(default_factory=list)
    has_published: bool = False

    def add(self, emitter: LockedInstance, event: dict[str, Any]) -> None:
        self._events.append((emitter, event))

    def merge(self, other: Emitted) -> None:
        self._events += other._events

    def save(self, tx: Connection, *, now: datetime) -> None:
        """Keep each event for the triggers that answer it. Asks nothing where nothing was emitted."""
        known = [(held, event, _patterns(event)) for held, event in self._events]
        patterns = {pattern for _, _, some in known for pattern in some}
        if not patterns:
            return
        answering: dict[tuple[TenantId, str], list[str]] = {}
        for tenant_id, pattern, trigger_id in store.find_ids_matching(
            tx, {held.tenant_id for held, _ in self._events}, patterns
        ):
            answering.setdefault((tenant_id, pattern), []).append(trigger_id)
        rows = [
            {
                "tenant_id": held.tenant_id,
                "trigger_id": trigger_id,
                "emitter_id": held.id,
                "depth": held.depth + 1,
                "event": dumps(event),
                "published_at": now,
            }
            for held, event, some in known
            for pattern in some
            for trigger_id in answering.get((held.tenant_id, pattern), ())
        ]
        if rows:
            store.publish(tx, rows)
            self.has_published = True
            note_bell(tx, ORCHESTRATOR_QUEUE)


def _patterns(event: dict[str, Any]) -> Iterable[str]:
    """Patterns that match an emitted event; none for a name that nobody could write a trigger for."""
    name = event.get("type")
    return set(patterns_of(name)) if isinstance(name, str) and is_well_formed(name) else ()


# -- starting -----------------------------------------------------------------------------------------------------


def start_published(database: Database, limits: Limits, *, seconds: float = START_SECONDS) -> int:
    """Start what emitted events cause, for about `seconds`; how many rows were taken.

    A transaction has 100 rows, or fewer where these take longer than that: a condition may take its time, and on SQLite nobody else writes meanwhile.
    """
    until = time.monotonic() + seconds
    taken = 0
    while True:
        count = database.run(lambda tx: _start_batch(tx, limits, until))
        taken += count
        if count == 0 or time.monotonic() > until:
            return taken


def _start_batch(tx: Connection, limits: Limits, until: float) -> int:
    waiting = store.lock_published(tx)
    if not waiting:
        return 0
    now = read_now(tx)
    records: list[tuple[Published, Reaction]] = []
    taken: list[int] = []
    # Over several events there is no one order of business keys: the victim of a deadlock is run again.
    for one in waiting:
        records += [(one, reaction) for reaction in _react(tx, one, limits)]
        taken.append(one.id)
        if time.monotonic() > until:
            break
    _record(tx, records, now)
    store.consume(tx, taken)
    return len(taken)


def _react(tx: Connection, one: Published, limits: Limits) -> list[Reaction]:
    """Start what one event causes, in a savepoint: what the database refuses of it is refused alone."""
    trigger = store.read(tx, one.tenant_id, one.trigger_id)
    if trigger is None or not (trigger.enabled and trigger.active):
        return []  # taken away since
    try:
        with tx.begin_nested():
            if size(one.event) > limits.max_event_bytes:
                raise Invalid(
                    f"the event is {size(one.event)} bytes, at most {limits.max_event_bytes} are allowed",
                    code="trigger.failed",
                )
            return start_by_triggers(tx, [trigger], one.event, actor=None, depth=one.depth, limits=limits)
    except Invalid as error:
        return [Reaction("refused", None, trigger.id, trigger.definition_key, error)]
    except DBAPIError as error:
        if is_trouble(error):
            raise
        refused = Invalid(f"the database refused it: {str(error.orig)[:500]}", code="engine.rejected")
        return [Reaction("refused", None, trigger.id, trigger.definition_key, refused)]


def _record(tx: Connection, records: list[tuple[Published, Reaction]], now: datetime) -> None:
    """Tell in each emitter's history what its event has caused; one that is gone is told nothing."""
    emitters: dict[TenantId, set[str]] = {}
    for one, _ in records:
        emitters.setdefault(one.tenant_id, set()).add(one.emitter_id)
    there = {id_ for tenant_id, ids in emitters.items() for id_ in instances.existing(tx, tenant_id, ids)}
    rows = []
    for one, reaction in records:
        if reaction.error is not None:
            log.warning(
                "trigger.refused",
                tenant_id=one.tenant_id,
                trigger_id=one.trigger_id,
                code=reaction.error.code,
                error=reaction.error.message,
            )
        if one.emitter_id in there:
            body = dumps({"entry": _entry(one, reaction)})
            rows.append(
                inbox.new_row(
                    one.tenant_id, one.emitter_id, InboxType.RECORD, body, "engine", now, lane=inbox.CONTROL
                )
            )
            note_bell(tx, ORCHESTRATOR_QUEUE, one.emitter_id)
    inbox.put(tx, rows)


def _entry(one: Published, reaction: Reaction) -> dict[str, Any]:
    entry = {
        "type": f"trigger.{reaction.kind}",
        "triggerId": one.trigger_id,
        "definitionKey": reaction.definition_key,
        "eventType": read(one.event)["type"],
        "instanceId": reaction.instance_id,
    }
    if reaction.error is not None:
        error = {"code": reaction.error.code, "message": storable(reaction.error.message)[:2_000]}
        entry["error"] = error
    return entry
