"""The definition document: JSON in XState v5's vocabulary, as Pydantic models.

The models settle the shape and nothing else: shorthands become lists, XState's exported forms (`xstate.raise` with
`params`) become ours, unknown keys are refused. What names refer to is settled by compile.py, and whether the whole
makes sense by check.py. Invariant: a model never changes the meaning of a document that XState accepts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeAlias, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    GetJsonSchemaHandler,
    Tag,
)
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

from statechart.env import Json
from statechart.problems import nearest


class Part(BaseModel):
    """A piece of the document: camelCase outside, unknown keys refused, never changed once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel)


class Shorthand:
    """Reads a shorthand into a list, and says in the JSON Schema that one item, or a text, may stand for the list."""

    def __init__(self, read: Callable[[Json], Json], *also: JsonSchemaValue) -> None:
        self.validator = BeforeValidator(read)
        self.also = also

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        return self.validator.__get_pydantic_core_schema__(source, handler)

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        full = handler(schema)
        if full.get("type") != "array" or "items" not in full:
            return {"anyOf": [*self.also, full]}
        item = {"anyOf": [*self.also, full["items"]]} if self.also else full["items"]
        return {"anyOf": [item, {**full, "items": item}]}


def as_list(value: Json) -> Json:
    """XState's `toArray`: nothing is an empty list, one thing a list of one."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _as_number(value: Json) -> Json:
    """A number in quotes is a text, and `true` no number, though Pydantic would read both."""
    if isinstance(value, str | bool):
        raise PydanticCustomError("int_type", "Input should be a whole number")
    return value


NUMBER = BeforeValidator(_as_number)
TEXT: JsonSchemaValue = {"type": "string"}
Texts: TypeAlias = Annotated[list[str], Shorthand(as_list)]
Duration: TypeAlias = int | float | str

# --- guards ------------------------------------------------------------------------------------------------------


class NamedGuard(Part):
    """`{"type": "isAdult", "params": {...}}`: an entry of the document's `guards`, which may read `params`."""

    type: str
    params: Json = None


class AllGuard(Part):
    type: Literal["and"]
    guards: list[Guard]


class AnyGuard(Part):
    type: Literal["or"]
    guards: list[Guard]


class NotGuard(Part):
    type: Literal["not"]
    guard: Guard


class InGuard(Part):
    """`{"type": "stateIn", "state": "#id" | "a.b" | {"a": "b"}}`: is that state active?"""

    type: Literal["stateIn"]
    state: str | dict[str, Json]


class OperatorGuard(Part):
    """`{"key", "operator", "value"}`, Oven's comparison of one context value."""

    type: Literal["operator"] = Field(default="operator", exclude=True)
    key: str
    operator: str = "=="
    value: Json = None


BUILT_IN_GUARDS = ("and", "or", "not", "stateIn")


def _unprefixed(kind: str) -> str:
    for prefix in ("xstate.", "@xstate."):
        if kind.startswith(prefix):
            return kind[len(prefix) :]
    return kind


def _flattened(value: dict[str, Json], kind: str) -> dict[str, Json]:
    """XState exports what belongs to a built-in thing under `params`; we read it at the top."""
    params = value.get("params")
    flat = {**value, **params} if isinstance(params, dict) else dict(value)
    flat.pop("params", None)
    flat["type"] = kind
    return flat


def read_guard(value: Json) -> Json:
    """Bring the accepted spellings of a guard into one form."""
    if not isinstance(value, dict):
        return value
    kind = value.get("type")
    if kind is None and "key" in value:
        return {**value, "type": "operator"}
    if not isinstance(kind, str):
        return value
    kind = _unprefixed(kind)
    if kind == "condition" and isinstance(value.get("params"), dict) and "key" in value["params"]:
        return _flattened(value, "operator")
    if kind not in BUILT_IN_GUARDS:
        return value
    flat = _flattened(value, kind)
    if kind == "not" and isinstance(flat.get("guards"), list) and len(flat["guards"]) == 1:
        flat["guard"] = flat.pop("guards")[0]
    if kind == "stateIn" and "stateValue" in flat:
        flat["state"] = flat.pop("stateValue")
    return flat


def _guard_kind(value: Json) -> str | None:
    if isinstance(value, str | bool):
        return "expression"
    if isinstance(value, dict):
        kind = value.get("type")
        if kind in (*BUILT_IN_GUARDS, "operator"):
            return str(kind)
        return "named" if isinstance(kind, str) else None
    return getattr(value, "type", None)


Guard: TypeAlias = Annotated[
    Annotated[str | bool, Tag("expression")]
    | Annotated[AllGuard, Tag("and")]
    | Annotated[AnyGuard, Tag("or")]
    | Annotated[NotGuard, Tag("not")]
    | Annotated[InGuard, Tag("stateIn")]
    | Annotated[OperatorGuard, Tag("operator")]
    | Annotated[NamedGuard, Tag("named")],
    Discriminator(
        _guard_kind,
        custom_error_type="guard.form",
        custom_error_message="expected a guard: a name, an expression, {key, operator, value}, or an object with "
        "type and, or, not, stateIn or a name from guards",
    ),
    BeforeValidator(read_guard),
]

# --- tasks -------------------------------------------------------------------------------------------------------


def _read_retry(value: Json) -> Json:
    return {"maxAttempts": value} if isinstance(value, int) and not isinstance(value, bool) else value


Retry: TypeAlias = Annotated[dict[str, Json], Shorthand(_read_retry, {"type": "integer"})]


class TimeoutsSpec(Part):
    """How long a task may wait and take; each is a duration or holds `${...}`."""

    schedule_to_start: Duration | None = None
    start_to_close: Duration | None = None
    heartbeat: Duration | None = None
    schedule_to_close: Duration | None = None


class RateSpec(Part):
    """`count` tasks start in the time `per`, at most `burst` of them at once; without `burst` as many as `count`."""

    count: int | str
    per: Duration
    burst: int | str | None = None


class LimitSpec(Part):
    """Tasks under one `key` share `max_running` places and a `rate` at which they start."""

    key: str
    max_running: int | str | None = None
    rate: RateSpec | None = None


class TaskOptions(Part):
    """What may be said about a task wherever one is asked for. Every value may hold `${...}`."""

    name: str | None = None
    input: Json = None
    run_at: str | None = None
    delay: Duration | None = None
    idempotency_key: str | None = None
    retry: Retry | None = None
    max_attempts: int | str | None = None
    timeout: Duration | None = None
    timeouts: TimeoutsSpec | None = None
    priority: int | str | None = None
    queue: str | None = None
    limit: LimitSpec | None = None
    policy: dict[str, Json] | None = None
    assignee: Json = None
    candidates: Json = None
    form: Json = None
    due: Json = None
    four_eyes: Json = None
    on_lost: Json = None
    breaker: Json = None
    title: Json = None
    description: Json = None
    labels: Json = None
    links: Json = None


class Compensate(TaskOptions):
    """How finished work is undone: a task, whose values see the end of the work as `event` and its output as `output`.

    Of several, higher `order` comes first, and within the same order what ended last. `on_failure` None: a rollback or
    custom one that fails for good opens an incident, a cleanup or notification is passed over. `covers`: work that has
    succeeded, or also work that was tried and may have been done in part.
    """

    type: str
    order: Annotated[int, NUMBER] = 0
    kind: Literal["rollback", "cleanup", "notification", "custom"] = "rollback"
    on_failure: Literal["incident", "continue"] | None = None
    covers: Literal["completed", "attempted"] = "completed"


class TaskSpec(TaskOptions):
    """The `task` of a `createTask`."""

    type: str
    compensate: Compensate | None = None
    output_key: str | None = None
    completion_event: str | None = None
    failure_event: str | None = None


# --- actions -----------------------------------------------------------------------------------------------------

EventSpec: TypeAlias = str | dict[str, Json]


class CreateTaskAction(TaskOptions):
    """`{"type": "createTask", "task": {...}}`; options beside `task` hold where `task` does not say otherwise."""

    type: Literal["createTask"]
    task: TaskSpec
    compensate: Compensate | None = None
    output_key: str | None = None
    completion_event: str | None = None
    failure_event: str | None = None


class AssignAction(Part):
    """`{path, value}` or `{values: {path: value}}`; XState's `{assignment: {...}}` is the latter."""

    type: Literal["assign"]
    path: str | None = None
    value: Json = None
    values: dict[str, Json] | None = None


class RaiseAction(Part):
    type: Literal["raise"]
    event: EventSpec
    delay: Duration | None = None
    id: str | None = None


class SendAction(Part):
    type: Literal["send"]
    to: str | dict[str, Json] = "self"
    event: EventSpec
    delay: Duration | None = None
    id: str | None = None


class EmitAction(Part):
    type: Literal["emit"]
    event: EventSpec


class CancelAction(Part):
    type: Literal["cancel"]
    id: str


class StartWorkflowAction(Part):
    type: Literal["startWorkflow"]
    definition_key: str
    version: int | str | None = None
    input: Json = None
    business_key: str | None = None
    wait: bool = True
    cancel_with_parent: bool = True
    completion_event: str | None = None
    failure_event: str | None = None


class LogAction(Part):
    type: Literal["log"]
    message: Json = None
    label: str | None = None
    level: Literal["debug", "info", "warning", "error"] = "info"


ACTION_KINDS = (
    "createTask",
    "assign",
    "raise",
    "send",
    "emit",
    "cancel",
    "startWorkflow",
    "log",
)
_SPELLINGS = {"sendTo": "send", "sendParent": "send"}


def read_action(value: Json) -> Json:
    """Bring the accepted spellings of an action into one form; refuse what is not ours to do."""
    if isinstance(value, str):
        raise _unknown_action(value)
    if not isinstance(value, dict) or not isinstance(value.get("type"), str):
        return value
    written = value["type"]
    kind = action_kind(written)
    if kind not in ACTION_KINDS:
        raise _unknown_action(written)
    if kind == written and "params" not in value:
        return value
    flat = _flattened(value, kind)
    if _unprefixed(written) == "sendParent":
        flat["to"] = "parent"
    return _renamed(flat, kind)


def action_kind(written: str) -> str:
    """Our name for a type of action in any of its spellings; the type itself where it is not ours to do."""
    kind = written if written in ACTION_KINDS else _unprefixed(written)
    return _SPELLINGS.get(kind, kind)


_XSTATE_NAMES = {"cancel": ("sendId", "id"), "assign": ("assignment", "values"), "log": ("value", "message")}


def _renamed(flat: dict[str, Json], kind: str) -> dict[str, Json]:
    theirs, ours = _XSTATE_NAMES.get(kind, ("", ""))
    if theirs in flat and ours not in flat and not (kind == "assign" and "path" in flat):
        flat[ours] = flat.pop(theirs)
    return flat


def _unknown_action(kind: str) -> PydanticCustomError:
    return PydanticCustomError(
        "action.unknown",
        "unknown action {kind}; expected one of {known}",
        {"kind": repr(kind), "known": ", ".join(ACTION_KINDS), "suggestion": nearest(kind, ACTION_KINDS)},
    )


def _action_kind(value: Json) -> str | None:
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return kind if isinstance(kind, str) else None


Action: TypeAlias = Annotated[
    Annotated[CreateTaskAction, Tag("createTask")]
    | Annotated[AssignAction, Tag("assign")]
    | Annotated[RaiseAction, Tag("raise")]
    | Annotated[SendAction, Tag("send")]
    | Annotated[EmitAction, Tag("emit")]
    | Annotated[CancelAction, Tag("cancel")]
    | Annotated[StartWorkflowAction, Tag("startWorkflow")]
    | Annotated[LogAction, Tag("log")],
    Discriminator(
        _action_kind,
        custom_error_type="action.form",
        custom_error_message="expected an action, an object with a type of createTask, assign, raise, send, emit, "
        "cancel, startWorkflow or log",
    ),
    BeforeValidator(read_action),
]
Actions: TypeAlias = Annotated[list[Action], Shorthand(as_list)]

# --- transitions and states --------------------------------------------------------------------------------------


class Transition(Part):
    """A candidate: taken when its guard holds and no earlier candidate did."""

    target: Texts | None = None
    guard: Guard | None = None
    actions: Actions = Field(default_factory=list)
    reenter: bool = False
    description: str | None = None
    meta: Json = None
    # what `JSON.stringify(machine)` adds and XState itself does not read back
    source: Json = None
    event_type: Json = None


def as_transitions(value: Json) -> Json:
    """A target alone, one candidate or a list of either; `{}` and `""` forbid."""
    return [as_transition(item) for item in value] if isinstance(value, list) else [as_transition(value)]


def as_transition(value: Json) -> Json:
    if isinstance(value, str):
        return {"target": value} if value else {}
    if isinstance(value, dict) and value.get("target") == "":
        return {key: item for key, item in value.items() if key != "target"}
    return value


Transitions: TypeAlias = Annotated[list[Transition], Shorthand(as_transitions, TEXT)]


class Initial(Part):
    """`"child"` or `{"target": "child", "actions": [...]}`."""

    target: str
    actions: Actions = Field(default_factory=list)
    description: str | None = None
    meta: Json = None
    source: Json = None
    event_type: Json = None
    reenter: Json = None


def as_initial(value: Json) -> Json:
    if isinstance(value, str):
        return {"target": value}
    if isinstance(value, dict) and isinstance(value.get("target"), list) and len(value["target"]) == 1:
        return {**value, "target": value["target"][0]}
    return value


class Invoke(TaskOptions):
    """Work that belongs to a state: created on entry, cancelled on exit. `src` (or `type`) is the task type."""

    src: str | None = None
    type: str | None = None
    id: str | None = None
    compensate: Compensate | None = None
    output_key: str | None = None
    on_done: Transitions = Field(default_factory=list)
    on_error: Transitions = Field(default_factory=list)
    on_snapshot: Transitions = Field(default_factory=list)
    system_id: Json = None


def _read_history(value: Json) -> Json:
    return {True: "shallow", False: None}[value] if isinstance(value, bool) else value


class StateBody(Part):
    """What the root and every other state have in common."""

    type: Literal["atomic", "compound", "parallel", "final", "history"] | None = None
    initial: Annotated[Initial, Shorthand(as_initial, TEXT)] | None = None
    states: dict[str, State] = Field(default_factory=dict)
    on: dict[str, Transitions] = Field(default_factory=dict)
    always: Transitions = Field(default_factory=list)
    after: dict[str, Transitions] = Field(default_factory=dict)
    entry: Actions = Field(default_factory=list)
    exit: Actions = Field(default_factory=list)
    invoke: Annotated[list[Invoke], Shorthand(as_list)] = Field(default_factory=list)
    on_done: Transitions = Field(default_factory=list)
    history: Annotated[Literal["shallow", "deep"] | None, Shorthand(_read_history, {"type": "boolean"})] = (
        None
    )
    target: Texts | None = None
    id: str | None = None
    tags: Texts = Field(default_factory=list)
    meta: Json = None
    output: Json = None
    description: str | None = None
    # what `JSON.stringify(machine)` adds and XState itself does not read back
    key: Json = None
    order: Json = None
    version: Json = None
    transitions: Json = None


class State(StateBody):
    """A state below the root."""


class Timetable(Part):
    """When to start instances: exactly one of `cron`, `every` and `at`. What the texts mean is read by who keeps schedules."""

    cron: str | None = None
    every: Duration | None = None
    at: str | None = None
    timezone: str = "UTC"
    overlap: Literal["skip", "queue", "cancel", "allow"] = "skip"
    catch_up: Literal["none", "last", "all"] = "last"
    catch_up_limit: Annotated[int, Field(ge=1), NUMBER] = 10
    jitter: Duration = 0
    paused: bool = False


class Trigger(Part):
    """Start an instance when `event` is published and `condition` holds, or at the times of `schedule`."""

    name: str | None = None
    event: str | None = None
    schedule: Timetable | None = None
    condition: Guard | None = None
    business_key: str | None = None
    input: Json = None


def as_triggers(value: Json) -> Json:
    """A text is the event alone."""
    return [{"event": one} if isinstance(one, str) else one for one in as_list(value)]


class Defaults(Part):
    """What holds for every task of the definition that does not say otherwise."""

    retry: Retry | None = None
    timeout: Duration | None = None
    timeouts: TimeoutsSpec | None = None
    task: dict[str, Json] | None = None


FOREVER = "forever"
MAX_PLACES = 1_000_000


class RetentionSpec(Part):
    """How long finished instances are kept, by how they ended: each a duration, or "forever"."""

    completed: Duration | None = None
    cancelled: Duration | None = None
    timed_out: Duration | None = None
    default: Duration | None = None


Ending: TypeAlias = Literal["failed", "cancelled", "timed_out"]
ENDINGS: tuple[Ending, ...] = get_args(Ending)


class CompensationSpec(Part):
    """When what was done is undone, by how the instance ends, and after which errors it is not."""

    on: list[Ending] = Field(default_factory=lambda: list(ENDINGS))
    except_: Annotated[list[str], Shorthand(as_list)] = Field(default_factory=list, alias="except")


class ConcurrencySpec(Part):
    """How many instances that give the same `key` may run at once, and what becomes of a start when they do."""

    max: Annotated[int, Field(ge=1, le=MAX_PLACES), NUMBER]
    key: str | None = None
    on_full: Literal["queue", "reject", "cancelOldest"] = "queue"


class Definition(StateBody):
    """The whole document."""

    context: dict[str, Json] = Field(default_factory=dict)
    config: dict[str, dict[str, Json]] = Field(default_factory=dict)
    guards: dict[str, Guard] = Field(default_factory=dict)
    delays: dict[str, Duration] = Field(default_factory=dict)
    input: Json = None
    events: Json = None
    triggers: Annotated[list[Trigger], Shorthand(as_triggers, TEXT)] = Field(default_factory=list)
    timeout: Duration | None = None
    max_steps: Annotated[int, Field(ge=1, le=1_000_000), NUMBER] | None = None
    compensation: CompensationSpec | None = None
    retention: RetentionSpec | None = None
    defaults: Defaults | None = None
    concurrency: ConcurrencySpec | None = None
    labels: Json = None
    # XState's and editors' own, kept and not read
    schema_: Json = Field(default=None, alias="$schema")
    types: Json = None
    schemas: Json = None
    options: Json = None


for _model in (AllGuard, AnyGuard, NotGuard, StateBody, State, Transition, Definition):
    _model.model_rebuild()
