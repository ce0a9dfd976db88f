"""What people do with their tasks: claim, give back, delegate, complete, reject. The caller commits.

A verb locks its task (where four eyes are asked for, every task of a person in the instance), looks at it, and writes:
who has it into the row, what was decided through the door that runners use (`outcome.report_decision`). Everything is
kept in the history. A `Refusal` is a return value and not an exception, because it is kept there too: its transaction
must commit. What is wrong with the request itself is raised, and leaves no trace.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection

from common.canonical import clean, dumps, read, size
from common.clock import instant_text
from common.commands.outcome import Decision, Outcome, report_decision, report_outcomes
from common.commands.send import MAX_REASON
from common.config import Limits
from common.db import ORCHESTRATOR_QUEUE, note_bell
from common.db.now import read_now
from common.db.tables import InboxType
from common.errors import Conflict, Invalid, LimitExceeded, NotFound
from common.ids import InstanceId, LeaseToken, TenantId, is_id
from common.lifecycle import TaskStatus
from common.people import (
    REJECTED,
    Held,
    Person,
    Refusal,
    four_eyes,
    is_same,
    may_assign,
    may_claim,
    may_decide,
    may_pass_on,
    shown_hash,
)
from common.schemas import compile_schema
from common.store import attempts, inbox, people
from common.store.people import HumanTask
from common.task_error import TaskError

MAX_PERSON = 500
MAX_CODE = 200


# -- whose work it is ---------------------------------------------------------------------------------------------


def claim_task(
    tx: Connection, tenant_id: TenantId, task_id: str, *, by: Person, assignee: str | None = None
) -> Refusal | None:
    """Make a task the work of `by`, or of `assignee`. One that somebody else has is refused, and so is who is no candidate.

    Raises `NotFound` (`task.not_found`), `Conflict` (`task.not_human`, `task.ended`) and `Invalid`.
    """
    chosen = _name(assignee) if assignee is not None else by.actor
    task = _open_task(tx, tenant_id, task_id, "claim")
    refusal = may_claim(_held(task), by, chosen)
    if refusal is not None:
        return _refused(tx, task, by, refusal)
    if task.assignee is None:
        _assign(tx, task, by, "task.claimed", chosen)
    return None


def unclaim_task(tx: Connection, tenant_id: TenantId, task_id: str, *, by: Person) -> Refusal | None:
    """Give a task back. Raises as `claim_task` does, and `Conflict` (`task.unclaimed`) where nobody has it."""
    task = _open_task(tx, tenant_id, task_id, "unclaim")
    if task.assignee is None:
        raise Conflict(f"cannot unclaim task {task.id}: it is nobody's work", code="task.unclaimed")
    refusal = may_pass_on(_held(task), by)
    if refusal is not None:
        return _refused(tx, task, by, refusal)
    _assign(tx, task, by, "task.unclaimed", None)
    return None


def delegate_task(
    tx: Connection, tenant_id: TenantId, task_id: str, *, by: Person, assignee: str
) -> Refusal | None:
    """Make a task the work of somebody else: by who has it, by an admin, or by anybody while nobody has it."""
    chosen = _name(assignee)
    task = _open_task(tx, tenant_id, task_id, "delegate")
    refusal = may_assign(_held(task), by, chosen)
    if refusal is not None:
        return _refused(tx, task, by, refusal)
    if task.assignee is None or not is_same(task.assignee, chosen):
        _assign(tx, task, by, "task.delegated", chosen)
    return None


def _assign(tx: Connection, task: HumanTask, by: Person, kind: str, assignee: str | None) -> None:
    people.assign(tx, task.id, assignee)
    entry = {"type": kind, "taskId": task.id, "key": task.key, "name": task.name, "before": task.assignee}
    more = {"assignee": assignee} if assignee is not None else {}
    record(tx, task.tenant_id, task.instance_id, by.actor, entry | more)


def _name(text: str) -> str:
    if not isinstance(text, str) or not 0 < len(text) <= MAX_PERSON or text != text.strip():
        raise Invalid(
            f"assignee: expected 1 to {MAX_PERSON} characters without outer spaces", code="task.invalid"
        )
    return str(clean(text))


# -- deciding -----------------------------------------------------------------------------------------------------


def complete_task(
    tx: Connection,
    tenant_id: TenantId,
    task_id: str,
    *,
    by: Person,
    output: Any,
    limits: Limits,
    shown: str | None = None,
) -> Refusal | None:
    """End a HUMAN task well, with an output that its form accepts.

    `shown` is the hash of what the person saw; another one than that of the task is a `Conflict` (`human.shown_changed`).
    Raises besides, with nothing stored: `NotFound` (`task.not_found`), `Conflict` (`task.not_human`, `task.ended`),
    `Invalid` (`task.output_invalid` with problems by path, `task.form_unusable`) and `LimitExceeded`.
    """
    text = _output_text(output, limits)
    task, refusal = _to_decide(tx, tenant_id, task_id, "complete", by, shown)
    if refusal is not None:
        return _refused(tx, task, by, refusal)
    check_form(task.name, task.options, read(text))
    _decide(tx, task, by, output=text)
    return None


def reject_task(
    tx: Connection,
    tenant_id: TenantId,
    task_id: str,
    *,
    by: Person,
    reason: str,
    limits: Limits,
    output: Any = None,
    code: str = REJECTED,
    shown: str | None = None,
) -> Refusal | None:
    """Fail a HUMAN task for good, with `reason` as the message and `output` as the data of its error. Raises as `complete_task`."""
    if not 0 < len(code) <= MAX_CODE:
        raise Invalid(f"code: expected text of 1 to {MAX_CODE} characters", code="task.invalid")
    error = TaskError(str(clean(code)), _reason_text(reason), read(_output_text(output, limits)))
    task, refusal = _to_decide(tx, tenant_id, task_id, "reject", by, shown)
    if refusal is not None:
        return _refused(tx, task, by, refusal)
    _decide(tx, task, by, error=error)
    return None


def check_link(
    tx: Connection,
    tenant_id: TenantId,
    task_id: str,
    *,
    by: Person,
    reason: str | None,
    output: Any,
    limits: Limits,
) -> tuple[HumanTask, Refusal | None]:
    """Ask whether `by` could complete a task with `output`, or reject it for `reason`, and change nothing. Raises as they do."""
    text = _output_text(output, limits)
    if reason is not None:
        _reason_text(reason)
    task, refusal = _to_decide(tx, tenant_id, task_id, "make a link for", by, None)
    if reason is None:
        check_form(task.name, task.options, read(text))
    return task, refusal


def _to_decide(
    tx: Connection, tenant_id: TenantId, task_id: str, verb: str, by: Person, shown: str | None
) -> tuple[HumanTask, Refusal | None]:
    """Lock what decides about a decision; why it may not be made, where it may not."""
    found = people.find(tx, tenant_id, task_id) if is_id(task_id) else None
    if found is not None and found.type == "HUMAN" and found.needs_four_eyes:
        siblings = people.lock_all_of(tx, tenant_id, found.instance_id)
        task = _usable(next((one for one in siblings if one.id == task_id), None), task_id, verb)
        others = [one for one in siblings if one.id != task.id and one.needs_four_eyes]
    else:
        task, others = _open_task(tx, tenant_id, task_id, verb), []
    if shown is not None and shown != _hash(task):
        raise Conflict(
            f"task {task.id} is not what was shown: read it again before you decide",
            code="human.shown_changed",
            shownHash=_hash(task),
        )
    refusal = may_decide(_held(task), by)
    if refusal is None and task.needs_four_eyes:
        starters = people.read_starters(tx, tenant_id, task.instance_id)
        deciders = [one.ended_by for one in others if one.ended_by is not None]
        refusal = four_eyes(task.name, by.actor, starters=starters, deciders=deciders)
    return task, refusal


def _decide(
    tx: Connection,
    task: HumanTask,
    by: Person,
    *,
    output: str | None = None,
    error: TaskError | None = None,
) -> None:
    report_decision(tx, Decision(task, by.actor, _hash(task), output, error), now=read_now(tx))


def check_form(name: str, options: Mapping[str, Any], output: Any) -> None:
    """Raise `Invalid` (`task.output_invalid`, `task.form_unusable`) unless the `form` among a task's options accepts what a person sent."""
    form = options.get("form")
    if form is None:
        return
    try:
        problems = compile_schema(form).problems(output)
    except Invalid as error:
        raise Invalid(
            f'the form of task "{name}" cannot be used ({error}); reject the task, or restart its instance',
            code="task.form_unusable",
        ) from error
    if problems:
        told = "; ".join(f"{one['path'] or 'output'}: {one['message']}" for one in problems[:5])
        raise Invalid(
            f'the output does not fit the form of task "{name}": {told}',
            code="task.output_invalid",
            problems=[
                {"severity": "error", "code": "task.output_invalid", "suggestion": None, **problem}
                for problem in problems
            ],
        )


def _reason_text(reason: str) -> str:
    if not isinstance(reason, str) or not 0 < len(reason) <= MAX_REASON:
        raise Invalid(f"reason: expected text of 1 to {MAX_REASON} characters", code="reason.invalid")
    return str(clean(reason))


def _output_text(output: Any, limits: Limits) -> str:
    text = dumps(clean(output, max_depth=limits.max_json_depth))
    if size(text) > limits.max_output_bytes:
        raise LimitExceeded(
            f"the output is {size(text)} bytes, at most {limits.max_output_bytes} are allowed",
            limit="max_output_bytes",
            allowed=limits.max_output_bytes,
        )
    return text


# -- under a lease ------------------------------------------------------------------------------------------------


def report_leased(
    tx: Connection,
    tenant_id: TenantId,
    task_id: str,
    token: str,
    *,
    limits: Limits,
    output: Any = None,
    error: TaskError | None = None,
) -> Refusal | None:
    """End an attempt that a worker elsewhere holds by `token`. A result whose lease is lost is kept as late, and refused.

    Raises `NotFound` (`task.not_found`), `Invalid` and `LimitExceeded`.
    """
    text = _output_text(output, limits)
    if error is not None:
        _output_text(error.to_json(), limits)
    if not is_id(task_id) or people.find(tx, tenant_id, task_id) is None:
        raise _no_task(task_id)
    claim = attempts.find_leased(tx, tenant_id, task_id, LeaseToken(token)) if is_id(token) else None
    refusal = Refusal("task.lease_lost", f"this lease of task {task_id} is over, or was never given")
    if claim is None:
        return refusal
    outcome = Outcome(
        claim.id, claim.tenant_id, claim.instance_id, claim.token, claim.key, claim.type, claim.name, claim.attempt,
        claim.retry, claim.completion_event, claim.failure_event, output=None if error else text, error=error,
    )  # fmt: skip
    done = report_outcomes(tx, [outcome])
    return None if done.succeeded + done.failed + done.retried else refusal


# -- common to all ------------------------------------------------------------------------------------------------


def record_refusal(tx: Connection, task: HumanTask, by: str, why: str, **more: Any) -> None:
    """Keep in the history that somebody was refused."""
    entry = {"type": "human.refused", "taskId": task.id, "person": by, "why": why, "shownHash": _hash(task)}
    record(tx, task.tenant_id, task.instance_id, by, entry | more)


def _refused(tx: Connection, task: HumanTask, by: Person, refusal: Refusal) -> Refusal:
    record_refusal(tx, task, by.actor, refusal.code, message=refusal.message)
    return refusal


def record(
    tx: Connection, tenant_id: TenantId, instance_id: InstanceId, by: str, entry: dict[str, Any]
) -> None:
    """Put an entry for the history into the inbox. It does not wait behind events, and is taken in every status."""
    body, now = dumps({"entry": entry}), read_now(tx)
    row = inbox.new_row(tenant_id, instance_id, InboxType.RECORD, body, by, now, lane=inbox.CONTROL)
    inbox.put(tx, [row])
    note_bell(tx, ORCHESTRATOR_QUEUE, instance_id)


def _open_task(tx: Connection, tenant_id: TenantId, task_id: str, verb: str) -> HumanTask:
    task = people.lock(tx, tenant_id, task_id) if is_id(task_id) else None
    return _usable(task, task_id, verb)


def _usable(task: HumanTask | None, task_id: str, verb: str) -> HumanTask:
    if task is None:
        raise _no_task(task_id)
    if task.type != "HUMAN":
        raise Conflict(
            f'cannot {verb} task {task_id}: it is of type "{task.type}"; who holds its lease reports with the leaseToken',
            code="task.not_human",
        )
    if task.gated:
        raise Conflict(
            f"cannot {verb} task {task_id}: its turn has not come, other items of its MAP are first",
            code="task.gated",
        )
    if task.status is not TaskStatus.RUNNING:
        when = f" at {instant_text(task.finished_at)}" if task.finished_at is not None else ""
        who = f" by {task.ended_by}" if task.ended_by is not None else ""
        raise Conflict(
            f"cannot {verb} task {task_id}: {task.status.value}{who}{when}",
            code="task.ended",
            status=task.status.value,
            endedBy=task.ended_by,
        )
    return task


def _no_task(task_id: str) -> NotFound:
    return NotFound(f'no task "{task_id[:100]}"', code="task.not_found")


def _held(task: HumanTask) -> Held:
    return Held(task.name, task.assignee, task.candidates)


def _hash(task: HumanTask) -> str:
    return shown_hash(read(task.input), task.options)
