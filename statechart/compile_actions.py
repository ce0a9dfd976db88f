"""Actions of the document to actions of the chart: values compiled, literals checked, places numbered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence

from pydantic.alias_generators import to_camel

from statechart import actions, people, tasks
from statechart.chart import AnswerKind, AskedTask, Block, StateNode, UseKind, Work
from statechart.compensation import PASSED_OVER, UNDOES_NOTHING, Compensator
from statechart.compile_maps import check_map, read_item
from statechart.compile_polls import read_poll
from statechart.document import (
    Action,
    AssignAction,
    CancelAction,
    Compensate,
    CreateTaskAction,
    Defaults,
    Definition,
    Duration,
    EmitAction,
    EventSpec,
    Invoke,
    LimitSpec,
    LogAction,
    RaiseAction,
    SendAction,
    StartWorkflowAction,
    TaskOptions,
    TimeoutsSpec,
)
from statechart.draft import MAX_DEPTH
from statechart.durations import parse_duration
from statechart.env import Json
from statechart.findings import Findings, join
from statechart.limits import limit_problems
from statechart.links import problems_of as problems_of_links
from statechart.maps import PARTS, EachItem
from statechart.naming import MOST_INDEXED, is_indexed, js_order
from statechart.polls import POLL, poll_name
from statechart.problems import nearest
from statechart.retry import RETRY, read_member
from statechart.templates import Value, Where, is_template
from statechart.timeouts import SHORT
from statechart.workflows import FIELDS as WORKFLOW_FIELDS
from statechart.workflows import literal_problems

# Nobody resolves a secret in what these are given: it is shown, kept, or handed on as data.
_WITHOUT_HANDLER = (*tasks.INSTANT_TYPES, "TIMER", "WORKFLOW", "HUMAN", "MAP")
_MAP_NAMES = ("item", "index")  # what the template of a MAP's items may read beside the roots
MAX_PATH = MAX_DEPTH - 1
"""Parts of a path in the context: around the context is the snapshot, and each part but the last is an object in it."""
_NAMES = {"name": "task.name", "idempotencyKey": "task.idempotency_key", "queue": "task.queue"}
_ON_LOST = ("retry", "fail")
_OPTIONS = {name: to_camel(name) for name in TaskOptions.model_fields}


class ActionCompiler:
    def __init__(self, definition: Definition, findings: Findings) -> None:
        self.findings = findings
        self.delays = definition.delays
        self.defaults = self._defaults(definition.defaults) if definition.defaults is not None else {}
        self.work: dict[str, Work] = {}  # by place
        self.result_names: set[str] = set()
        self.computes_names = False
        self._ordinals: Counter[StateNode] = Counter()

    def block(self, parts: Sequence[Action], node: StateNode, at: str) -> Block:
        """Actions that stand together: where one fails, the rest of its block is given up."""
        if len(parts) < 2:
            return (self._action(parts[0], node, at),) if parts else ()
        return tuple(self._action(part, node, f"{at}[{index}]") for index, part in enumerate(parts))

    def place(self, node: StateNode) -> str:
        """The next place in `node` that asks for obligations. Numbered in the order of compilation, which is fixed."""
        self._ordinals[node] += 1
        return f"{node.name}/{self._ordinals[node]}"

    def _action(self, part: Action, node: StateNode, at: str) -> actions.Action:
        action: actions.Action
        match part:
            case AssignAction():
                action = self._assign(part, at)
            case CreateTaskAction():
                action = self._new_task(part, node, at)
            case RaiseAction():
                action = actions.Raise(at, self.place(node), *self._delayed_event(part, node, at))
            case SendAction():
                to = self._addressee(part.to, join(at, "to"))
                action = actions.Send(at, self.place(node), to, *self._delayed_event(part, node, at))
            case EmitAction():
                action = actions.EmitEvent(at, self.place(node), self._event(part.event, at))
            case CancelAction():
                self._note("cancelled_id", part.id, at, node)
                action = actions.Cancel(at, self.findings.value(part.id, join(at, "id")))
            case StartWorkflowAction():
                action = self._new_workflow(part, node, at)
            case LogAction():
                message = self.findings.value(part.message, join(at, "message"))
                action = actions.WriteLog(at, message, part.label, part.level)
        return action

    def _delayed_event(
        self, part: RaiseAction | SendAction, node: StateNode, at: str
    ) -> tuple[Value, Value | None, Value | None]:
        identifier = None if part.id is None else self.findings.value(part.id, join(at, "id"))
        self._note("cancellable_id", part.id, at, node)
        if isinstance(part, RaiseAction) or part.to == "self":
            kind = part.event if isinstance(part.event, str) else part.event.get("type")
            self._note("raised_event", kind, join(at, "event"), node)
        return self._event(part.event, at), self._delay(part.delay, at), identifier

    def _note(self, kind: UseKind, name: Json, at: str, node: StateNode) -> None:
        """Note a name that is written out; one that is only known later cannot be checked."""
        if isinstance(name, str) and not is_template(name):
            self.findings.use(kind, name, at, node)

    # --- assign

    def _assign(self, part: AssignAction, at: str) -> actions.Assign:
        given = part.model_fields_set
        if ("path" in given) == ("values" in given):
            self.findings.error("assign.form", at, "expected either path and value, or values")
        if "path" in given and "value" not in given:
            self.findings.error("assign.form", at, "expected a value beside path, found none")
        pairs: Mapping[str, Json] = part.values or {}
        if part.path is not None:
            pairs = {part.path: part.value}
        return actions.Assign(
            at,
            tuple(
                (self.context_path(path, at), self.findings.value(value, _value_at(part, path, at)))
                for path, value in js_order(pairs)
            ),
        )

    def context_path(self, path: str, at: str) -> tuple[str, ...]:
        keys = tuple(path.split("."))
        if "" in keys or "${" in path:
            self.findings.error(
                "assign.path", at, f"expected a path in the context such as 'order.total', found {path!r}"
            )
        elif len(keys) > MAX_PATH:
            self.findings.error(
                "assign.path",
                at,
                f"expected a path of at most {MAX_PATH} parts, which is as deep as a context may nest, found {len(keys)}",
            )
        elif keys[0] in ("context", "$") and len(keys) > 1:
            rest = path.partition(".")[2]
            self.findings.error(
                "assign.path",
                at,
                f"expected a path inside the context, which needs no {keys[0]!r} before it",
                rest,
            )
        return keys

    # --- events

    def _event(self, event: EventSpec, at: str) -> Value:
        where = join(at, "event")
        kind = event if isinstance(event, str) else event.get("type")
        if not isinstance(kind, str) or not kind:
            self.findings.error(
                "event.form", where, f"expected an event type or an object with a type, found {event!r}"
            )
        return self.findings.value(event, where)

    def _addressee(self, to: str | Mapping[str, Json], at: str) -> Value:
        if isinstance(to, str) and not is_template(to) and to not in actions.NAMED_ADDRESSEES:
            self.findings.error(
                "send.to",
                at,
                'expected "self", "parent", {"instanceId"} or {"definitionKey", "businessKey"}, '
                f"found {to!r}",
                nearest(to, ("self", "parent")),
            )
        if isinstance(to, Mapping) and set(to) not in (
            {"instanceId"},
            {"definitionKey", "businessKey"},
            {"parent"},
        ):
            self.findings.error(
                "send.to",
                at,
                'expected {"instanceId"} or {"definitionKey", "businessKey"}, '
                f"found an object with {', '.join(map(repr, to)) or 'nothing'}",
            )
        return self.findings.value(to, at)

    def _delay(self, delay: Duration | None, at: str) -> Value | None:
        return None if delay is None else self.delay(delay, join(at, "delay"))

    def delay(self, delay: Duration, at: str) -> Value:
        """A duration, an expression that gives one, or a name from the document's `delays`."""
        return self.findings.value(self._duration(delay, at), at)

    # --- tasks

    def _new_task(self, part: CreateTaskAction, node: StateNode, at: str) -> tasks.NewTask:
        inside = join(at, "task")
        fields = _merged(self._options(part, at), self._options(part.task, inside))
        fields["type"] = part.task.type
        self._note_task(fields, node, inside)
        self._answered_by(
            fields,
            "completion_event",
            _first(part.task.completion_event, part.completion_event),
            inside,
            node,
        )
        self._answered_by(
            fields, "failure_event", _first(part.task.failure_event, part.failure_event), inside, node
        )
        self._check_workflow(fields, inside, node)
        self._check_people(fields, inside)
        self._check_timer(fields, inside)
        self._note_result(_name(fields))
        where = (inside, part.task.output_key) if part.task.output_key is not None else (at, part.output_key)
        undo = (inside, part.task.compensate) if part.task.compensate is not None else (at, part.compensate)
        task = tasks.NewTask(
            at,
            self.place(node),
            self._template(fields, inside, node),
            self._output_key(*where),
            self._compensator(undo[1], join(undo[0], "compensate"), fields, node),
        )
        self.work[task.place] = task
        return task

    def invoke(self, part: Invoke, identifier: str, node: StateNode, at: str) -> tasks.InvokeTask:
        kind = part.src or part.type
        if not kind:
            self.findings.error("invoke.src", at, "expected src, the type of the task to run, found none")
        fields = {**self._options(part, at), "type": kind}
        self._note_task(fields, node, at)
        self._check_workflow(fields, at, node)
        self._check_people(fields, at)
        self._check_timer(fields, at)
        self._note("invoke_id", identifier, at, node)
        self._note("cancellable_id", identifier, at, node)
        names = [
            name for name in (node.name, part.id, part.name) if name is not None and not is_template(name)
        ]
        for name in names:
            self._note_result(name)
        invoke = tasks.InvokeTask(
            at,
            self.place(node),
            identifier,
            self._template(fields, at, node),
            self._output_key(at, part.output_key),
            tuple(dict.fromkeys(names)),
            self._compensator(part.compensate, join(at, "compensate"), fields, node),
        )
        self.work[invoke.place] = invoke
        return invoke

    def _compensator(
        self, part: Compensate | None, at: str, work: Mapping[str, Json], node: StateNode
    ) -> Compensator | None:
        """How the work with the fields `work` is undone."""
        if part is None:
            return None
        if work["type"] == "TIMER":
            self.findings.error("compensate.work", at, "a TIMER does nothing that could be undone")
        if part.type in UNDOES_NOTHING:
            self.findings.error(
                "compensate.type",
                join(at, "type"),
                f"no compensation can be a task of type {part.type!r}: a task runner executes it, or the step itself",
            )
            return None
        fields = {**self._options(part, at), "type": part.type}
        self._note("task_type", part.type, at, node)
        self._note("task_name", _name(fields), at, node)
        passes_over = part.kind in PASSED_OVER
        return Compensator(
            at,
            self._template(fields, at, node, ("output",)),
            part.order,
            part.kind,
            part.on_failure or ("continue" if passes_over else "incident"),
            part.covers,
        )

    def _output_key(self, at: str, path: str | None) -> tuple[str, ...] | None:
        return None if path is None else self.context_path(path, join(at, "outputKey"))

    def _note_result(self, name: Json) -> None:
        """Note under which name expressions find the result of some work; one that is computed may be any."""
        if not isinstance(name, str) or is_template(name):
            self.computes_names = True
        else:
            self.result_names.add(name)

    def _answered_by(
        self, fields: dict[str, Json], kind: AnswerKind, name: str | None, at: str, node: StateNode
    ) -> None:
        if name is not None:
            if not is_template(name) and (not name or "*" in name):
                message = f'expected an event type, which has no "*", found {name!r:.80}'
                self.findings.error("event.form", join(at, to_camel(kind)), message)
            fields[to_camel(kind)] = name
            self._note(kind, name, at, node)

    def _note_task(self, fields: Mapping[str, Json], node: StateNode, at: str) -> None:
        self._note("task_type", fields["type"], at, node)
        name = _name(fields)
        self._note("task_name", name, at, node)
        self._note("cancellable_id", name, at, node)

    def _options(self, part: TaskOptions, at: str) -> dict[str, Json]:
        """The options that were written, by their names in the document; literals are checked here."""
        given = part.model_fields_set
        fields = {key: getattr(part, name) for name, key in _OPTIONS.items() if name in given}
        if fields.get("delay") is not None:
            fields["delay"] = self._duration(fields["delay"], join(at, "delay"))
        fields.pop("timeout", None)
        fields["timeouts"] = self._timeouts(part, at)
        fields["retry"] = self._retry(fields.get("retry"), join(at, "retry"))
        self._check_literals(fields, at)
        lost = fields.get("onLost")
        if lost is not None and not is_template(lost) and lost not in _ON_LOST:
            found = f"expected one of {', '.join(map(repr, _ON_LOST))}, found {lost!r}"
            self.findings.error("task.on_lost", join(at, "onLost"), found, nearest(str(lost), _ON_LOST))
        if part.limit is not None:
            fields["limit"] = self._limit(part.limit, join(at, "limit"))
        self._check_breaker(fields.get("breaker"), join(at, "breaker"))
        return {key: value for key, value in fields.items() if value is not None}

    def _check_literals(self, fields: Mapping[str, Json], at: str) -> None:
        for name, (code, read) in tasks.READERS.items():
            value = fields.get(name)
            if value is None or is_template(value):
                continue
            try:
                read(value)
            except ValueError as wrong:
                self.findings.error(code, join(at, name), str(wrong))
        for name, code in _NAMES.items():
            if fields.get(name) == "":
                self.findings.error(code, join(at, name), "expected a text, or to be left out, found ''")
        identity = fields.get("idempotencyKey")
        if isinstance(identity, str) and not is_template(identity) and not is_indexed(identity):
            message = (
                f"expected a key of at most {MOST_INDEXED:,} bytes, found one of {len(identity):,} characters"
            )
            self.findings.error("task.idempotency_key", join(at, "idempotencyKey"), message)

    def _limit(self, written: LimitSpec, at: str) -> dict[str, Json]:
        limit: dict[str, Json] = written.model_dump(by_alias=True, exclude_none=True)
        if written.rate is not None:
            limit["rate"]["per"] = self._duration(written.rate.per, join(at, "rate.per"))
        return limit

    def _check_breaker(self, written: Json, at: str) -> None:
        if written is not None and not isinstance(written, bool) and not is_template(written):
            self.findings.error("task.breaker", at, f"expected true or false, found {written!r}")

    def _timeouts(self, part: TaskOptions | Defaults, at: str) -> dict[str, Json] | None:
        """What was written of the time-outs, by their names; `timeout` under the name that it is short for."""
        written = part.timeouts or TimeoutsSpec()
        given = {to_camel(name): getattr(written, name) for name in sorted(written.model_fields_set)}
        places = {name: join(at, f"timeouts.{name}") for name in given}
        if part.timeout is not None:
            if given.get(SHORT) is not None:
                self.findings.error(
                    "timeout.twice",
                    at,
                    f"expected timeout or timeouts.{SHORT}, which mean the same, found both",
                )
            given[SHORT], places[SHORT] = part.timeout, join(at, "timeout")
        checked = {
            name: self._timeout(value, places[name]) for name, value in given.items() if value is not None
        }
        return checked or None

    def _timeout(self, duration: Duration, at: str) -> Duration:
        checked = self._duration(duration, at)
        if checked == 0:
            self.findings.error("duration.invalid", at, "expected a time-out of at least 1 ms, found 0")
        return checked

    def _retry(self, policy: Mapping[str, Json] | None, at: str) -> dict[str, Json] | None:
        """A policy whose literals are right; what is computed shows when the task is created."""
        if policy is None:
            return None
        read = dict(policy)
        for name, value in policy.items():
            where = join(at, name)
            if name not in RETRY:
                known = ", ".join(RETRY)
                self.findings.error(
                    "retry.unknown", where, f"expected one of {known}, found {name!r}", nearest(name, RETRY)
                )
            elif name in ("interval", "maxInterval") and isinstance(value, str | int | float):
                self._duration(value, where)
                read[name] = self._named_delay(value)
            elif not is_template(value):
                try:
                    read_member(name, value)
                except ValueError as wrong:
                    self.findings.error("retry.invalid", where, str(wrong))
        return read

    def _defaults(self, defaults: Defaults) -> dict[str, Json]:
        given = {
            "retry": self._retry(defaults.retry, "defaults.retry"),
            "timeouts": self._timeouts(defaults, "defaults"),
        }
        return {key: value for key, value in given.items() if value is not None}

    def _duration(self, duration: Duration, at: str) -> Duration:
        duration = self._named_delay(duration)
        if not is_template(duration):
            try:
                return parse_duration(duration)
            except ValueError as wrong:
                known = f"; delays has {', '.join(map(repr, self.delays))}" if self.delays else ""
                self.findings.error(
                    "duration.invalid", at, f"{wrong}{known}", nearest(str(duration), self.delays)
                )
        return duration

    def _named_delay(self, duration: Duration) -> Duration:
        return self.delays.get(duration, duration) if isinstance(duration, str) else duration

    def _template(
        self, fields: dict[str, Json], at: str, node: StateNode, names: Collection[str] = ()
    ) -> tasks.TaskTemplate:
        """The fields of a task with the definition's defaults; expressions may read `names` beside the roots."""
        merged = _merged(self.defaults, {key: value for key, value in fields.items() if value is not None})
        constants: dict[str, Json] = {}
        each: EachItem | None = None
        given = merged.get("input")
        self.findings.asked.append(
            AskedTask(merged.get("type", ""), merged.get("name"), given, join(at, "input"))
        )
        if merged.get("type") == POLL:
            merged, constants = self._poll(merged, at, node)
        if merged.get("type") == "MAP" and not names:
            if merged.get("idempotencyKey") is not None:
                message = "a MAP takes no idempotencyKey"
                self.findings.error("map.idempotency_key", join(at, "idempotencyKey"), message)
            part = check_map(self.findings, given, join(at, "input"))
            if part is not None and isinstance(given, Mapping):
                each = self._each_item(part, given[part], join(at, f"input.{part}"), node)
                merged["input"] = {key: value for key, value in given.items() if key not in PARTS}
        for path, problem in limit_problems(merged.get("type", ""), merged.get("limit")):
            self.findings.error("task.limit", join(at, f"limit.{path}" if path else "limit"), problem)
        for link in problems_of_links(merged):
            self.findings.error("link.invalid", join(at, link.at), link.message, link.suggestion)
        compiled = self.findings.value(merged, at, names, may_hold_secret=_places_of_secrets(merged))
        return tasks.TaskTemplate(compiled, each, constants)

    def _each_item(self, part: str, given: Json, at: str, node: StateNode) -> EachItem | None:
        """What becomes of each item of a MAP, written once and filled in for each."""
        if part == "workflow":
            self._check_workflow_input(given, at, node)
            if isinstance(given, Mapping) and given.get("wait") is False:
                self.findings.error("map.workflow", join(at, "wait"), "a MAP waits for each of its workflows")
            return EachItem(workflow=self.findings.value(given, at, _MAP_NAMES))
        spec = read_item(self.findings, given, at)
        if spec is None:
            return None
        fields = {**self._options(spec, at), "type": spec.type}
        self._note("task_type", spec.type, at, node)
        self._note("task_name", _name(fields), at, node)
        self._check_people(fields, at)
        return EachItem(task=self._template(fields, at, node, _MAP_NAMES))

    def _poll(
        self, fields: dict[str, Json], at: str, node: StateNode
    ) -> tuple[dict[str, Json], dict[str, Json]]:
        """The fields of a POLL, to which its inner task's options belong, and the condition, which stays as it is."""
        parts = read_poll(self.findings, fields.get("input"), join(at, "input"), self._duration)
        if parts is None:
            return fields, {}
        inside = join(at, "input.task")
        self._note("task_type", parts.task.type, inside, node)
        self._note("task_name", parts.task.name, inside, node)
        task = {"type": parts.task.type, "name": parts.task.name, "input": parts.task.input}
        self.findings.asked.append(
            AskedTask(parts.task.type, parts.task.name, parts.task.input, join(inside, "input"))
        )
        given = {**parts.rest, "task": {key: value for key, value in task.items() if value is not None}}
        merged = _merged(fields, self._options(parts.task, inside))
        return {**merged, "name": _name(fields), "input": given}, {"until": parts.until}

    def _check_workflow(self, fields: Mapping[str, Json], at: str, node: StateNode) -> None:
        """The input of a WORKFLOW task, as far as it is written out."""
        if fields["type"] != "WORKFLOW":
            return
        if fields.get("idempotencyKey") is not None:
            self.findings.error(
                "workflow.idempotency_key",
                join(at, "idempotencyKey"),
                "a WORKFLOW task takes no idempotencyKey; give it a businessKey in its input",
            )
        self._check_workflow_input(fields.get("input"), join(at, "input"), node)

    def _check_workflow_input(self, given: Json, where: str, node: StateNode) -> None:
        if is_template(given) and isinstance(given, str):
            return
        if not isinstance(given, Mapping) or "definitionKey" not in given:
            self.findings.error("workflow.input", where, "expected an object with the definitionKey to start")
            return
        for name in given:
            if name not in WORKFLOW_FIELDS:
                self.findings.error(
                    "workflow.input",
                    join(where, name),
                    f"unknown field {name!r}; a workflow takes {', '.join(WORKFLOW_FIELDS)}",
                    nearest(name, WORKFLOW_FIELDS),
                )
        self._note("workflow_key", given["definitionKey"], join(where, "definitionKey"), node)
        self._check_child(given, where)
        self._check_ties(given, where)

    def _check_people(self, fields: Mapping[str, Json], at: str) -> None:
        """What a HUMAN task says for people, as far as it is written out."""
        if fields["type"] == "HUMAN":
            for name, problem in people.problems_of(fields):
                self.findings.error("task.people", join(at, name), problem)
            for path, problem in people.due_problems(fields.get("due")):
                self.findings.error("task.due", join(at, f"due.{path}" if path else "due"), problem)

    def _check_timer(self, fields: Mapping[str, Json], at: str) -> None:
        """How long a TIMER waits, as far as it is written out."""
        if fields["type"] != "TIMER" or "runAt" in fields or "delay" in fields:
            return
        given = fields.get("input")
        if isinstance(given, str) and is_template(given):
            return
        duration = given.get("duration") if isinstance(given, Mapping) else None
        if not is_template(duration):
            try:
                parse_duration(duration)
            except ValueError as wrong:
                self.findings.error("duration.invalid", join(at, "input.duration"), str(wrong))

    def _check_child(self, given: Mapping[str, Json], at: str) -> None:
        for name, code, problem in literal_problems(given):
            self.findings.error(code, join(at, name), problem)

    def _check_ties(self, given: Mapping[str, Json], at: str) -> None:
        if given.get("wait") is False and given.get("cancelWithParent") is True:
            self.findings.error(
                "workflow.not_awaited",
                join(at, "cancelWithParent"),
                "expected none beside wait: false: nothing ties a child that nobody waits for to its parent",
            )

    def _new_workflow(self, part: StartWorkflowAction, node: StateNode, at: str) -> tasks.NewWorkflow:
        fields: dict[str, Json] = {
            "definitionKey": part.definition_key,
            "version": part.version,
            "input": part.input,
            "businessKey": part.business_key,
        }
        self._note_result(part.definition_key)
        self._note("cancellable_id", part.definition_key, at, node)
        self._note("workflow_key", part.definition_key, join(at, "definitionKey"), node)
        self._check_child(fields, at)
        self._check_ties(part.model_dump(by_alias=True, exclude_unset=True), at)
        self._answered_by(fields, "completion_event", part.completion_event, at, node)
        self._answered_by(fields, "failure_event", part.failure_event, at, node)
        written = {key: value for key, value in fields.items() if value is not None}
        return tasks.NewWorkflow(
            at, self.place(node), self.findings.value(written, at), part.wait, part.cancel_with_parent
        )


def _name(fields: Mapping[str, Json]) -> Json:
    """The name of a task that need not have one."""
    given = fields.get("name") or (poll_name(fields) if fields["type"] == POLL else None)
    return given or fields["type"]


def _places_of_secrets(task: Json) -> Callable[[Where], bool]:
    """Where in a task secrets are resolved: in its input, if that is given to a handler."""
    kind = task.get("type") if isinstance(task, Mapping) else None
    return _nowhere if kind in _WITHOUT_HANDLER else lambda where: where[0] == "input"


def _first(inner: str | None, outer: str | None) -> str | None:
    return outer if inner is None else inner


def _nowhere(_where: Where) -> bool:
    return False


def _merged(outer: Mapping[str, Json], inner: Mapping[str, Json]) -> dict[str, Json]:
    """What is said further inside wins as a whole; of the time-outs each by itself."""
    merged = {**outer, **inner}
    if "timeouts" in outer and "timeouts" in inner:
        merged["timeouts"] = {**outer["timeouts"], **inner["timeouts"]}
    return merged


def _value_at(part: AssignAction, path: str, at: str) -> str:
    return join(at, "value" if part.path is not None else f"values.{path}")
