"""The engine in process, one turn at a time: what the two workers do, without Celery and without waiting.

A test applies a definition, starts instances, and says when the orchestrator advances and when a runner works; so that a
race, a crash or a clock can be put exactly between two turns. Everything runs on a real database.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from common.breaker import BreakerPolicy
from common.canonical import dumps, read
from common.commands import control
from common.commands.definitions import document_text
from common.commands.limits import Runs, claim_limited, look
from common.commands.outcome import Outcome, Reported, report_outcomes
from common.commands.send import send_event
from common.commands.start import Start, start_instance
from common.config import Limits
from common.db import Database
from common.db.now import read_now
from common.ids import InstanceId, TenantId, WorkerId, new_id, new_token
from common.lifecycle import InstanceStatus
from common.retention import retention_text
from common.store import claims, definitions, history, instances, keys
from common.store.accepting import read_standing
from common.store.claims import TaskClaim
from orchestrator.advance import advance_ready
from orchestrator.advancing import Advancing
from orchestrator.map_children import start_items
from orchestrator.passed import Pass
from orchestrator.places import give
from orchestrator.schedules import fire_due_schedules
from orchestrator.sweep import expire_due_leases, time_out_due_tasks, wake_waiting_for_breakers
from orchestrator.timers import fire_due_timers
from orchestrator.triggers import start_published
from task_runner.breakers import Breakers
from task_runner.call import call_handler, ended
from task_runner.context import TaskContext
from task_runner.metadata_rows import MetadataRows
from task_runner.registry import PLAIN, SYSTEM, Handler, Options, Registry, make_handler
from task_runner.resolve import NOTHING_PREPARED, Prepared, Resolver

LIMITS = Limits()


@dataclass
class Engine:
    """One tenant on one database, with handlers of the test's own."""

    database: Database
    tenant_id: TenantId
    registry: Registry = field(default_factory=Registry)
    lease: timedelta = timedelta(seconds=8)
    worker: WorkerId = field(default_factory=lambda: WorkerId(new_id()))
    resolver: Resolver = field(default_factory=lambda: Resolver({}))
    breakers: BreakerPolicy = field(default_factory=BreakerPolicy)

    @classmethod
    def on(cls, database: Database, tenant: str = "default") -> Engine:
        with database.transaction() as tx:
            return cls(database, keys.ensure_tenant(tx, tenant))

    def __post_init__(self) -> None:
        self.advancing = Advancing(self.database, LIMITS.max_context_bytes)

    # -- saying things ---------------------------------------------------------------------------------------------

    def handler(self, name: str, function: Callable[..., Any], options: Options = PLAIN) -> None:
        """Register a handler for task type `name`, and for SYSTEM tasks of that name."""
        self.registry.add(make_handler(name, function, options=options))

    def apply(self, document: Mapping[str, Any]) -> str:
        """Store a document as the next, active version of its key; the key."""
        text = document_text(document)
        key = str(document["id"])
        with self.database.transaction() as tx:
            newest = definitions.find_newest(tx, self.tenant_id, key)
            version = newest.facts.version + 1 if newest else 1
            definitions.insert_version(
                tx,
                self.tenant_id,
                definition_id=new_id(),
                key=key,
                version=version,
                document=text,
                checksum=hashlib.sha256(text.encode()).hexdigest(),
                warnings="[]",
                retention=retention_text(document),
                created_by="test",
                now=read_now(tx),
            )
            definitions.activate(tx, self.tenant_id, key, version)
        return key

    def start(self, document: Mapping[str, Any] | str, **request: Any) -> InstanceId:
        """Start an instance of a key, or of a document that is applied first."""
        key = document if isinstance(document, str) else self.apply(document)
        with self.database.transaction() as tx:
            wanted = Start(definition_key=key, **request)
            return start_instance(tx, self.tenant_id, wanted, actor="test", limits=LIMITS).instance_id

    def send(self, instance_id: str, type: str, **members: Any) -> None:
        with self.database.transaction() as tx:
            send_event(
                tx, self.tenant_id, instance_id, {"type": type, **members}, actor="test", limits=LIMITS
            )

    def control(self, verb: str, instance_id: str, **more: Any) -> None:
        """Say a control verb: pause, resume, step, cancel, retry, or restart with `state` and `context`."""
        with self.database.transaction() as tx:
            about = (tx, self.tenant_id, instance_id)
            match verb:
                case "step":
                    control.step_instance(*about, actor="test")
                case "restart":
                    given = {"state": None, "context": None, "reason": None, **more}
                    control.restart_instance(*about, actor="test", limits=LIMITS, **given)
                case _:
                    command = getattr(control, f"{verb}_instance")
                    command(*about, actor="test", **{"reason": None, **more})

    # -- taking turns ----------------------------------------------------------------------------------------------

    def advance(self) -> Pass:
        """What the orchestrator does at a ring: step until nothing is ready."""
        done = advance_ready(self.advancing, until=time.monotonic() + 30)
        while start_items(self.database, LIMITS) or give(self.database, self.advancing.vacancies.take()):
            more = advance_ready(self.advancing, until=time.monotonic() + 30)
            done = replace(done, steps=done.steps + more.steps)
        return done

    def claim(self, limit: int = 100) -> list[TaskClaim]:
        """What a runner does with free slots."""
        claims = self.claim_unlimited(limit)
        return claims + self.claim_limited(limit - len(claims))

    def claim_limited(self, limit: int = 100) -> list[TaskClaim]:
        """What a runner does with its share of slots for tasks that limits hold for."""
        runs = Runs(self.registry.types(), self.registry.functions())
        with self.database.reading() as tx:
            fitting = look(tx, runs, after=None).fitting
        if not fitting:
            return []
        with self.database.transaction() as tx:
            taken = claim_limited(
                tx, fitting, runs, worker=self.worker, token=new_token(), limit=limit, lease=self.lease
            )
        return list(taken.claims)

    def claim_unlimited(self, limit: int = 100) -> list[TaskClaim]:
        with self.database.transaction() as tx:
            due = claims.claim_due(
                tx,
                worker=self.worker,
                token=new_token(),
                types=self.registry.types(),
                functions=self.registry.functions(),
                limit=limit,
                lease=self.lease,
            )
            return list(Breakers(self.breakers).admit(tx, due.claims, self._find))

    def _find(self, claim: TaskClaim) -> Handler | None:
        return self.registry.get(claim.name if claim.type == SYSTEM else claim.type)

    def call(self, claim: TaskClaim) -> Outcome:
        context = TaskContext(claim, metadata=MetadataRows(claim, self.database))
        outcome = call_handler(
            self.registry,
            claim,
            context,
            max_output_bytes=LIMITS.max_output_bytes,
            prepared=self._prepared(claim),
        )
        return replace(outcome, progress=context.last_progress)

    def _prepared(self, claim: TaskClaim) -> Prepared:
        if claim.secrets is None:
            return NOTHING_PREPARED
        with self.database.reading() as tx:
            return self.resolver.prepare(tx, [claim])

    def succeeded(self, claim: TaskClaim, output: Any = None) -> Outcome:
        """The outcome of a handler that returned `output`, without calling one."""
        return ended(claim, output=dumps(output))

    def attempts(self) -> list[tuple[int, str | None]]:
        """(number, outcome) of every attempt, oldest first; outcome None: it has not ended."""
        rows = self.execute("SELECT attempt, outcome FROM attempts ORDER BY started_at, attempt, token")
        return [(attempt, outcome) for attempt, outcome in rows]

    def report(self, *outcomes: Outcome) -> Reported:
        with self.database.transaction() as tx:
            return report_outcomes(tx, outcomes)

    def work(self) -> int:
        """Claim, call and report everything that is due now; how many attempts that were."""
        done = 0
        while batch := self.claim():
            self.report(*[self.call(claim) for claim in batch])
            done += len(batch)
        return done

    def settle(self) -> None:
        """Take turns until neither the orchestrator nor the runner finds anything to do."""
        while True:
            fire_due_timers(self.database)
            fire_due_schedules(self.database, LIMITS)
            start_published(self.database, LIMITS)
            expire_due_leases(self.database)
            time_out_due_tasks(self.database)
            wake_waiting_for_breakers(self.database)
            if not self._take_turns():
                return

    def _take_turns(self) -> bool:
        """Step and work until nothing is ready; was there anything?"""
        found = False
        while self.advance().steps or self.work():
            found = True
        return found

    # -- looking ---------------------------------------------------------------------------------------------------

    def status(self, instance_id: str) -> InstanceStatus:
        with self.database.reading() as tx:
            found = read_standing(tx, self.tenant_id, instance_id)
        assert found is not None, f"no instance {instance_id}"
        return found.status

    def snapshot(self, instance_id: str) -> dict[str, Any]:
        with self.database.reading() as tx:
            stored = instances.read_stored(tx, self.tenant_id, instance_id)
        assert stored is not None, f"no instance {instance_id}"
        return dict(read(stored.snapshot or "{}"))

    def context(self, instance_id: str) -> dict[str, Any]:
        return dict(self.snapshot(instance_id)["context"])

    def entries(self, instance_id: str) -> list[dict[str, Any]]:
        """Every dotted entry of the history, in order."""
        with self.database.reading() as tx:
            rows = list(history.read_chain(tx, self.tenant_id, instance_id))
        return [entry for row in rows for entry in read(row.changes or "[]")]

    def entry_types(self, instance_id: str) -> list[str]:
        return [entry["type"] for entry in self.entries(instance_id)]

    def now(self) -> datetime:
        with self.database.reading() as tx:
            return read_now(tx)

    def execute(self, statement: str, **parameters: Any) -> list[Any]:
        """Run SQL of the test's own in a transaction; the rows, where there are any."""
        with self.database.transaction() as tx:
            result = tx.exec_driver_sql(statement, parameters or None)
            return list(result) if result.returns_rows else []
