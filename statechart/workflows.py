"""Child workflows: reading what `startWorkflow` and a task of type WORKFLOW ask for.

The kernel names the child before it exists: its id follows from the seed and the time of the step, so that the history
of the parent tells it and a replay tells the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from hashlib import sha256

from statechart.actions import as_integer, as_text
from statechart.draft import ActionFailed, Draft
from statechart.effects import CreateTask, StartWorkflow
from statechart.env import Env, Json
from statechart.templates import is_template

FIELDS = ("definitionKey", "version", "input", "businessKey", "wait", "cancelWithParent")
"""What may be said of a child, beside `startWorkflow` and in the input of a WORKFLOW task."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def child_of(
    draft: Draft, key: str, spec: Mapping[str, Json], *, completion_event: str, failure_event: str
) -> StartWorkflow:
    """What evaluated fields ask for under the obligation `key`. Raises `ActionFailed` where they are of no use."""
    version, business_key = spec.get("version"), spec.get("businessKey")
    return StartWorkflow(
        key=key,
        definition_key=definition_key_of(spec),
        version=None if version is None else _version(version, "workflow.version"),
        input=spec.get("input"),
        business_key=None if business_key is None else _key(business_key, "workflow.business_key"),
        wait=_flag(spec, "wait"),
        cancel_with_parent=_flag(spec, "cancelWithParent"),
        completion_event=completion_event,
        failure_event=failure_event,
        instance_id=child_id(draft.env, key),
    )


def definition_key_of(spec: Mapping[str, Json]) -> str:
    return as_text(spec.get("definitionKey"), "workflow.definition_key", "a definition key")


def child_of_task(draft: Draft, task: CreateTask) -> StartWorkflow:
    """The child of a WORKFLOW task, whose input says which. Raises `ActionFailed`."""
    spec = task.input
    if not isinstance(spec, Mapping):
        raise ActionFailed("workflow.input", f"expected an object with a definitionKey, found {spec!r:.80}")
    unknown = sorted(set(spec).difference(FIELDS))
    if unknown:
        raise ActionFailed(
            "workflow.input", f"unknown field {unknown[0]!r:.80}; a workflow takes {', '.join(FIELDS)}"
        )
    if task.idempotency_key is not None:
        raise ActionFailed(
            "workflow.idempotency_key", "a WORKFLOW task takes no idempotencyKey; give it a businessKey"
        )
    child = child_of(
        draft, task.key, spec, completion_event=task.completion_event, failure_event=task.failure_event
    )
    return child.later(start_at=task.run_at, priority=task.priority)


def literal_problems(given: Mapping[str, Json]) -> Iterator[tuple[str, str, str]]:
    """(member, code, what is wrong) of what is written of a child and can never be right. `definitionKey` is always there."""
    for name, (code, read) in _READERS.items():
        value = given.get(name)
        if is_template(value) or (value is None and name != "definitionKey"):
            continue
        try:
            read(value, code)
        except ActionFailed as wrong:
            yield name, code, wrong.message
    for name in ("wait", "cancelWithParent"):
        value = given.get(name, True)
        if not isinstance(value, bool) and not is_template(value):
            yield name, "workflow.input", f"expected true or false, found {value!r:.80}"


def _key(value: Json, code: str) -> str:
    return as_text(value, code, "a key")


def _version(value: Json, code: str) -> int:
    return as_integer(value, code, "a version")


_READERS: Mapping[str, tuple[str, Callable[[Json, str], object]]] = {
    "definitionKey": ("workflow.definition_key", _key),
    "version": ("workflow.version", _version),
    "businessKey": ("workflow.business_key", _key),
}


def child_id(env: Env, key: str) -> str:
    """A UUIDv7 of the step's time (RFC 9562, section 5.7), its other 74 bits from the step's seed and the key."""
    milliseconds = (env.now - _EPOCH) // _MILLISECOND % 2**48
    raw = bytearray(milliseconds.to_bytes(6, "big"))
    raw += sha256(f"{env.seed}/child/{key}".encode("utf-8", "surrogatepass")).digest()[:10]
    raw[6] = raw[6] & 0x0F | 0x70
    raw[8] = raw[8] & 0x3F | 0x80
    digits = raw.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def _flag(spec: Mapping[str, Json], name: str) -> bool:
    value = spec.get(name, True)
    if not isinstance(value, bool):
        raise ActionFailed("workflow.input", f"{name}: expected true or false, found {value!r:.80}")
    return value
