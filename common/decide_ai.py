"""What the end of an AI task means for its instance: the ruling on record, and the event that the model may have emitted.

Pure, like `decide`. The runner has ruled already, and its word is only ever made stricter here: the policy that the step
kept when it asked for the task has to allow the event, the definition's schema its payload, and the instance must not
have taken too many such events in its life.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from common.ai_policy import Ruling, Verdict, Why, refused, rule
from common.db.tables import InboxType
from common.decision import Standing
from statechart import Chart
from statechart.ai import AI, AI_EVENTS, event_schemas

MAX_SHOWN = 200

Json = Any


@dataclass(frozen=True, slots=True)
class Ruled:
    """What is said of an ended AI task: `entry` for the history, `output` for the definition, `event` to take next."""

    entry: dict[str, Json]
    output: Json
    event: dict[str, Json] | None


def rule_on(chart: Chart, snapshot: Mapping[str, Json], body: Json, *, max_events: int) -> Ruled | None:
    """Rule on the outcome of a task; None for one that no AI handler has brought, or that was asked for as something else."""
    task = body["event"].get("task") or {}
    asked = snapshot["tasks"].get(body["key"])
    if body["entry"]["type"] != "task.succeeded" or task.get("type") != AI:
        return None
    if asked is not None and asked["type"] != AI:
        return None
    output = body["event"].get("output")
    told = output if isinstance(output, Mapping) else {}
    ruling = _ruling(chart, snapshot, asked, told, max_events)
    decision = told.get("decision")
    named = decision.get("event") if isinstance(decision, Mapping) else None
    entry = {
        "type": "ai.decided",
        "taskId": body["entry"].get("taskId"),
        "name": body["entry"].get("name"),
        "verdict": ruling.verdict.value,
        "event": _shown(named),
        "why": ruling.why.value,
        "message": ruling.message,
        "model": _shown(told.get("model")),
        "promptHash": _shown(told.get("promptHash")),
        "policyHash": _shown(told.get("policyHash")),
    }
    final = output
    if told and told.get("verdict") != ruling.verdict.value:
        verdict = {"verdict": ruling.verdict.value, "why": ruling.why.value, "message": ruling.message}
        final = {**told, **verdict}
    event = None
    if ruling.verdict is Verdict.EMITTED and isinstance(decision, Mapping):
        source = {"type": "ai", "taskId": entry["taskId"], "name": entry["name"], "model": entry["model"]}
        event = {**decision["payload"], "type": decision["event"], "source": source}
    return Ruled(entry, final, event)


def counted(snapshot: dict[str, Json]) -> dict[str, Json]:
    """The snapshot of an instance that takes one more event of a model."""
    counts = snapshot["counts"]
    return {**snapshot, "counts": {**counts, AI_EVENTS: counts.get(AI_EVENTS, 0) + 1}}


def reads_limit(standing: Standing, type: InboxType) -> bool:
    """May the limit of events decide something about this row? Then it has to stand in the history."""
    is_concerned = standing.snapshot is not None and AI_EVENTS in standing.snapshot["counts"]
    return is_concerned and type in (InboxType.TASK, InboxType.RETRY)


def _ruling(
    chart: Chart,
    snapshot: Mapping[str, Json],
    asked: Mapping[str, Json] | None,
    told: Mapping[str, Json],
    max_events: int,
) -> Ruling:
    said = _said(told)
    if said.verdict is Verdict.SUGGESTED and asked is None:
        return refused(Why.NOT_AWAITED, "nobody waits for the task any more")
    if said.verdict is not Verdict.EMITTED:
        return said
    if asked is None:
        return refused(Why.NOT_AWAITED, "nobody waits for the task any more")
    decision = told.get("decision")
    if not isinstance(decision, Mapping) or not isinstance(decision.get("event"), str):
        return refused(Why.OUTPUT_INVALID, "the output says that it emitted an event and names none")
    policy = asked.get("policy")
    schemas = event_schemas(chart.document, policy)
    ruling = rule(policy, decision["event"], decision.get("payload"), schemas)
    if ruling.verdict is Verdict.SUGGESTED:
        return refused(Why.NEEDS_HUMAN, ruling.message)
    if ruling.verdict is Verdict.EMITTED and snapshot["counts"].get(AI_EVENTS, 0) >= max_events:
        message = (
            f'AI tasks have emitted {max_events:,} events into this instance, which is all that "SIGNALBOX_MAX_AI_EVENTS" '
            "allows"
        )
        return refused(Why.LIMIT, message)
    return ruling


def _said(told: Mapping[str, Json]) -> Ruling:
    """What the runner says of its task, as far as it can be read."""
    try:
        verdict, why = Verdict(str(told.get("verdict"))), Why(str(told.get("why")))
    except ValueError:
        return refused(Why.OUTPUT_INVALID, "the output of the task is not that of an AI task")
    message = told.get("message")
    return Ruling(verdict, why, message[:1_000] if isinstance(message, str) else "")


def _shown(value: Json) -> Json:
    return value[:MAX_SHOWN] if isinstance(value, str) else None
