"""One event's full consequence: from snapshot and event to the next snapshot and what the world is asked to do.

How to follow an event through this file, whose functions carry the names of XState and of the SCXML algorithm:

    step        closes the obligation that the event answers, then runs one macrostep for it, and one more for each
                event that the machine has sent to itself on the way
    macrostep   takes the transitions that the event enables; then, until nothing is enabled and nothing is queued,
                eventless transitions first and then the next internal event
    microstep   leaves states (deepest first), executes the transitions, enters states (outermost first)

Everything is written into a `Draft`; the snapshot that came in is never changed. Invariant: the same chart, snapshot,
event and env give the same step, in each process and each replay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from statechart.actions import render_json, send_event
from statechart.chart import Block, Chart, StateNode, Transition
from statechart.compensation import kept_by_restart, register
from statechart.configuration import (
    ActiveNodes,
    compute_entry_set,
    compute_exit_set,
    get_transition_domains,
    is_in_final_state,
    remembered_on_exit,
)
from statechart.draft import (
    INIT_EVENT,
    KERNEL,
    RESTART_EVENT,
    STOP_EVENT,
    ActionFailed,
    Change,
    Draft,
    Snapshot,
)
from statechart.effects import CreateTask, Effect, Event
from statechart.env import Env, Json
from statechart.expressions import ExpressionFailed
from statechart.problems import StepFailed
from statechart.record import record
from statechart.select import (
    EXECUTION_ERROR,
    WORKFLOW_START,
    remove_conflicting_transitions,
    select_eventless_transitions,
    select_start_transitions,
    select_transitions,
)
from statechart.tasks import InvokeTask
from statechart.workflows import FIELDS, child_of

MAX_MICROSTEPS = 1_000  # in one step, over all its macrosteps


@record
class Step:
    """What one event came to.

    `snapshot` is plain JSON, the very object that came in where nothing changed. `changes` is the ordered record,
    each `{"type": dotted entry, ...}`. `outcome` is "ignored" where no transition was enabled, and `reason` says why:
    "no_transition", "forbidden" (by `{}`), "obligation_closed" or "not_active". An ignored answer to an obligation still closes it, except
    that a failure which nobody catches leaves its task open, so that a later attempt can answer.
    """

    snapshot: Snapshot
    effects: tuple[Effect, ...]
    changes: tuple[Change, ...]
    outcome: Literal["applied", "ignored"]
    reason: str | None = None


def start(
    chart: Chart,
    input: Json,
    env: Env,
    *,
    context: Mapping[str, Json] | None = None,
    instance: Mapping[str, Json] | None = None,
    deliver_start: bool = True,
) -> Step:
    """Enter the initial configuration; then deliver `WORKFLOW_START` where an active state names it exactly.

    `context` is laid over the definition's, key by key at the top. `instance` says which instance this is, as
    expressions read it. Raises `StepFailed`.
    """
    blank: Snapshot = {
        "kernel": KERNEL,
        "status": "active",
        "configuration": [],
        "context": {**chart.context, **(context or {})},
        "input": input,
        "instance": dict(instance or {}),
        "history": {},
        "tasks": {},
        "timers": {},
        "children": {},
        "counts": {},
        "output": None,
        "error": None,
    }
    draft = Draft(chart, blank, env)
    draft.take({"type": INIT_EVENT, "input": input})
    microstep(draft, [chart.initial_transition])
    settle(draft)
    if deliver_start and draft.status == "active":
        event = {"type": WORKFLOW_START, "input": input}
        draft.take(event)
        if select_start_transitions(draft):
            macrostep(draft, event)
    deliver_mail(draft)
    draft.has_taken_transition = True  # entering is what a start asks for
    return finish(draft)


def step(
    chart: Chart, snapshot: Snapshot, event: Mapping[str, Json], env: Env, *, obligation: str | None = None
) -> Step:
    """Take one event. `obligation` is the key of the task, timer or child that it answers.

    Raises `StepFailed`: then nothing has happened, and the caller keeps the old snapshot.
    """
    if snapshot.get("status") != "active":
        return Step(snapshot, (), (), "ignored", "not_active")
    received = dict(event)
    if not isinstance(received.get("type"), str) or received["type"] in ("", "*"):
        raise StepFailed("event.invalid", f"expected an event with a type, found {event!r:.80}", path="type")
    draft = Draft(chart, snapshot, env)
    if obligation is None:
        macrostep(draft, received)
    elif not is_open(draft, obligation):
        return Step(snapshot, (), (), "ignored", "obligation_closed")
    else:
        answer_obligation(draft, obligation, received)
    deliver_mail(draft)
    return finish(draft)


def stop(chart: Chart, snapshot: Snapshot, env: Env) -> Step:
    """End the machine where it stands: the exit actions of all active states run, deepest first, then every
    obligation is cancelled. Events that exit actions raise are not taken any more, and values that fail do not
    keep a machine from stopping. Raises `StepFailed` for a snapshot that is of no use.
    """
    if snapshot.get("status") != "active":
        return Step(snapshot, (), (), "ignored", "not_active")
    draft = Draft(chart, snapshot, env)
    draft.take({"type": STOP_EVENT})
    execute_exit_actions(draft)
    draft.queue.clear()
    draft.mailbox.clear()
    draft.cancel_all()
    draft.status = "stopped"
    draft.note("machine.stopped")
    draft.has_taken_transition = True
    return finish(draft)


def close(chart: Chart, snapshot: Snapshot, env: Env, obligation: str) -> Step:
    """Give an obligation up without an event: nobody waits for it any more, and nothing else changes.

    Raises `StepFailed` for a snapshot that is of no use.
    """
    draft = Draft(chart, snapshot, env)
    if not is_open(draft, obligation):
        return Step(snapshot, (), (), "ignored", "obligation_closed")
    timer = draft.timers.pop(obligation, None)
    if timer is not None and "id" in timer:
        draft.release_id(timer["id"])
    task = draft.tasks.pop(obligation, None)
    kind = "timer" if timer is not None else "task" if task is not None else "child"
    draft.cancel_tied_timers(task or {})
    draft.children.pop(obligation, None)
    draft.note(f"{kind}.closed", key=obligation)
    draft.has_taken_transition = True
    return finish(draft)


def restart(
    chart: Chart,
    snapshot: Snapshot,
    env: Env,
    *,
    state: str | None = None,
    context: Mapping[str, Json] | None = None,
) -> Step:
    """Leave what is active, cancel every obligation, and enter the state at the dotted path `state`.

    As a transition of the root would: the root itself is not left, exit and entry actions run, history states remember,
    the context stays, with `context` laid over it key by key at the top. None enters the initial states. Also for
    a machine that has ended. Raises `StepFailed`; `restart.unknown_state` where the chart has no such state.
    """
    targets = chart.initial_transition.target or ()
    if state is not None:
        node = chart.by_path.get(state)
        if node is None or node.type == "history" or node.parent is None:
            raise StepFailed("restart.unknown_state", f'the definition has no state "{state}"', path="state")
        targets = (node,)
    draft = Draft(chart, {**snapshot, "status": "active", "output": None, "error": None}, env)
    draft.compensation = kept_by_restart(draft.compensation)
    draft.take({"type": RESTART_EVENT, "state": state})
    transition = Transition(chart.root, "", targets, None, (), reenter=False, at="restart")
    domains: dict[Transition, StateNode | None] = {transition: chart.root}
    recorded = len(draft.changes)
    exited = exit_states(draft, domains)
    draft.queue.clear()
    draft.mailbox.clear()
    draft.cancel_all()
    for key, value in (context or {}).items():
        draft.assign((key,), value)
    entered = enter_states(draft, domains)
    draft.changes.insert(recorded, state_changed(draft, exited, entered))
    if draft.status == "done":
        execute_exit_actions(draft)
    settle(draft)
    deliver_mail(draft)
    draft.has_taken_transition = True
    return finish(draft)


def accepts(chart: Chart, snapshot: Snapshot) -> bool:
    """Does an active state, or one around it, answer to some event from outside? Guards are not asked."""
    if snapshot["status"] != "active":
        return False
    tips = (chart.by_path[path] for path in snapshot.get("entered") or snapshot["configuration"])
    return any(node.accepts_external for tip in tips for node in (tip, *tip.ancestors))


def finish(draft: Draft) -> Step:
    if draft.has_taken_transition:
        return Step(draft.finished(), tuple(draft.effects), tuple(draft.changes), "applied")
    # Nothing has moved; what may have changed is the obligation that was answered.
    is_as_before = not any(change["type"] != "guard.failed" for change in draft.changes)
    snapshot = draft.snapshot if is_as_before else draft.finished()
    reason = "forbidden" if draft.is_answered else "no_transition"
    return Step(snapshot, tuple(draft.effects), tuple(draft.changes), "ignored", reason)


# --- obligations


def ask_again(chart: Chart, snapshot: Snapshot, env: Env, key: str, request: Mapping[str, Json]) -> Step:
    """Start the child of an obligation once more, under a new key: by hand, after its failure was caught nowhere.

    `request` holds the fields of `startWorkflow` as they were evaluated, its `completionEvent` and `failureEvent`, which
    an open obligation need not name again. Raises `StepFailed` where they are of no use.
    """
    draft = Draft(chart, snapshot, env)
    task = draft.tasks.pop(key, None)
    wanted = {**request, **(task or draft.children.pop(key, None) or {})}
    try:
        spec = {field: wanted[field] for field in FIELDS if field in wanted}
        child = child_of(
            draft,
            draft.next_key(key.rpartition("/")[0]),
            spec,
            completion_event=wanted["completionEvent"],
            failure_event=wanted["failureEvent"],
        )
    except ActionFailed as failure:
        raise StepFailed(failure.code, failure.message) from failure
    if task is None:
        draft.start_workflow(child)
    else:
        draft.create_workflow_task(
            CreateTask(
                child.key,
                "WORKFLOW",
                task["name"],
                spec,
                child.completion_event,
                child.failure_event,
                invoke=task.get("invoke"),
            ),
            child,
        )
    draft.has_taken_transition = True
    return finish(draft)


def is_open(draft: Draft, key: str) -> bool:
    return key in draft.tasks or key in draft.timers or key in draft.children


def answer_obligation(draft: Draft, key: str, event: Event) -> None:
    """Close the obligation, then take the event that answers it."""
    if key in draft.timers:
        fire_timer(draft, key, event)
        return
    holder = draft.tasks if key in draft.tasks else draft.children
    keep_result(draft, key, holder[key], event)
    if event["type"] == holder[key]["failureEvent"] and not is_caught(draft, event):
        return  # the task is still wanted
    entry = holder.pop(key)
    draft.cancel_tied_timers(entry)
    if event["type"] == entry["completionEvent"]:
        keep_output(draft, key, event)
    if draft.chart.compensation is not None and holder is draft.tasks:
        register(draft, key, entry, event)
    macrostep(draft, event)
    if not draft.has_taken_transition:
        draft.note("task.closed" if holder is draft.tasks else "child.closed", key=key)


def is_caught(draft: Draft, event: Event) -> bool:
    """Does some state take this failure, if only to forbid it? Nothing else may follow from one that is not caught."""
    draft.take(event)
    return bool(select_transitions(draft, event["type"]))


def fire_timer(draft: Draft, key: str, event: Event) -> None:
    timer = draft.timers.pop(key)
    if "id" in timer:
        draft.release_id(timer["id"])
    draft.note("timer.fired", key=key)
    if "assign" in timer:
        draft.assign_task(timer["task"], timer["assign"])
    to = timer.get("to")
    if key.rpartition("/")[0] in draft.chart.work:  # a TIMER: its firing is its end
        keep_result(draft, key, {**timer, "completionEvent": event["type"], "failureEvent": None}, event)
        keep_output(draft, key, event)
    if to is None:
        macrostep(draft, event)
    else:
        send_event(draft, key, to, event)
        draft.has_taken_transition = True


def keep_result(draft: Draft, key: str, entry: Mapping[str, Json], event: Event) -> None:
    """What expressions read as `steps.NAME`: it stands there before any guard or action of the answer looks."""
    if not draft.chart.results:
        return
    work = draft.chart.work.get(key.rpartition("/")[0])
    names = (
        work.result_names if isinstance(work, InvokeTask) else (entry.get("name") or entry["definitionKey"],)
    )
    if event["type"] == entry["failureEvent"] and event.get("error") is not None:
        draft.keep_result(names, "failed", None, event["error"])
    elif event["type"] == entry["completionEvent"]:
        draft.keep_result(names, "succeeded", event.get("output"), None)


def keep_output(draft: Draft, key: str, event: Event) -> None:
    """`outputKey`: the output stands in the context before any guard or action of the completion event looks."""
    work = draft.chart.work.get(key.rpartition("/")[0])
    if work is None or work.output_key is None:
        return
    try:
        draft.assign(work.output_key, event.get("output"))
    except ActionFailed as failure:
        draft.fail_action(failure, work.at)
    draft.has_taken_transition = True


# --- the algorithm


def deliver_mail(draft: Draft) -> None:
    """Events that the machine has sent to itself come after the macrostep that sent them, one by one."""
    while draft.mailbox and draft.status == "active":
        event, obligation = draft.mailbox.popleft()
        if obligation is None:
            macrostep(draft, event)
        elif is_open(draft, obligation):
            answer_obligation(draft, obligation, event)
    draft.mailbox.clear()


def macrostep(draft: Draft, event: Event) -> None:
    """Take an event, and everything that follows from it without another one."""
    draft.take(event)
    enabled = select_transitions(draft, event["type"])
    draft.is_answered = bool(enabled)
    microstep(draft, enabled)
    settle(draft)


def settle(draft: Draft) -> None:
    """Eventless transitions as long as they change something, then the next internal event, until neither is left."""
    asks_eventless = True
    while draft.status == "active":
        enabled = select_eventless_transitions(draft) if asks_eventless else []
        if enabled:
            draft.is_changed = False
            microstep(draft, enabled)
            asks_eventless = draft.is_changed
        elif draft.queue:
            take_internal_event(draft, draft.queue.popleft())
            asks_eventless = True
        else:
            return
    refuse_uncaught_errors(draft)
    draft.cancel_all()


def take_internal_event(draft: Draft, event: Event) -> None:
    draft.take(event)
    enabled = select_transitions(draft, event["type"])
    if not enabled and event["type"] == EXECUTION_ERROR:
        raise uncaught(event)
    microstep(draft, enabled)


def refuse_uncaught_errors(draft: Draft) -> None:
    """A machine that ends while an error waits in its queue has not ended well."""
    for event in draft.queue:
        if event["type"] == EXECUTION_ERROR:
            raise uncaught(event)
    draft.queue.clear()


def uncaught(event: Event) -> StepFailed:
    """A definition may raise `error.execution` itself, and then says with it whatever it likes, or nothing."""
    error, at = event.get("error"), event.get("at")
    message = error.get("message") if isinstance(error, Mapping) else None
    if not isinstance(message, str):
        said = "" if error is None else f": {render_json(error):.200}"
        message = f'the machine raised "{EXECUTION_ERROR}" itself, and no state takes it{said}'
    return StepFailed("step.uncaught", message, path=at if isinstance(at, str) else "", data=error)


def microstep(draft: Draft, enabled: Sequence[Transition]) -> None:
    """Leave, act, enter; once, for all transitions that do not get in each other's way."""
    if not enabled:
        return
    charge_microstep(draft)
    transitions = remove_conflicting_transitions(draft, list(enabled))
    if not draft.has_taken_transition:
        draft.has_taken_transition = not all(transition.is_inert for transition in transitions)
    before, remembered = draft.active.copy(), draft.history
    recorded = len(draft.changes)
    domains = get_transition_domains(transitions, draft.history)
    exited = exit_states(draft, domains)
    for transition in transitions:
        if transition.actions:
            execute(draft, transition.actions)
    entered = enter_states(draft, domains)
    if exited or entered:
        keep_order(draft, before, remembered)
        draft.changes.insert(recorded, state_changed(draft, exited, entered))
    if draft.status == "done":
        execute_exit_actions(draft)


def charge_microstep(draft: Draft) -> None:
    draft.microsteps += 1
    if draft.microsteps > MAX_MICROSTEPS:
        raise StepFailed(
            "step.endless",
            f"the step takes more than {MAX_MICROSTEPS:,} microsteps; transitions without an event, or events that "
            "the machine raises itself, go round in circles",
            path=", ".join(draft.configuration()[:5]),
        )
    draft.charge_work(len(draft.active))


def keep_order(draft: Draft, before: ActiveNodes, remembered: dict[str, Sequence[StateNode]]) -> None:
    """A microstep that ends in the states it began with has changed nothing, as XState sees it: the order in which
    the states were entered stays, and eventless transitions are not asked again because of it."""
    if draft.history is remembered and before.keys() == draft.active.keys():
        draft.active = before
    else:
        draft.is_changed = True


def exit_states(draft: Draft, domains: Mapping[Transition, StateNode | None]) -> list[StateNode]:
    exiting = compute_exit_set(domains, draft.active)
    memory = remembered_on_exit(exiting, draft.active)
    if memory:
        draft.history = {**draft.history, **memory}
    for node in exiting:
        if node.exit:
            execute(draft, node.exit)
        for timer in node.after:
            timer.disarm(draft)
        for invoke in node.invokes:
            invoke.cancel(draft)
        del draft.active[node]
    return exiting


def enter_states(draft: Draft, domains: Mapping[Transition, StateNode | None]) -> Sequence[StateNode]:
    plan = compute_entry_set(domains, draft.history, draft.active)
    draft.charge_work(len(plan.nodes))
    completed: set[StateNode] = set()
    for node in plan.nodes:
        draft.active[node] = None
        if node.entry:
            execute(draft, node.entry)
        if node.after:
            execute_each(draft, node.after)
        if node.invokes:
            execute_each(draft, node.invokes)
        if node.initial_actions and node in plan.by_default:
            execute(draft, node.initial_actions)
        if node.type == "final":
            complete(draft, node, completed)
    return plan.nodes


def complete(draft: Draft, final: StateNode, completed: set[StateNode]) -> None:
    """A final state is entered: its parent is done, and so may be the parallel states around it, up to the machine."""
    parent = final.parent
    marker = parent if parent is None or parent.type == "parallel" else parent.parent
    last_completed = marker or final
    if parent is not None and parent.type == "compound":
        raise_done(draft, parent, output_of(draft, final))
    while (
        marker is not None
        and marker.type == "parallel"
        and marker not in completed
        and is_in_final_state(marker, draft.active)
    ):
        completed.add(marker)
        raise_done(draft, marker, None)
        last_completed = marker
        marker = marker.parent
    if marker is None:
        complete_machine(draft, last_completed)


def raise_done(draft: Draft, node: StateNode, output: Json) -> None:
    draft.queue.append({"type": f"xstate.done.state.{node.id}", "output": output})


def complete_machine(draft: Draft, completed: StateNode) -> None:
    """The root's `output` reads the output of what completed it as `event.output`, and stands for it where absent."""
    output = output_of(draft, completed) if completed.parent is not None else None
    root = draft.chart.root
    if root.output is not None:
        event = draft.event
        draft.take({"type": f"xstate.done.state.{completed.id}", "output": output})
        output = output_of(draft, root)
        draft.take(event)
    draft.status = "done"
    draft.output = output
    draft.note("machine.done", output=output)


def output_of(draft: Draft, node: StateNode) -> Json:
    if node.output is None:
        return None
    try:
        return draft.evaluate(node.output)
    except (ExpressionFailed, ActionFailed) as failure:
        draft.fail_action(failure, f"{node.at}.output".lstrip("."))
        return None


# --- actions


def execute(draft: Draft, block: Block) -> None:
    """Perform the actions in order. Where one fails, `error.execution` is raised and the rest is given up."""
    for action in block:
        draft.charge_work(1)
        try:
            action.perform(draft)
        except (ExpressionFailed, ActionFailed) as failure:
            draft.fail_action(failure, action.at)
            return


def execute_each(draft: Draft, block: Block) -> None:
    """Perform actions that do not depend on each other: where one fails, the others are still done."""
    for action in block:
        execute(draft, (action,))


def execute_exit_actions(draft: Draft) -> None:
    """The machine ends: what every active state does when it is left, without leaving it."""
    for node in reversed(draft.nodes_in_document_order()):
        if node.exit:
            execute(draft, node.exit)


def state_changed(draft: Draft, exited: Sequence[StateNode], entered: Sequence[StateNode]) -> Change:
    return {
        "type": "state.changed",
        "exited": [node.name for node in exited],
        "entered": [node.name for node in entered],
        "configuration": draft.configuration(),
    }
