"""Compensation: what undoes work that has ended when its instance fails or is ended early.

Work that names `compensate` registers how it is undone as soon as it has ended, with everything that undoing needs:
the snapshot's `compensation.registered`, in order of completion. `compensate` stops the machine where it stands, takes back
what is still open, and then runs what is registered, one after another: higher `order` first, within the same order
what ended last. Each is an ordinary task, `(compensation)/ID/N`, whose answer `answer` takes.

Open work that could be undone may have ended a moment ago, its answer still on its way: `awaited` holds what was taken back
until `tell` says how it ended, and nothing is undone before. So nothing that was done is forgotten, and the order holds.

The machine's status is then "compensating", and at the end "error" (it ends failed) or "stopped" (cancelled, timed out).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from statechart.ai import AI
from statechart.draft import ActionFailed, Draft
from statechart.effects import CreateTask, Event
from statechart.env import Json, format_instant
from statechart.expressions import ExpressionFailed
from statechart.polls import POLL
from statechart.tasks import TaskTemplate, ask, task_of

if TYPE_CHECKING:
    from statechart.chart import Chart

Kind = Literal["rollback", "cleanup", "notification", "custom"]
OnFailure = Literal["incident", "continue"]
Covers = Literal["completed", "attempted"]
Ends = Literal["failed", "cancelled", "timed_out"]
Verdict = Literal["done", "skipped", "passed_over"]

UNDOES_NOTHING = ("HUMAN", "TIMER", "MAP", "WORKFLOW", POLL, AI)
"""Types of tasks that no compensation can be: a runner executes it, or the step does it at once."""
PASSED_OVER: tuple[Kind, ...] = ("cleanup", "notification")
"""Kinds whose failure stops nobody, unless `onFailure` says so."""
DONE, FAILED = "compensation.done", "compensation.failed"  # the events that answer a compensation
PLACE = "(compensation)"

Item = dict[str, Json]


@dataclass(frozen=True, slots=True)
class Compensator:
    """How some work is undone, as the definition writes it. `name` None: what undoes is called as its type."""

    at: str
    task: TaskTemplate
    order: int
    kind: Kind
    on_failure: OnFailure
    covers: Covers

    def register(self, draft: Draft, key: str, name: str, event: Event) -> None:
        """Keep how this work is undone, with the data as it is now. What cannot be evaluated is kept as unusable: nobody
        may think that it was undone, and the work goes on."""
        state = draft.compensation or {}
        number = state.get("count", 0) + 1
        item: Item = {
            "id": number,
            "key": key,
            "undoes": name,
            "order": self.order,
            "kind": self.kind,
            "onFailure": self.on_failure,
            "status": "registered",
            "registeredAt": format_instant(draft.env.now),
        }
        draft.take(event)
        try:
            item |= self._filled(draft, event)
        except (ExpressionFailed, ActionFailed) as failure:
            item["problem"] = {"code": failure.code, "message": failure.message, "data": {"at": self.at}}
        draft.compensation = {**state, "count": number, "registered": [*state.get("registered", ()), item]}
        draft.charge_work(1 + number // 32)
        told = {name: item[name] for name in ("id", "key", "undoes", "taskType", "problem") if name in item}
        draft.note("compensation.registered", **told)

    def _filled(self, draft: Draft, event: Event) -> Item:
        fields, secrets = self.task.fill(replace(draft.scope, extra={"output": event.get("output")}))
        kind = fields.get("type")
        if not isinstance(kind, str) or not kind or kind in UNDOES_NOTHING:
            raise ActionFailed("compensate.type", f"no compensation can be a task of type {kind!r}")
        name = fields.get("name") or kind
        filled: Item = {"task": fields, "taskType": kind, "name": str(name)}
        return {**filled, "secrets": [list(where) for where in secrets]} if secrets else filled


def compensator_of(chart: Chart, key: str) -> Compensator | None:
    """How the work of an obligation is undone, None where the definition does not say."""
    work = chart.work.get(key.rpartition("/")[0])
    return None if work is None else work.compensate


def register(draft: Draft, key: str, entry: Mapping[str, Json], event: Event) -> None:
    """Register what undoes the work of an obligation that `event` answers, as far as that has happened."""
    compensator = compensator_of(draft.chart, key)
    if compensator is None:
        return
    if event["type"] == entry["failureEvent"] and compensator.covers == "completed":
        return
    compensator.register(draft, key, entry["name"], event)


def is_there_to_undo(chart: Chart, snapshot: Mapping[str, Json], *, without: Collection[str] = ()) -> bool:
    """Is anything registered, or open that may have to be undone? `without`: keys whose work has failed."""
    if chart.compensation is None:
        return False
    if _left(snapshot.get("compensation") or {}):
        return True
    for key in snapshot["tasks"]:
        compensator = compensator_of(chart, key)
        if compensator is not None and (key not in without or compensator.covers == "attempted"):
            return True
    return False


# --- undoing


def take_back(draft: Draft) -> None:
    """Nothing that is open is wanted any more; what may have to be undone is awaited until it is known how it ended."""
    asked_now = {effect.key for effect in draft.effects if isinstance(effect, CreateTask)}
    awaited: dict[str, Json] = {}
    for key in sorted(draft.timers):
        draft.cancel_timer(key)
    for key in sorted(draft.tasks):
        entry = draft.tasks.get(key)
        if entry is None:
            continue
        is_tied = entry.get("cancelWithParent", True)
        if compensator_of(draft.chart, key) is None or key in asked_now or not is_tied:
            draft.cancel_task(key)
            continue
        names = ("name", "type", "completionEvent", "failureEvent", "definitionKey", "instanceId")
        awaited[key] = {name: entry[name] for name in names if name in entry}
        draft.cancel_task(key, tells=True)
    for key in sorted(draft.children):
        draft.cancel_child(key)
    draft.compensation = {**(draft.compensation or {}), "awaited": awaited}


def go_on(draft: Draft) -> None:
    """Run what is to be undone next; end where nothing is left. Waits while something is awaited, runs or has stopped."""
    while not _progress(draft)["awaited"]:
        item = _next(_progress(draft)["registered"])
        if item is None:
            end(draft)
            return
        if item["status"] != "registered" or not _run(draft, item):
            return


def _next(registered: Sequence[Item]) -> Item | None:
    """What runs or has stopped, else what is next by its order, and within it the last to end."""
    for item in registered:
        if item["status"] in ("running", "failed"):
            return item
    waiting = [item for item in registered if item["status"] == "registered"]
    return in_order(waiting)[0] if waiting else None


def in_order(registered: Iterable[Item]) -> list[Item]:
    """The order of undoing: higher `order` first, and within it what ended last."""
    return sorted(registered, key=lambda item: (item["order"], item["id"]), reverse=True)


def _run(draft: Draft, item: Item) -> bool:
    """Ask for the task that undoes; True where the next may follow at once."""
    if "problem" not in item:
        try:
            secrets = tuple(tuple(where) for where in item.get("secrets", ()))
            key = draft.next_key(f"{PLACE}/{item['id']}")
            task = task_of(draft, key, item["taskType"], item["name"], DONE, FAILED, item["task"], secrets)
            ask(draft, task, None)
        except (ExpressionFailed, ActionFailed) as failure:
            item = {**item, "problem": {"code": failure.code, "message": failure.message, "data": {}}}
    if "problem" in item:
        if item["onFailure"] == "continue":
            settle_item(draft, item, "passed_over", item["problem"])
            return True
        _replace(draft, {**item, "status": "failed"})
        draft.note("compensation.failed", **_named(item), error=item["problem"])
        return False
    item = {**item, "status": "running", "startedAt": format_instant(draft.env.now)}
    _replace(draft, item)
    draft.note("compensation.task.created", **_named(item))
    is_done = bool(draft.mailbox)  # an instant type
    draft.mailbox.clear()
    if is_done:
        draft.tasks.pop(key)
        settle_item(draft, item, "done", None)
    return is_done


def settle_item(draft: Draft, item: Item, verdict: Verdict, error: Json) -> None:
    """What undoes has ended, or is not done any more."""
    ended: Item = {**item, "status": verdict, "endedAt": format_instant(draft.env.now)}
    if error is not None:
        ended["error"] = error
    _replace(draft, ended)
    told = {"error": error} if error is not None else {}
    draft.note(_TOLD[verdict], **_named(item), **told)


_TOLD: Mapping[Verdict, str] = {
    "done": "compensation.task.done",
    "skipped": "compensation.skipped",
    "passed_over": "compensation.passed_over",
}


def end(draft: Draft) -> None:
    """Nothing is left to undo: the machine ends as it was to end."""
    state = _progress(draft)
    ends = state["started"]["ends"]
    counts = dict.fromkeys(("done", "skipped", "passed_over"), 0)
    for item in state["registered"]:
        counts[item["status"]] += 1
    draft.status = "error" if ends == "failed" else "stopped"
    draft.error = state["started"].get("error")
    draft.note(
        "compensation.completed",
        done=counts["done"],
        skipped=counts["skipped"],
        passedOver=counts["passed_over"],
        ends=ends,
    )


def item_of(state: Mapping[str, Json], key: str) -> Item | None:
    """The registered item that the task `key` undoes, None where the key is not that of a compensation."""
    place = key.rpartition("/")[0]
    return next((item for item in state["registered"] if place == f"{PLACE}/{item['id']}"), None)


def kept_by_restart(state: Mapping[str, Json] | None) -> dict[str, Json] | None:
    """What is still to be undone when an instance begins anew from a state: what was not undone."""
    if not state:
        return None
    left = [{**item, "status": "registered"} for item in state.get("registered", ()) if item in _left(state)]
    return {"count": state.get("count", 0), "registered": left}


def _left(state: Mapping[str, Json]) -> list[Item]:
    return [item for item in state.get("registered", ()) if item["status"] in _OPEN]


_OPEN = ("registered", "running", "failed")


def left_of(state: Mapping[str, Json]) -> Iterable[Item]:
    """What is not undone yet, in the order of registering."""
    return _left(state)


def _progress(draft: Draft) -> dict[str, Json]:
    state = draft.compensation or {}
    return {"registered": (), "awaited": {}, **state}


def _replace(draft: Draft, item: Item) -> None:
    state = _progress(draft)
    registered = [item if one["id"] == item["id"] else one for one in state["registered"]]
    draft.charge_work(1 + len(registered) // 32)
    draft.compensation = {**state, "registered": registered}


def _named(item: Item) -> dict[str, Json]:
    return {name: item[name] for name in ("id", "undoes", "name") if name in item}
