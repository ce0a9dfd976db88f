"""Verifying a history: the chain is intact, every body matches its digest, and replaying it gives the stored snapshot."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection

from common.canonical import dumps, read
from common.clock import instant_text
from common.commands.absent import absent_instance
from common.commands.findings import Finding
from common.db.tables import InboxType
from common.decide import Decision, Standing, decide
from common.decision import UNLIMITED
from common.errors import LimitExceeded
from common.ids import TenantId, is_id
from common.lifecycle import ACTIVE, InstanceStatus
from common.store import history, instances
from common.store.history import Bodies, HistoryRow
from common.store.instances import GENESIS, DefinitionText, StoredInstance
from statechart import KERNEL, Chart, DefinitionInvalid, Env, accepts, load


def verify_instance(
    tx: Connection, tenant_id: TenantId, instance_id: str, *, within: float | None = None
) -> dict[str, Any]:
    """Return {"valid", "entries", "replayed", "erased", "problems"} for one instance.

    `entries` counts history rows. `replayed` is False where a replay was impossible (an erased body, another kernel
    number), which alone does not make a history invalid. The transaction has to see one instant. A history is read
    a few rows at a time, however long it is.

    Raises `NotFound` (`instance.not_found`), and `LimitExceeded` (`max_verify_seconds`) when it takes more than `within` seconds.
    """
    stored = instances.read_stored(tx, tenant_id, instance_id) if is_id(instance_id) else None
    if stored is None:
        raise absent_instance(tx, tenant_id, instance_id)
    until = None if within is None else time.monotonic() + within
    [definition] = instances.read_definitions(tx, [stored.definition_id])
    bodies = history.count_bodies(tx, tenant_id, stored.id)
    chain, told = _Chain(stored), _Told()
    replay = _Replay(stored, definition, is_possible=not bodies.without_input)
    for read_so_far, row in enumerate(history.read_chain(tx, tenant_id, stored.id), start=1):
        chain.add(row)
        if not chain.problems:
            told.add(row)
        replay.add(row)
        if until is not None and time.monotonic() > until:
            raise _takes_long(within, read_so_far, bodies.rows)
    chain.end()
    problems = chain.problems or told.end(bodies)
    problems += replay.end(instances.read_inputs(tx, [stored.id])[stored.id])
    return {
        "valid": not problems,
        "entries": bodies.rows,
        "replayed": replay.was_possible,
        "erased": bodies.without_salt,
        "problems": [problem.to_json() for problem in problems],
    }


def _takes_long(within: float | None, done: int, rows: int) -> LimitExceeded:
    return LimitExceeded(
        f"expected a history that is verified within {within:g} s, found one of {rows:,} rows, of which {done:,} were by then; "
        "`signalbox doctor` verifies every history, however long it takes",
        limit="max_verify_seconds",
        allowed=int(within or 0),
    )


class _Chain:
    """Sequence numbers, digests, hashes and the head: every byte that was stored is what was hashed."""

    def __init__(self, stored: StoredInstance) -> None:
        self.problems: list[Finding] = []
        self._stored = stored
        self._rows = 0
        self._hash = GENESIS
        self._has_gap = False

    def add(self, row: HistoryRow) -> None:
        """Check the next row; behind a gap none is."""
        if self._has_gap:
            return
        self._rows += 1
        if row.sequence != self._rows:
            self._has_gap = True
            self._find("history.gap", f"expected sequence {self._rows}, found {row.sequence}", row)
            return
        if row.previous_hash != self._hash:
            self._find("history.broken", "does not continue the row before it", row)
        if row.salt is not None and row.digest != history.body_digest(
            row.salt, row.input or "", row.changes or ""
        ):
            self._find("history.body_changed", "its body does not match its digest", row)
        hash_ = history.chain_hash(
            row.tenant_id, row.instance_id, row.sequence, row.at, row.actor, row.digest, row.previous_hash
        )
        if row.hash != hash_:
            self._find("history.header_changed", "its header does not match its hash", row)
        self._hash = row.hash

    def end(self) -> None:
        """Check that the instance points at the last row."""
        stored = self._stored
        if not self._has_gap and (stored.sequence != self._rows or stored.head_hash != self._hash):
            message = f"the instance points at sequence {stored.sequence}, the history ends at {self._rows}"
            self.problems.append(Finding("history.head", message))

    def _find(self, code: str, message: str, row: HistoryRow) -> None:
        self.problems.append(Finding(code, message, row.sequence))


class _Told:
    """What the rows of an intact chain tell of: what has succeeded ends no second time, and no body is gone without an erasure.

    A row whose step failed tells of what it took, which changed nothing; the retry of that incident takes it again.
    """

    def __init__(self) -> None:
        self._problems: list[Finding] = []
        self._succeeded: set[str] = set()
        self._told_in_vain: set[str] = set()
        self._tells_of_erasure = False

    def add(self, row: HistoryRow) -> None:
        told: set[str] = set()
        entries = read(row.changes or "[]")
        for entry in entries:
            if entry["type"] == "incident.resolved" and entry["way"] == "retry":
                self._succeeded -= self._told_in_vain
                self._told_in_vain = set()
            self._tells_of_erasure |= entry["type"] == "instance.erased"
            if entry["type"] == "child.completed" and f"child {entry['key']}" in self._succeeded:
                message = f'child "{entry["key"]}" completed twice'
                self._problems.append(Finding("child.told_twice", message, row.sequence))
            if entry["type"] == "child.completed":
                told.add(f"child {entry['key']}")
            # That would be a result that counted twice. (A failure may be retried.)
            if entry["type"] in ("task.succeeded", "task.failed") and entry["key"] in self._succeeded:
                message = f'task "{entry["key"]}" ended although it had succeeded'
                self._problems.append(Finding("task.told_twice", message, row.sequence))
            if entry["type"] == "task.succeeded":
                told.add(entry["key"])
            self._succeeded |= told
        if any(entry["type"] == "instance.failed" for entry in entries):
            self._told_in_vain = told

    def end(self, bodies: Bodies) -> list[Finding]:
        """What was found. Who took a body without telling of it has also kept the history from being replayed."""
        if bodies.without_salt and not self._tells_of_erasure:
            message = f"its body is gone ({bodies.without_salt} of {bodies.rows} are), and no row tells of an erasure"
            return [*self._problems, Finding("history.body_gone", message, bodies.first_without_salt)]
        return self._problems


class _Replay:
    """The rows decided again, from the first one: each must give the changes that it gave, and all together the stored snapshot."""

    def __init__(self, stored: StoredInstance, definition: DefinitionText, *, is_possible: bool) -> None:
        self.was_possible = is_possible
        self._stored = stored
        self._definition = definition
        self._found: list[Finding] = []
        self._is_over = not is_possible
        self._chart: Chart | None = None
        self._standing = Standing(InstanceStatus.PENDING, None, {}, 1)
        self._decision = Decision(InstanceStatus.PENDING, None, None, [])
        if is_possible:
            try:
                self._chart = load(read(definition.document))
            except DefinitionInvalid as error:
                self._stop(
                    Finding("replay.definition", f"the definition no longer compiles: {error}"),
                    was_possible=False,
                )
            except Exception as error:  # noqa: BLE001 - whatever somebody has made of it
                self._stop(_raised(error))

    def add(self, row: HistoryRow) -> None:
        """Decide the next row again, until one gives something else."""
        if self._is_over:
            return
        try:
            self._add(row)
        except Exception as error:  # noqa: BLE001 - rows that somebody changed may hold anything, and that is what is asked
            self._stop(_raised(error))

    def end(self, input: str) -> list[Finding]:
        """What was found, the stored row compared with where the replay has come to."""
        if self._is_over:
            return self._found
        try:
            return self._compare(input)
        except Exception as error:  # noqa: BLE001 - as above
            return [_raised(error)]

    def _add(self, row: HistoryRow) -> None:
        assert self._chart is not None, "it is over where there is none"  # noqa: S101
        recorded = read(row.input or "null")
        if recorded["kernel"] != KERNEL:
            self._stop(None, was_possible=False)
            return
        if recorded["definition"] != self._definition.checksum:
            message = "stepped by another document than its definition"
            self._stop(Finding("replay.definition", message, row.sequence))
            return
        self._decision = decision = _again(self._chart, self._stored, self._standing, recorded)
        if dumps(decision.changes) != row.changes:
            self._stop(Finding("replay.changes", "replaying it gives other changes", row.sequence))
        self._standing = Standing(decision.status, decision.snapshot, self._standing.facts, row.sequence + 1)

    def _stop(self, finding: Finding | None, *, was_possible: bool = True) -> None:
        self._is_over = True
        self.was_possible = was_possible
        self._found = [] if finding is None else [finding]

    def _compare(self, input: str) -> list[Finding]:
        assert self._chart is not None, "it is over where there is none"  # noqa: S101
        decision, stored = self._decision, self._stored
        problems = []
        if decision.snapshot_text != stored.snapshot:
            problems.append(
                Finding("replay.snapshot", "replaying the history does not give the stored snapshot")
            )
        if decision.status is not stored.status:
            message = f"replaying gives {decision.status.value}, stored is {stored.status.value}"
            problems.append(Finding("replay.status", message))
        return problems + _columns(self._chart, stored, decision, input)


def _raised(error: Exception) -> Finding:
    return Finding("replay.failed", f"replaying it raises {type(error).__name__}")


def _columns(chart: Chart, stored: StoredInstance, decision: Decision, input: str) -> list[Finding]:
    """The columns that repeat a part of the snapshot, for lists: they must say the same."""
    snapshot = decision.snapshot or {}
    is_completed = decision.status is InstanceStatus.COMPLETED
    wanted: dict[str, tuple[str | None, str | None]] = {
        "configuration": (dumps(snapshot.get("configuration", [])), stored.configuration),
        "output": (dumps(snapshot.get("output")) if is_completed else None, stored.output),
    }
    if decision.snapshot is not None and decision.status in ACTIVE:
        accepts_events = str(accepts(chart, decision.snapshot)), str(stored.accepts_events)
        wanted["accepts_events"] = accepts_events
    if decision.snapshot is not None:
        wanted["input"] = (dumps(snapshot.get("input")), input)
    return [
        Finding(f"replay.{column}", f'the column "{column}" says something else than the history')
        for column, (replayed, found) in wanted.items()
        if replayed != found
    ]


def _again(chart: Chart, stored: StoredInstance, standing: Standing, recorded: dict[str, Any]) -> Decision:
    env = Env.from_json(recorded["env"])
    facts = standing.facts
    if standing.snapshot is None:
        facts = {
            "businessKey": stored.business_key,
            "definitionKey": stored.definition_key,
            "definitionVersion": stored.definition_version,
            "id": stored.id,
            "parentId": stored.parent_id,
            "startedAt": instant_text(env.now),
        }
    return decide(
        chart,
        replace(
            standing,
            facts=facts,
            max_ai_events=recorded.get("aiEventLimit", UNLIMITED),
            is_full=recorded.get("full", False),
        ),
        InboxType(recorded["type"]),
        recorded["body"],
        env,
        max_context_bytes=recorded.get("contextLimit", UNLIMITED),
    )
