"""What can be said against the input of a MAP before it runs: its parts, its literals, the task of its items."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import ValidationError

from statechart.document import TaskSpec
from statechart.env import Json
from statechart.expected import complaint
from statechart.findings import Findings, join
from statechart.maps import FIELDS, JOINS, MAX_ITEMS, NO_ITEM, ON_ERROR, PARTS
from statechart.problems import nearest
from statechart.templates import is_template


def check_map(findings: Findings, given: Json, at: str) -> str | None:
    """Find what is wrong in the input of a MAP, as far as it is written out; the part that says what an item is."""
    if not isinstance(given, Mapping):
        findings.error(
            "map.input", at, f"expected an object with items and a task or workflow, found {given!r:.80}"
        )
        return None
    for name in given:
        if name not in FIELDS:
            known = ", ".join(FIELDS)
            message = f"unknown field {name!r}; a MAP takes {known}"
            findings.error("map.input", join(at, name), message, nearest(name, FIELDS))
    if "items" not in given:
        findings.error("map.input", at, "expected items, found none")
    _check_literals(findings, given, at)
    parts = [part for part in PARTS if given.get(part) is not None]
    if len(parts) != 1:
        found = "both" if parts else "neither"
        findings.error("map.input", at, f"expected either a task or a workflow for each item, found {found}")
        return None
    return parts[0]


def _check_literals(findings: Findings, given: Mapping[str, Json], at: str) -> None:
    items, policy = given.get("items"), given.get("onError")
    total = None
    if isinstance(items, list):
        total = len(items)
        if total > MAX_ITEMS:
            message = f"expected at most {MAX_ITEMS:,} items, found {total:,}"
            findings.error("map.items", join(at, "items"), message)
    elif "items" in given and not is_template(items):
        findings.error("map.items", join(at, "items"), f"expected a list of items, found {items!r:.80}")
    if policy is not None and not is_template(policy) and policy not in ON_ERROR:
        message = f"expected one of {', '.join(ON_ERROR)}, found {policy!r:.80}"
        findings.error("map.on_error", join(at, "onError"), message, nearest(str(policy), ON_ERROR))
    concurrency = given.get("concurrency")
    if concurrency is not None and not is_template(concurrency) and not _is_count(concurrency):
        message = f"expected how many items run at once, at least 1, found {concurrency!r:.80}"
        findings.error("map.concurrency", join(at, "concurrency"), message)
    _check_join(findings, given.get("join", "all"), total, join(at, "join"))


def _check_join(findings: Findings, joined: Json, total: int | None, at: str) -> None:
    if is_template(joined) or joined in JOINS:
        quorum = 1 if joined == "any" else None
    elif isinstance(joined, Mapping) and set(joined) == {"quorum"} and _is_count(joined["quorum"]):
        quorum = int(joined["quorum"])
    else:
        message = f'expected "all", "any" or {{"quorum": n}} of at least 1, found {joined!r:.80}'
        findings.error("map.join", at, message, nearest(str(joined), JOINS))
        return
    if quorum is not None and total is not None and quorum > total:
        findings.error(
            "map.join", at, f"expected at most {total:,}, the items, to be needed, found {quorum:,}"
        )


def _is_count(value: Json) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and value >= 1 and value == int(value)


def read_item(findings: Findings, given: Json, at: str) -> TaskSpec | None:
    """The task of the items, as a `createTask` has it; None where it is of no use."""
    try:
        part = TaskSpec.model_validate(given)
    except ValidationError as invalid:
        for detail in invalid.errors(include_url=False):
            where = ".".join(str(part) for part in detail["loc"])
            known = [field.alias or name for name, field in TaskSpec.model_fields.items()]
            is_unknown = detail["type"] == "extra_forbidden"
            message = f"unknown key {where!r}" if is_unknown else complaint(detail)
            suggestion = nearest(where, known) if is_unknown else None
            findings.error("map.task", join(at, where) if where else at, message, suggestion)
        return None
    if part.type in NO_ITEM:
        in_workflow = part.type in ("WORKFLOW", "AI", "MAP")
        hint = "; write a workflow in place of the task" if in_workflow else ""
        message = f"an item of a MAP cannot be a task of type {part.type!r}{hint}"
        findings.error("map.task", join(at, "type"), message)
    for name, value in (("completionEvent", part.completion_event), ("failureEvent", part.failure_event)):
        if value is not None:
            findings.error("map.task", join(at, name), "an item sends no event: its MAP does when it ends")
    if part.compensate is not None:
        message = (
            "an item of a MAP is not undone by itself; say beside the MAP how it is compensated as a whole"
        )
        findings.error("map.task", join(at, "compensate"), message)
    if part.idempotency_key is not None:
        message = "an item of a MAP takes no idempotencyKey"
        findings.error("map.idempotency_key", join(at, "idempotencyKey"), message)
    return part
