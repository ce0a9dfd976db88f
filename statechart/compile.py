"""From the document model to the chart: names resolved, expressions compiled, entry sets worked out. Once.

Everything that makes a document meaningless is found here and is an error; what makes it doubtful is found by
check.py and is a warning. A chart is handed out only when there is no error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

from pydantic.alias_generators import to_camel

from statechart import document as doc
from statechart.actions import ArmAfter
from statechart.chart import (
    ROOT_PATH,
    Chart,
    CompensationRules,
    EntryPlan,
    NodeType,
    StateNode,
    Transition,
    is_descendant,
)
from statechart.compile_actions import ActionCompiler
from statechart.compile_guards import GuardCompiler
from statechart.concurrency import READABLE, Concurrency, unreadable
from statechart.configuration import (
    NOTHING_REMEMBERED,
    find_least_common_ancestor,
    get_transition_domain,
    plan_entry,
)
from statechart.durations import parse_duration
from statechart.env import Json
from statechart.findings import Findings, join
from statechart.naming import (
    MOST_INDEXED,
    UnknownTarget,
    delay_reference,
    is_indexed,
    js_order,
    resolve_target,
)
from statechart.people import EVENTS as PEOPLE_EVENTS
from statechart.problems import DefinitionInvalid, nearest
from statechart.reading import read_definition
from statechart.select import wildcard_candidates
from statechart.triggers import RUN_NAMES, CompiledTrigger, asks_for_states, is_pattern
from statechart.values import (
    MAX_CONFIG_NAMES,
    NO_RESULTS,
    RESULT_FIELDS,
    Results,
    misnamed_config,
    named_config,
    named_results,
    parts_of,
)

MAX_PLANNED = 100_000  # states in all entry plans together; what goes beyond is worked out in the step
# What means nothing on a state of that type. The root is not asked for `output`, which it may always have.
_IGNORED: Mapping[NodeType, tuple[str, ...]] = {
    "atomic": ("initial", "on_done", "history", "target", "output"),
    "compound": ("history", "target", "output"),
    "parallel": ("initial", "history", "target", "output"),
    "final": ("initial", "on_done", "history", "target"),
    "history": ("initial", "on_done", "output", "on", "always", "after", "entry", "exit", "invoke"),
}
MAX_TARGETS = 100  # of one transition
ENGINE_PREFIXES = ("xstate.", "done.", "error.", *PEOPLE_EVENTS)


def compile_document(document: Json, *, as_xstate: bool = False) -> Chart:
    """Compile a definition document. Raises `DefinitionInvalid` with every error found.

    With `as_xstate` it may be a machine that XState has exported, of which only what JSON can say is compiled.
    """
    definition, problems = read_definition(document, as_xstate=as_xstate)
    if definition is None:
        raise DefinitionInvalid(problems)
    return Compiler(definition, document).compile()


class Compiler:
    """One compilation."""

    def __init__(self, definition: doc.Definition, document: Mapping[str, Json]) -> None:
        self.definition = definition
        self.document = document
        self.findings = Findings()
        self.nodes: list[StateNode] = []
        self.parts: list[doc.StateBody] = []  # beside `nodes`
        self.by_path: dict[str, StateNode] = {}
        self.by_id: dict[str, StateNode] = {}
        self.transitions: list[Transition] = []
        self.actions = ActionCompiler(definition, self.findings)
        self.timeout_ms: int | None = None
        self.compensation: CompensationRules | None = None
        self.triggers: list[CompiledTrigger] = []
        self.concurrency: Concurrency | None = None
        self.config_names: frozenset[str] = frozenset()
        self.results = NO_RESULTS

    def compile(self) -> Chart:
        definition, findings = self.definition, self.findings
        root = self.build(definition, None, definition.id or ROOT_PATH, "")
        self.guards = GuardCompiler(definition.guards, root, self.by_id, findings)
        for name in definition.guards:
            self.guards.named_guard(name, f"guards.{name}")
        self.guards.used.clear()
        for node, part in zip(self.nodes, self.parts, strict=True):
            self.compile_hierarchy(node, part)
        for node, part in zip(self.nodes, self.parts, strict=True):
            self.compile_behaviour(node, part)
        self.compile_triggers()
        self.timeout_ms = self.compile_timeout()
        self.compensation = self.compile_compensation()
        self.check_retention()
        self.concurrency = self.compile_concurrency()
        self.config_names = self.compile_config()
        self.results = self.compile_results()
        refuse_endless_entry(self.nodes, findings)
        if findings.has_errors():
            raise DefinitionInvalid(findings.problems)
        plan_entries(self.transitions)
        return self.chart(root)

    def chart(self, root: StateNode) -> Chart:
        definition, findings = self.definition, self.findings
        uses = findings.uses
        answers = frozenset(use.name for use in uses if use.kind in ("completion_event", "failure_event"))
        external = mark_external(self.nodes, answers)
        initial = Transition(
            source=root,
            descriptor="",
            target=tuple(_initial_state_nodes(root)),
            guard=None,
            actions=(),
            reenter=True,
            at="initial",
        )
        has_parallel = any(node.type == "parallel" for node in self.nodes)
        if not has_parallel:  # a target asks all regions around it: too long where there are thousands
            plan_entries([initial])
        return Chart(
            id=root.id,
            document=self.document,
            root=root,
            nodes=tuple(self.nodes),
            by_path=self.by_path,
            by_id=self.by_id,
            context=definition.context,
            warnings=list(findings.problems),
            events=frozenset(external),
            task_types=frozenset(use.name for use in uses if use.kind == "task_type"),
            config_names=self.config_names,
            config=named_config(self.config_names, definition.config),
            results=self.results,
            work=self.actions.work,
            initial_transition=initial,
            timeout_ms=self.timeout_ms,
            max_steps=definition.max_steps,
            compensation=self.compensation,
            triggers=tuple(self.triggers),
            concurrency=self.concurrency,
            has_always=any(node.always for node in self.nodes),
            has_parallel=has_parallel,
            uses=tuple(uses),
            asked=tuple(findings.asked),
            answers=answers,
            guards=self.guards.compiled,
            unused_guards=tuple(name for name in definition.guards if name not in self.guards.used),
        )

    def compile_timeout(self) -> int | None:
        """The root's `timeout`, in milliseconds. It holds from the start on and is not asked again, so no template."""
        written = self.definition.timeout
        if written is None:
            return None
        try:
            return parse_duration(written)
        except ValueError as wrong:
            self.findings.error("duration.invalid", "timeout", str(wrong))
            return None

    def compile_compensation(self) -> CompensationRules | None:
        """When to undo, where any work says how; the root's `compensation` without such work undoes nothing."""
        written = self.definition.compensation
        if not any(work.compensate is not None for work in self.actions.work.values()):
            return None
        rules = written or doc.CompensationSpec()
        return CompensationRules(frozenset(rules.on), frozenset(rules.except_))

    def compile_concurrency(self) -> Concurrency | None:
        """The root's `concurrency`. Its key is worked out before the instance is there: only the start can be read."""
        written = self.definition.concurrency
        if written is None:
            return None
        at = "concurrency.key"
        key = None if written.key is None else self.findings.value(written.key, at)
        if key is not None and key.is_literal:
            self.findings.error(
                "concurrency.key",
                at,
                f"expected an expression such as ${{input.customer}}, found {written.key!r:.80}; "
                "without key, all instances of the definition share the places",
            )
        for path in sorted(key.paths if key is not None else ()):
            if unreadable(path):
                self.findings.error(
                    "concurrency.key",
                    at,
                    f"{path!r} is not known when a start is accepted; known are {', '.join(READABLE)}",
                )
        return Concurrency(written.max, written.on_full, key)

    def check_retention(self) -> None:
        """The root's `retention` is read by who deletes; here it has to be one."""
        for member, written in self.definition.retention or ():
            if written is None or written == doc.FOREVER:
                continue
            try:
                parse_duration(written)
            except ValueError as wrong:
                name = to_camel(member)
                self.findings.error("duration.invalid", f"retention.{name}", f'{wrong}, or "{doc.FOREVER}"')

    def compile_config(self) -> frozenset[str]:
        """The configuration values that are named anywhere; the definition's own defaults are looked over."""
        for at, expected in misnamed_config(self.definition.config):
            self.findings.error("config.name", at, expected)
        names = frozenset(self.findings.config_names())
        if len(names) > MAX_CONFIG_NAMES:
            self.findings.error(
                "config.too_many",
                "",
                f"expected at most {MAX_CONFIG_NAMES} configuration values in one definition, found {len(names):,}",
            )
        return names

    def compile_results(self) -> Results:
        """The results that are read anywhere; a name that nothing here has is refused, unless names are computed."""
        known = self.actions.result_names
        for path, at in self.findings.results_read:
            name, field, *_ = (*parts_of(path)[1:], "output")
            dotted = next(
                (one for one in known if path == f"steps.{one}" or path.startswith(f"steps.{one}.")), ""
            )
            if name not in known and not self.actions.computes_names:
                self.findings.error(
                    "steps.unknown",
                    at,
                    f"no state with an invoke and no task is called {name!r}"
                    + ("; a name with dots is written in brackets" if "." in dotted else ""),
                    f'steps["{dotted}"]' if "." in dotted else nearest(name, known),
                )
            elif field not in RESULT_FIELDS:
                self.findings.error(
                    "steps.unknown",
                    at,
                    f"a result has {', '.join(RESULT_FIELDS)}, found {field!r}",
                    f'steps["{dotted}"]' if "." in dotted else nearest(field, RESULT_FIELDS),
                )
        return named_results(self.findings.paths)

    # --- the tree

    def build(self, part: doc.StateBody, parent: StateNode | None, key: str, at: str) -> StateNode:
        path = "" if parent is None else f"{parent.path}.{key}" if parent.path else key
        machine = self.definition.id or ROOT_PATH
        node = StateNode(
            key=key,
            path=path,
            id=part.id or (f"{machine}.{path}" if path else machine),
            type=part.type or _inferred_type(part),
            order=len(self.nodes),
            parent=parent,
            at=at,
            ancestors=() if parent is None else (parent, *parent.ancestors),
            tags=tuple(part.tags),
            description=part.description,
        )
        self.nodes.append(node)
        self.parts.append(part)
        self.by_path[path] = node
        self._register(node)
        children = []
        for name, child in js_order(part.states):
            inside = join(at, f"states.{name}")
            if not name or "." in name or name.startswith("#"):
                self.findings.error(
                    "state.name",
                    inside,
                    f"expected a state name without dots that does not start with '#', found {name!r}",
                    name.replace(".", "_").lstrip("#") or None,
                )
            elif not is_indexed(inner := f"{path}.{name}".lstrip(".")):
                size = len(inner.encode("utf-8", "surrogatepass"))
                message = f"expected a dotted path of at most {MOST_INDEXED:,} bytes, found one of {size:,}"
                self.findings.error("state.name", inside, message)
            children.append(self.build(child, node, name, inside))
        node.children = tuple(children)
        node.by_key = {child.key: child for child in children}
        node.last = len(self.nodes) - 1
        return node

    def _register(self, node: StateNode) -> None:
        other = self.by_id.setdefault(node.id, node)
        if other is not node:
            self.findings.error(
                "state.duplicate_id",
                join(node.at, "id"),
                f"the id {node.id!r} belongs to the state {other.name!r} as well",
            )

    def compile_hierarchy(self, node: StateNode, part: doc.StateBody) -> None:
        """Types, regions, the initial child and what history states lead to."""
        if node.children and node.type not in ("compound", "parallel"):
            self.findings.error(
                "state.type",
                join(node.at, "type"),
                f"a state of type {node.type!r} cannot have states inside",
            )
        if node.type in ("compound", "parallel"):
            node.regions = tuple(child for child in node.children if child.type != "history")
            node.history_states = tuple(child for child in node.children if child.type == "history")
        if part.initial is not None and node.regions:
            self._compile_initial(node, part.initial)
        elif node.type == "compound":
            first = next((child.key for child in node.children), None)
            self.findings.error(
                "initial.missing",
                node.at,
                f"expected initial, as {node.name!r} has states, found none",
                first,
            )
        self._note_ignored(node, part)
        if node.type == "history":
            node.history = part.history or "shallow"
            self._compile_history_default(node, part)

    def _note_ignored(self, node: StateNode, part: doc.StateBody) -> None:
        given = part.model_fields_set
        node.ignored = tuple(
            to_camel(name)
            for name in _IGNORED[node.type]
            if name in given and getattr(part, name) and not (name == "output" and node.parent is None)
        )

    def _compile_initial(self, node: StateNode, initial: doc.Initial) -> None:
        at = join(node.at, "initial")
        target = initial.target
        child = node.by_key.get(target)
        if child is None and target.startswith("#"):
            child = next((inner for inner in node.children if f"#{inner.id}" == target), None)
        if child is None:
            known = ", ".join(map(repr, list(node.by_key)[:20])) or "no states"
            self.findings.error(
                "initial.unknown",
                at,
                f"expected one of the states of {node.name!r} ({known}), found {target!r}",
                nearest(target, node.by_key),
            )
            return
        node.initial = child
        node.initial_actions = self.actions.block(initial.actions, node, join(at, "actions"))

    def _compile_history_default(self, node: StateNode, part: doc.StateBody) -> None:
        parent = node.parent
        if parent is None:
            self.findings.error("state.type", join(node.at, "type"), "the root cannot be a history state")
        elif part.target:
            node.history_default = self._targets(node, part.target, join(node.at, "target"))
        elif parent.type == "parallel":
            node.history_default = (parent,)
        elif parent.initial is not None:
            node.history_default = (parent.initial,)
            node.defaults_to_initial = True

    # --- behaviour

    def compile_behaviour(self, node: StateNode, part: doc.StateBody) -> None:
        if node.type == "history":
            return
        at, actions = node.at, self.actions
        node.entry = actions.block(part.entry, node, join(at, "entry"))
        node.exit = actions.block(part.exit, node, join(at, "exit"))
        table: dict[str, list[Transition]] = {}
        for descriptor, parts in js_order(part.on):
            if not descriptor:
                self.findings.error(
                    "event.name", join(at, "on"), "an event has no name; use always", "always"
                )
            table[descriptor] = self._transitions(node, descriptor, parts, join(at, f"on.{descriptor}"))
        if part.on_done:
            descriptor = f"xstate.done.state.{node.id}"
            table[descriptor] = self._transitions(node, descriptor, part.on_done, join(at, "onDone"))
        if part.invoke:
            self._compile_invokes(node, part.invoke, table)
        if part.after:
            self._compile_after(node, part.after, table)
        if part.always:
            node.always = tuple(self._transitions(node, "", part.always, join(at, "always")))
        _fill_tables(node, table)
        if "output" in part.model_fields_set and (node.type == "final" or node.parent is None):
            node.output = self.findings.value(part.output, join(at, "output"))

    def _compile_invokes(
        self, node: StateNode, parts: Sequence[doc.Invoke], table: dict[str, list[Transition]]
    ) -> None:
        invokes = []
        for index, part in enumerate(parts):
            at = join(node.at, "invoke" if len(parts) == 1 else f"invoke[{index}]")
            identifier = part.id or f"{index}.{node.id}"
            invoke = self.actions.invoke(part, identifier, node, at)
            invokes.append(invoke)
            for descriptor, transitions, key in (
                (f"xstate.done.actor.{identifier}", part.on_done, "onDone"),
                (f"xstate.error.actor.{identifier}", part.on_error, "onError"),
                (f"xstate.snapshot.{identifier}", part.on_snapshot, "onSnapshot"),
            ):
                if transitions:
                    table[descriptor] = self._transitions(node, descriptor, transitions, join(at, key))
        node.invokes = tuple(invokes)

    def _compile_after(
        self,
        node: StateNode,
        after: Mapping[str, Sequence[doc.Transition]],
        table: dict[str, list[Transition]],
    ) -> None:
        timers = []
        for key, parts in js_order(after):
            at = join(node.at, f"after.{key}")
            descriptor = f"xstate.after.{delay_reference(key)}.{node.id}"
            timers.append(ArmAfter(at, self.actions.place(node), descriptor, self.actions.delay(key, at)))
            table.setdefault(descriptor, []).extend(self._transitions(node, descriptor, parts, at))
        node.after = tuple(timers)

    def _transitions(
        self, node: StateNode, descriptor: str, parts: Sequence[doc.Transition], at: str
    ) -> list[Transition]:
        if len(parts) == 1:
            return [self._transition(node, descriptor, parts[0], at)]
        return [
            self._transition(node, descriptor, part, f"{at}[{index}]") for index, part in enumerate(parts)
        ]

    def _transition(self, node: StateNode, descriptor: str, part: doc.Transition, at: str) -> Transition:
        transition = Transition(
            source=node,
            descriptor=descriptor,
            target=None if part.target is None else self._targets(node, part.target, join(at, "target")),
            guard=None if part.guard is None else self.guards.compile(part.guard, join(at, "guard")),
            actions=self.actions.block(part.actions, node, join(at, "actions")),
            reenter=part.reenter,
            at=at,
            description=part.description,
        )
        self.transitions.append(transition)
        return transition

    def _targets(self, source: StateNode, targets: Sequence[str], at: str) -> tuple[StateNode, ...]:
        found = []
        if len(targets) > MAX_TARGETS:
            self.findings.error(
                "target.conflict", at, f"expected at most {MAX_TARGETS} targets, found {len(targets)}"
            )
        for target in targets[:MAX_TARGETS]:
            try:
                found.append(resolve_target(source, target, self.by_id))
            except UnknownTarget as unknown:
                self.findings.error("target.unknown", at, str(unknown), unknown.suggestion)
        distinct = tuple(dict.fromkeys(found))
        for one, other in _exclusive_pairs(distinct):
            self.findings.error(
                "target.conflict",
                at,
                f"expected targets that can be active together, in different regions of a parallel state; "
                f"found {one.name!r} and {other.name!r}",
            )
            break
        return distinct

    def compile_triggers(self) -> None:
        """Triggers are for whoever publishes events; here their expressions are made sure of."""
        for index, trigger in enumerate(self.definition.triggers):
            at = f"triggers[{index}]"
            if (trigger.event is None) == (trigger.schedule is None):
                self.findings.error("trigger.kind", at, "expected either event or schedule")
            if trigger.schedule is not None and trigger.condition is not None:
                self.findings.error(
                    "trigger.kind",
                    join(at, "condition"),
                    "a schedule has no event that a condition could read",
                )
            if trigger.event is not None and not is_pattern(trigger.event):
                self.findings.error(
                    "trigger.event",
                    join(at, "event"),
                    f'expected the type of an event, "foo.*" or "*", found {trigger.event[:80]!r}',
                )
            names = RUN_NAMES if trigger.schedule is not None else ()
            condition = (
                None
                if trigger.condition is None
                else self.guards.compile(trigger.condition, join(at, "condition"))
            )
            self.triggers.append(
                CompiledTrigger(
                    name=trigger.name or str(index + 1),
                    event=trigger.event,
                    condition=condition,
                    business_key=self.findings.value(trigger.business_key, join(at, "businessKey"), names),
                    input=None
                    if trigger.input is None
                    else self.findings.value(trigger.input, join(at, "input"), names),
                )
            )
            self.check_trigger(self.triggers[-1], at, names)
        named = [trigger.name for trigger in self.triggers]
        for index, name in enumerate(named):
            if name in named[:index]:
                self.findings.error(
                    "trigger.name", f"triggers[{index}].name", f"expected another name, found {name!r} again"
                )

    def check_trigger(self, trigger: CompiledTrigger, at: str, names: Sequence[str]) -> None:
        """Nothing of an instance is there yet: only the event, or what is known of the run, can be read."""
        known = (*names, "now") if trigger.event is None else ("event", "now")
        for member, paths in trigger.paths():
            given = ("params",) if member == "condition" else ()  # only a named guard can read them
            for path in sorted(paths):
                if path.partition(".")[0] not in (*known, *given):
                    self.findings.error(
                        "trigger.unknown_name",
                        join(at, member),
                        f"{path!r} is not known before an instance starts; known are {', '.join(known)}",
                    )
        if trigger.condition is not None and asks_for_states(trigger.condition):
            self.findings.error(
                "trigger.state", join(at, "condition"), "no state is active before an instance starts"
            )


def _exclusive_pairs(targets: Sequence[StateNode]) -> Iterator[tuple[StateNode, StateNode]]:
    """Pairs of targets that no configuration can hold both of, as the transition would enter them."""
    for one, other in combinations(targets, 2):
        common = find_least_common_ancestor((one, other))
        is_nested = is_descendant(one, other) or is_descendant(other, one)
        if is_nested or common is None or common.type != "parallel":
            yield one, other


def _inferred_type(part: doc.StateBody) -> NodeType:
    if part.states:
        return "compound"
    return "history" if part.history else "atomic"


def _fill_tables(node: StateNode, table: Mapping[str, list[Transition]]) -> None:
    """Candidates by event type, worked out for every type that the node names; wildcards for all the others."""
    wildcards = [
        descriptor
        for descriptor in table
        if descriptor[-1:] == "*" and descriptor[-2:] in ("*", ".*") and "*" not in descriptor[:-1]
    ]
    wildcards.sort(key=len, reverse=True)
    node.wildcards = tuple((descriptor, tuple(table[descriptor])) for descriptor in wildcards)
    node.own = {descriptor: tuple(candidates) for descriptor, candidates in table.items()}
    node.exact = node.own if not wildcards else _with_wildcards(node)


def _with_wildcards(node: StateNode) -> dict[str, tuple[Transition, ...]]:
    return {
        descriptor: (
            *candidates,
            *(other for other in wildcard_candidates(node, descriptor) if other.descriptor != descriptor),
        )
        for descriptor, candidates in node.own.items()
    }


def _initial_state_nodes(root: StateNode) -> Iterator[StateNode]:
    """XState's `getInitialStateNodes`: the root and what is entered below it by default."""
    yield root
    if root.type == "compound" and root.initial is not None:
        yield from _initial_state_nodes(root.initial)
    elif root.type == "parallel":
        for region in root.regions:
            yield from _initial_state_nodes(region)


def refuse_endless_entry(nodes: Sequence[StateNode], findings: Findings) -> None:
    """A history state whose default leads back to itself would never be entered."""
    settled: set[StateNode] = set()
    for start in nodes:
        trail: dict[StateNode, Iterator[StateNode]] = {start: _led_to(start)} if start not in settled else {}
        while trail:
            node = next(reversed(trail))
            following = next((inner for inner in trail[node] if inner not in settled), None)
            if following is None:
                settled.add(node)
                del trail[node]
            elif following in trail:
                findings.error(
                    "initial.cycle",
                    following.at,
                    f"entering {following.name!r} by default leads back to {following.name!r}; "
                    "a history state that is initial needs a target",
                )
                return
            else:
                trail[following] = _led_to(following)


def _led_to(node: StateNode) -> Iterator[StateNode]:
    match node.type:
        case "compound" if node.initial is not None:
            return iter((node.initial,))
        case "parallel":
            return iter(node.regions)
        case "history":
            return iter(node.history_default)
        case _:
            return iter(())


def plan_entries(transitions: Sequence[Transition]) -> None:
    """Work out beforehand what each transition enters, where that does not depend on history."""
    plans: dict[tuple[StateNode | None, tuple[StateNode, ...], bool], EntryPlan] = {}
    planned = 0
    for transition in transitions:
        targets = transition.target
        if targets is None:
            transition.plan = EntryPlan((), frozenset())
            continue
        if planned > MAX_PLANNED or any(target.type == "history" for target in targets):
            continue
        domain = get_transition_domain(transition, NOTHING_REMEMBERED)
        enters_source = transition.reenter or domain is not transition.source
        key = (domain, targets, enters_source)
        plan = plans.get(key)
        if plan is None:
            plan = plans[key] = plan_entry(transition, domain)
            planned += len(plan.nodes)
        # A target that is the source is not entered itself, yet what is entered below it begins with its initial.
        led_by = (*plan.nodes, *targets)
        if not any(node.initial is not None and node.initial.type == "history" for node in led_by):
            transition.plan, transition.domain = plan, domain


def mark_external(nodes: Sequence[StateNode], answers: frozenset[str]) -> set[str]:
    """Note which nodes answer to the world outside; returns the descriptors that do."""
    external: set[str] = set()
    for node in nodes:
        for descriptor, transitions in node.own.items():
            if descriptor in answers or descriptor.startswith(ENGINE_PREFIXES):
                continue
            if any(not transition.is_inert for transition in transitions):
                external.add(descriptor)
                node.accepts_external = True
    return external
