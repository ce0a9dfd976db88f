"""The steps of a machine that is being compensated: it begins, its tasks answer, it is given up. See compensation.py.

Each takes a snapshot and gives a `Step`, as `step` does, and raises `StepFailed` for a snapshot that is of no use.
"""

from __future__ import annotations

from collections.abc import Mapping

from statechart.chart import Chart
from statechart.compensation import (
    Ends,
    Item,
    Verdict,
    end,
    go_on,
    item_of,
    left_of,
    register,
    settle_item,
    take_back,
)
from statechart.draft import STOP_EVENT, Draft, Snapshot, Status
from statechart.effects import Event
from statechart.env import Env, Json
from statechart.step import Step, execute_exit_actions, finish

COMPENSATING: Status = "compensating"


def compensate(
    chart: Chart,
    snapshot: Snapshot,
    env: Env,
    *,
    ends: Ends,
    why: Mapping[str, Json],
    answered: tuple[str, Event] | None = None,
) -> Step:
    """Stop an active machine, take back what is open, and begin to undo. It `ends` as said; `why` is kept until then.

    `answered` is the obligation of a task or child whose failure is caught nowhere. A machine that does not end by a
    failure runs the exit actions of its active states first, as `stop` does.
    """
    if snapshot.get("status") != "active":
        return Step(snapshot, (), (), "ignored", "not_active")
    draft = Draft(chart, snapshot, env)
    if answered is not None:
        key, event = answered
        task = draft.tasks.pop(key, None)
        draft.children.pop(key, None)
        if task is not None:
            draft.cancel_tied_timers(task)
            register(draft, key, task, event)
    draft.take({"type": STOP_EVENT})
    if ends != "failed":
        execute_exit_actions(draft)
        draft.queue.clear()
        draft.mailbox.clear()
    take_back(draft)
    draft.status = COMPENSATING
    state = draft.compensation or {}
    draft.compensation = {**state, "started": {**why, "ends": ends}}
    draft.note("compensation.started", ends=ends, toUndo=len(list(left_of(state))))
    return _gone_on(draft)


def tell(chart: Chart, snapshot: Snapshot, env: Env, key: str, event: Event | None) -> Step:
    """Take how work ended that was taken back; None where nothing of it was done."""
    state = snapshot.get("compensation") or {}
    if key not in state.get("awaited", ()):
        return Step(snapshot, (), (), "ignored", "obligation_closed")
    draft = Draft(chart, snapshot, env)
    if event is not None:
        register(draft, key, state["awaited"][key], event)
    awaited = {other: entry for other, entry in state["awaited"].items() if other != key}
    draft.compensation = {**(draft.compensation or {}), "awaited": awaited}
    draft.note("compensation.told", key=key)
    return _gone_on(draft)


def answer(
    chart: Chart, snapshot: Snapshot, env: Env, key: str, verdict: Verdict, error: Json = None
) -> Step:
    """Take the end of the task `key` that undoes, and run the next."""
    item = item_of(snapshot["compensation"], key)
    if item is None or key not in snapshot["tasks"]:
        return Step(snapshot, (), (), "ignored", "obligation_closed")
    draft = Draft(chart, snapshot, env)
    draft.tasks.pop(key)
    settle_item(draft, item, verdict, error)
    return _gone_on(draft)


def skip_unusable(chart: Chart, snapshot: Snapshot, env: Env) -> Step:
    """Go on without what could not even be asked for."""
    item = stopped_item(snapshot)
    if item is None:
        return Step(snapshot, (), (), "ignored", "obligation_closed")
    draft = Draft(chart, snapshot, env)
    settle_item(draft, item, "skipped", None)
    return _gone_on(draft)


def stop_compensating(chart: Chart, snapshot: Snapshot, env: Env) -> Step:
    """End it although not everything is undone: what is left is skipped, on record."""
    draft = Draft(chart, snapshot, env)
    state = snapshot["compensation"]
    draft.cancel_all()
    for item in left_of(state):
        settle_item(draft, item, "skipped", None)
    state = draft.compensation or {}
    draft.compensation = {**state, "awaited": {}, "started": {**state["started"], "ends": "cancelled"}}
    end(draft)
    draft.has_taken_transition = True
    return finish(draft)


def end_otherwise(chart: Chart, snapshot: Snapshot, env: Env, ends: Ends, why: Mapping[str, Json]) -> Step:
    """Go on undoing, and end as `ends` says then."""
    draft = Draft(chart, snapshot, env)
    state = snapshot["compensation"]
    draft.compensation = {**state, "started": {**state["started"], **why, "ends": ends}}
    draft.has_taken_transition = True
    return finish(draft)


def stopped_item(snapshot: Mapping[str, Json]) -> Item | None:
    """What is to be undone, but could not be asked for."""
    registered = (snapshot.get("compensation") or {}).get("registered", ())
    return next((item for item in registered if item["status"] == "failed"), None)


def running_item(snapshot: Mapping[str, Json]) -> Item | None:
    """What is being undone."""
    registered = (snapshot.get("compensation") or {}).get("registered", ())
    return next((item for item in registered if item["status"] == "running"), None)


def _gone_on(draft: Draft) -> Step:
    go_on(draft)
    draft.has_taken_transition = True
    return finish(draft)
