"""The same script for the kit and for the real engine on SQLite; after each line both must have come to the same."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select

from common.canonical import dumps, read
from common.clock import instant_text
from common.commands.incidents import resolve_incident
from common.config import Limits
from common.db.tables import inbox, incidents, instances, tasks, timers
from common.store import history
from common.store.incidents import read_open
from signalbox.testing import Run, Workflow
from signalbox.testing.memory import Instance
from tests.support.engine import Engine
from tests.support.manual_clock import ManualClock

Answering = Callable[[Any, int], Any]
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def unnamed(value: Any) -> Any:
    """The value with every id replaced by its turn: the two sides make their own ids."""
    seen: dict[str, str] = {}
    text = _ID.sub(
        lambda found: seen.setdefault(found[0], f"id-{len(seen) + 1}"), json.dumps(value, default=_text)
    )
    return json.loads(text)


def _text(value: Any) -> str:
    return instant_text(value) if isinstance(value, datetime) else str(value)


@dataclass
class Both:
    """One instance, its children and its neighbours, on both sides."""

    engine: Engine
    clock: ManualClock
    workflow: Workflow
    run: Run = field(init=False)
    instance_id: str = field(init=False)

    @classmethod
    def begin(
        cls,
        engine: Engine,
        clock: ManualClock,
        document: Mapping[str, Any],
        *,
        others: tuple[Mapping[str, Any], ...] = (),
        answers: Mapping[str, Answering] | None = None,
        handlers: Mapping[str, Callable[..., Any]] | None = None,
        **request: Any,
    ) -> Both:
        """Start an instance of `document` on both sides; `answers` and `handlers` by task type."""
        both = cls(engine, clock, Workflow.load(document, at=clock.now(), handlers=engine.registry))
        for type, function in (handlers or {}).items():
            engine.handler(type, function)
        for other in others:
            both.workflow.definition(other)
            engine.apply(other)
        for type, answer in (answers or {}).items():
            both.workflow.task(type, answer)
            engine.handler(type, lambda input, context, answer=answer: answer(input, context.attempt))
        both.run = both.workflow.start(**request)
        both.instance_id = str(engine.start(document, **request))
        return both.agreed()

    # -- saying ------------------------------------------------------------------------------------------------------

    def send(self, type: str, **members: Any) -> Both:
        self.run.send(type, **members)
        self.engine.send(self.instance_id, type, **members)
        return self.agreed()

    def send_child(self, type: str, **members: Any) -> Both:
        """To the newest child, which is the only one of its definition that lives."""
        child = self.run.children[-1]
        child.send(type, **members)
        key = child._instance.held.definition_key
        alive = "('pending','running','waiting','paused','failed')"
        rows = self.engine.execute(
            f"SELECT id FROM instances WHERE definition_key = '{key}' AND parent_id IS NOT NULL AND status IN {alive}"
        )
        self.engine.send(str(rows[-1][0]), type, **members)
        return self.agreed()

    def send_item(self, index: int, type: str, **members: Any) -> Both:
        """To the child of an item of a MAP."""
        child, instance_id = self._child_of_item(index)
        child.send(type, **members)
        self.engine.send(instance_id, type, **members)
        return self.agreed()

    def cancel_item(self, index: int) -> Both:
        """End the child of an item of a MAP by hand."""
        child, instance_id = self._child_of_item(index)
        child.cancel()
        self.engine.control("cancel", instance_id)
        return self.agreed()

    def _child_of_item(self, index: int) -> tuple[Run, str]:
        """The child that answers for an item, on both sides."""
        [child] = [
            one for one in self.run.children if (one._instance.held.parent_key or "").endswith(f"#{index}")
        ]
        rows = self.engine.execute("SELECT id, parent_key FROM instances WHERE parent_key IS NOT NULL")
        [instance_id] = [str(row[0]) for row in rows if row[1].endswith(f"#{index}")]
        return child, instance_id

    def say(self, verb: str, **more: Any) -> Both:
        """A control verb."""
        getattr(self.run, verb)(**more, **({} if verb == "step" else {"reason": "why not"}))
        self.engine.control(
            verb, self.instance_id, **more, **({} if verb == "step" else {"reason": "why not"})
        )
        return self.agreed()

    def skip(self, output: Any = None) -> Both:
        self.run.skip(output)
        with self.engine.database.transaction() as tx:
            [one] = read_open(tx, self.engine.tenant_id, self.instance_id)
            resolve_incident(
                tx, self.engine.tenant_id, one.id, way="skip", output=output, reason=None, actor="test",
                limits=Limits(),
            )  # fmt: skip
        return self.agreed()

    def together(self, *events: str | tuple[str, str]) -> Both:
        """Events and ("say", verb) pairs, accepted before the first of them is taken."""
        with self.run.together():
            for event in events:
                if isinstance(event, str):
                    self.run.send(event)
                    self.engine.send(self.instance_id, event)
                else:
                    getattr(self.run, event[1])()
                    self.engine.control(event[1], self.instance_id)
        return self.agreed()

    def advance(self, **duration: float) -> Both:
        """Let time go by on both sides, stopping wherever the kit finds something due."""
        until = self.run.now + timedelta(**duration)
        while (due := self.run._world.next_due()) is not None and due <= until:
            self._move(due)
        self._move(until)
        return self

    def _move(self, instant: datetime) -> None:
        self.run._world.advance_to(instant)
        self.clock.advance(instant - self.clock.now())
        self.agreed()

    # -- comparing -----------------------------------------------------------------------------------------------------

    def agreed(self) -> Both:
        """Let the engine settle, then compare every row."""
        self.engine.settle()
        real = self.real()
        played = self.played()
        assert played == real
        return self

    def real(self) -> list[Any]:
        """Every instance of the database, told in the members that both sides have."""
        with self.engine.database.reading() as tx:
            told = []
            for row in tx.execute(select(instances)).mappings():
                of = {table: table.c.instance_id == row["id"] for table in (tasks, timers, incidents, inbox)}
                chain = history.read_chain(tx, self.engine.tenant_id, row["id"])
                told.append(
                    {
                        "definition": [row["definition_key"], row["definition_version"], row["business_key"]],
                        "status": row["status"],
                        "snapshot": read(row["snapshot"]) if row["snapshot"] else None,
                        "error": read(row["error"]) if row["error"] else None,
                        "output": read(row["output"]) if row["output"] else None,
                        "instants": [row["started_at"], row["finished_at"], row["deadline_at"]],
                        "history": [
                            (one.sequence, one.at, one.actor, read(one.changes or "")) for one in chain
                        ],
                        "tasks": [
                            [task[name] for name in TASK] + [bool(task["held"]), _read(task["error"])]
                            for task in tx.execute(
                                select(tasks).where(of[tasks]).order_by(tasks.c.id)
                            ).mappings()
                        ],
                        "timers": sorted(
                            (timer["key"], _text(timer["due_at"]))
                            for timer in tx.execute(select(timers).where(of[timers])).mappings()
                            if timer["status"] == "armed"
                        ),
                        "incidents": [
                            (one["code"], one["status"] == "open", one["resolution"])
                            for one in tx.execute(
                                select(incidents).where(of[incidents]).order_by(incidents.c.id)
                            ).mappings()
                        ],
                        "inbox": [
                            (one["type"], bool(one["parked"]))
                            for one in tx.execute(
                                select(inbox).where(of[inbox]).order_by(inbox.c.id)
                            ).mappings()
                        ],
                    }
                )
        return _in_order(told)

    def played(self) -> list[Any]:
        """Every instance of the kit, told in the same members."""
        return _in_order([self._played(one) for one in self.run._world.memory.instances.values()])

    def _played(self, instance: Instance) -> dict[str, Any]:
        memory, held = self.run._world.memory, instance.held
        return {
            "definition": [held.definition_key, held.definition_version, held.business_key],
            "status": held.status,
            "snapshot": read(held.snapshot) if held.snapshot else None,
            "error": read(held.error) if held.error else None,
            "output": instance.output,
            "instants": [held.started_at, held.finished_at, held.deadline_at],
            "history": [
                (row["sequence"], row["at"], row["actor"], read(row["changes"]))
                for row in memory.history
                if row["instance_id"] == held.id
            ],
            "tasks": [
                [getattr(task, name) for name in TASK] + [task.held, task.error]
                for task in memory.tasks.values()
                if task.instance_id == held.id
            ],
            "timers": sorted(
                (timer.key, _text(timer.due_at)) for timer in memory.timers if timer.instance_id == held.id
            ),
            "incidents": [
                (one.code, one.is_open, one.resolution)
                for one in memory.incidents
                if one.instance_id == held.id
            ],
            "inbox": [
                (row.type, row.id in memory.parked) for row in memory.inbox if row.instance_id == held.id
            ],
        }


TASK = (
    "key", "type", "name", "status", "attempt", "lost", "max_attempts", "run_at", "start_by_at", "finish_by_at",
    "finished_at", "input", "output", "asked_as", "state", "gated", "item_index",
    "assignee", "candidates", "due_at",
)  # fmt: skip


def _read(text: str | None) -> Any:
    """A task's error as told; the kit keeps no trace of the failing code, and tasks do not show one."""
    return read(text) if text else None


def _in_order(told: list[Any]) -> list[Any]:
    return sorted((unnamed(one) for one in told), key=dumps)
