"""Why an instance stands where it stands: what it would take now, what stops it, what would wake it.

The answer is plain JSON for the CLI, the API and the console. Guards are asked as a step would ask them. One that
reads the event, which nobody has sent yet, has no answer: `holds` is null, and what depends on it "depends".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

from statechart.chart import Chart, Transition
from statechart.compile import ENGINE_PREFIXES
from statechart.draft import ActionFailed, Draft, Snapshot
from statechart.env import Env, Json
from statechart.expressions import ExpressionFailed
from statechart.guards import Guard
from statechart.select import get_candidates, select_transitions

_NOW_UNKNOWN = datetime(1970, 1, 1, tzinfo=UTC)


def explain(chart: Chart, snapshot: Snapshot, env: Env | None = None) -> dict[str, Json]:
    """What the snapshot waits for.

        status, configuration
        events     [{type, accepted, transitions}]      what somebody outside may send, deepest state first
        tasks      [{key, type, name, invoke, answers}]  open tasks; answers: like events, for completion and failure;
                   none of a machine that is being compensated, where no state takes them: they are followed by the next
        children   [{key, definitionKey, answers}]
        timers     [{key, dueAt, event, transitions}]   in the order in which they fire

    `accepted` is true, false or null (it depends on what the event brings); a transition is {state, at, target, guard,
    holds, blocked} with, per guard, {text, holds, values, parts, message}. Without `env`, guards that read `now` or
    `config` have no answer either. Raises `StepFailed` for a snapshot that is of no use.
    """
    unknown = {"event"} if env is not None else {"event", "now", "config"}
    draft = Draft(chart, snapshot, env or Env(_NOW_UNKNOWN))
    asking = _Asking(draft, frozenset(unknown))
    is_active = draft.status == "active"
    return {
        "status": draft.status,
        "configuration": draft.configuration(),
        "events": [asking.event(name) for name in _external_events(draft)] if is_active else [],
        "tasks": [
            {
                "key": key,
                "type": task["type"],
                "name": task["name"],
                "invoke": task.get("invoke"),
                "answers": asking.answers(task) if is_active else [],
            }
            for key, task in snapshot["tasks"].items()
        ],
        "children": [
            {
                "key": key,
                "definitionKey": child["definitionKey"],
                "answers": asking.answers(child) if is_active else [],
            }
            for key, child in snapshot["children"].items()
        ],
        "timers": [
            {
                "key": key,
                "dueAt": timer["dueAt"],
                "event": timer["event"],
                "to": timer.get("to"),
                "transitions": [] if "to" in timer else asking.event(timer["event"]["type"])["transitions"],
            }
            for key, timer in sorted(snapshot["timers"].items(), key=lambda item: str(item[1]["dueAt"]))
        ],
    }


def _external_events(draft: Draft) -> Iterator[str]:
    """The descriptors that active states name for the world outside, deepest state first, each once."""
    answers = draft.chart.answers
    seen: set[str] = set()
    for node in reversed(draft.nodes_in_document_order()):
        for descriptor in node.exact:
            if (
                descriptor not in seen
                and descriptor not in answers
                and not descriptor.startswith(ENGINE_PREFIXES)
            ):
                seen.add(descriptor)
                yield descriptor


class _Supposing(Draft):
    """A draft whose guards have been answered beforehand."""

    __slots__ = ("answers",)

    def __init__(self, draft: Draft, answers: Mapping[str, bool]) -> None:
        super().__init__(draft.chart, draft.snapshot, draft.env)
        self.answers = answers

    def holds(self, guard: Guard, at: str) -> bool:
        del guard
        return self.answers[at]


class _Asking:
    """Asks the guards of one snapshot."""

    def __init__(self, draft: Draft, unknown: frozenset[str]) -> None:
        self.draft = draft
        self.unknown = unknown

    def answers(self, obligation: Mapping[str, Json]) -> list[dict[str, Json]]:
        return [self.event(obligation["completionEvent"]), self.event(obligation["failureEvent"])]

    def event(self, event_type: str) -> dict[str, Json]:
        """Would an event of this type, or one that this wildcard matches, be accepted, and by which transition?"""
        self.draft.take({"type": event_type})
        asked: dict[Transition, None] = {}
        for tip in self.draft.tips():
            for node in (tip, *tip.ancestors):
                asked.update(dict.fromkeys(get_candidates(node, event_type)))
        candidates = {transition: self._candidate(transition) for transition in asked}
        return {
            "type": event_type,
            "accepted": self._accepted(event_type, candidates),
            "transitions": list(candidates.values()),
        }

    def _accepted(self, event_type: str, candidates: Mapping[Transition, Mapping[str, Json]]) -> bool | None:
        """The step's own selection decides, once with every open guard supposed true and once false."""
        answers = {transition.at: candidate["holds"] for transition, candidate in candidates.items()}
        verdicts = set()
        for supposed in (True, False):
            holding = {at: supposed if answer is None else answer for at, answer in answers.items()}
            selected = select_transitions(_Supposing(self.draft, holding), event_type)
            verdicts.add(any(not transition.is_inert for transition in selected))
        return verdicts.pop() if len(verdicts) == 1 else None

    def _candidate(self, transition: Transition) -> dict[str, Json]:
        guard = None if transition.guard is None else self.guard(transition.guard)
        return {
            "state": transition.source.name,
            "at": transition.at,
            "target": [node.name for node in transition.target or ()],
            "forbids": transition.is_inert,
            "description": transition.description,
            "holds": True if guard is None else guard["holds"],
            "guard": guard,
        }

    def guard(self, guard: Guard) -> dict[str, Json]:
        parts = [self.guard(part) for part in guard.parts]
        answer: dict[str, Json] = {
            "text": guard.text,
            "holds": None,
            "values": {},
            "parts": parts,
            "message": None,
        }
        answer["values"] = {
            path: self._read(path) for path in sorted(guard.paths) if _root(path) not in self.unknown
        }
        if any(_root(path) in self.unknown for path in guard.paths) or any(_is_open(part) for part in parts):
            return answer
        try:
            answer["holds"] = guard.holds(self.draft)
        except (ExpressionFailed, ActionFailed) as failure:
            answer["holds"] = False
            answer["message"] = failure.message
        return answer

    def _read(self, path: str) -> Json:
        scope = self.draft.scope
        root, *keys = path.split(".")
        value: Json = getattr(scope, root, None) if root in _ROOTS else scope.extra.get(root)
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value


_ROOTS = ("context", "input", "instance", "config", "steps")


def _is_open(guard: Mapping[str, Json]) -> bool:
    """Nothing in it has failed, and yet it has no answer."""
    return guard["holds"] is None


def _root(path: str) -> str:
    return path.partition(".")[0]
