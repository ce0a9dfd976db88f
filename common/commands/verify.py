"""Verifying a history: the chain is intact, every body matches its digest, and replaying it gives the stored snapshot."""

from __future__ import annotations

from collections.abc import Sequence
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
from common.ids import TenantId, is_id
from common.lifecycle import ACTIVE, InstanceStatus
from common.store import history, instances
from common.store.history import HistoryRow
from common.store.instances import GENESIS, DefinitionText, StoredInstance
from statechart import KERNEL, Chart, DefinitionInvalid, Env, accepts, load


def verify_instance(tx: Connection, tenant_id: TenantId, instance_id: str) -> dict[str, Any]:
    """Return {"valid", "entries", "replayed", "erased", "problems"} for one instance.

    `entries` counts history rows. `replayed` is False where a replay was impossible (an erased body, another kernel
    number), which alone does not make a history invalid. Raises `NotFound` (`instance.not_found`).
    """
    stored = instances.read_stored(tx, tenant_id, instance_id) if is_id(instance_id) else None
    if stored is None:
        raise absent_instance(tx, tenant_id, instance_id)
    rows = list(history.read_chain(tx, tenant_id, instance_id))
    [definition] = instances.read_definitions(tx, [stored.definition_id])
    problems = check_chain(stored, rows)
    if not problems:
        problems += _told_twice(rows) + _taken_away(rows)
    try:
        replayed, found = _replay(stored, rows, definition, instances.read_inputs(tx, [stored.id])[stored.id])
    except Exception as error:  # noqa: BLE001 - rows that somebody changed may hold anything, and that is what is asked
        replayed, found = True, [Finding("replay.failed", f"replaying it raises {type(error).__name__}")]
    problems += found
    return {
        "valid": not problems,
        "entries": len(rows),
        "replayed": replayed,
        "erased": sum(row.salt is None for row in rows),
        "problems": [problem.to_json() for problem in problems],
    }


def check_chain(stored: StoredInstance, rows: Sequence[HistoryRow]) -> list[Finding]:
    """Check sequence numbers, digests, hashes and the head: every byte that was stored is what was hashed."""
    problems = []
    previous = GENESIS
    for expected, row in enumerate(rows, start=1):
        if row.sequence != expected:
            problems.append(
                Finding("history.gap", f"expected sequence {expected}, found {row.sequence}", row.sequence)
            )
            return problems
        if row.previous_hash != previous:
            problems.append(Finding("history.broken", "does not continue the row before it", row.sequence))
        if row.salt is not None and row.digest != history.body_digest(
            row.salt, row.input or "", row.changes or ""
        ):
            problems.append(
                Finding("history.body_changed", "its body does not match its digest", row.sequence)
            )
        hash_ = history.chain_hash(
            row.tenant_id, row.instance_id, row.sequence, row.at, row.actor, row.digest, row.previous_hash
        )
        if row.hash != hash_:
            problems.append(
                Finding("history.header_changed", "its header does not match its hash", row.sequence)
            )
        previous = row.hash
    if stored.sequence != len(rows) or stored.head_hash != previous:
        problems.append(
            Finding(
                "history.head",
                f"the instance points at sequence {stored.sequence}, the history ends at {len(rows)}",
            )
        )
    return problems


def _replay(
    stored: StoredInstance, rows: Sequence[HistoryRow], definition: DefinitionText, input: str
) -> tuple[bool, list[Finding]]:
    if any(row.input is None for row in rows):
        return False, []
    try:
        chart = load(read(definition.document))
    except DefinitionInvalid as error:
        return False, [Finding("replay.definition", f"the definition no longer compiles: {error}")]
    standing = Standing(InstanceStatus.PENDING, None, {}, 1)
    decision = Decision(InstanceStatus.PENDING, None, None, [])
    for row in rows:
        recorded = read(row.input or "null")
        if recorded["kernel"] != KERNEL:
            return False, []
        if recorded["definition"] != definition.checksum:
            return True, [
                Finding("replay.definition", "stepped by another document than its definition", row.sequence)
            ]
        decision = _again(chart, stored, standing, recorded)
        if dumps(decision.changes) != row.changes:
            return True, [Finding("replay.changes", "replaying it gives other changes", row.sequence)]
        standing = Standing(decision.status, decision.snapshot, standing.facts, row.sequence + 1)
    problems = []
    if decision.snapshot_text != stored.snapshot:
        problems.append(Finding("replay.snapshot", "replaying the history does not give the stored snapshot"))
    if decision.status is not stored.status:
        problems.append(
            Finding(
                "replay.status", f"replaying gives {decision.status.value}, stored is {stored.status.value}"
            )
        )
    problems += _columns(chart, stored, decision, input)
    return True, problems


def _told_twice(rows: Sequence[HistoryRow]) -> list[Finding]:
    """What has succeeded ends no second time: that would be a result that counted twice. (A failure may be retried.)"""
    succeeded: set[str] = set()
    problems = []
    for row in rows:
        for entry in read(row.changes or "[]"):
            if entry["type"] == "child.completed" and f"child {entry['key']}" in succeeded:
                message = f'child "{entry["key"]}" completed twice'
                problems.append(Finding("child.told_twice", message, row.sequence))
            if entry["type"] == "child.completed":
                succeeded.add(f"child {entry['key']}")
            if entry["type"] in ("task.succeeded", "task.failed") and entry["key"] in succeeded:
                message = f'task "{entry["key"]}" ended although it had succeeded'
                problems.append(Finding("task.told_twice", message, row.sequence))
            if entry["type"] == "task.succeeded":
                succeeded.add(entry["key"])
    return problems


def _taken_away(rows: Sequence[HistoryRow]) -> list[Finding]:
    """A body that is gone without a row that tells of an erasure: who took it has also kept the history from being replayed."""
    gone = [row.sequence for row in rows if row.salt is None]
    if not gone or any(_tells_of_erasure(row) for row in rows):
        return []
    message = f"its body is gone ({len(gone)} of {len(rows)} are), and no row tells of an erasure"
    return [Finding("history.body_gone", message, gone[0])]


def _tells_of_erasure(row: HistoryRow) -> bool:
    return any(entry["type"] == "instance.erased" for entry in read(row.changes or "[]"))


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
