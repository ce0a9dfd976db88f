"""The compiled chart: a tree of state nodes with everything that does not depend on a snapshot worked out once.

Built by compile.py, read by everybody else, never changed after `load`. Orders are positions in the document, so
that a node's descendants are exactly the nodes with `order < other <= last`. Terms are those of XState and SCXML.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Union

from statechart.env import Json
from statechart.problems import Problem
from statechart.values import Results

if TYPE_CHECKING:
    from statechart.actions import Action, ArmAfter
    from statechart.concurrency import Concurrency
    from statechart.guards import Guard
    from statechart.tasks import InvokeTask, NewTask
    from statechart.templates import Value
    from statechart.triggers import CompiledTrigger

ROOT_PATH = "(machine)"  # how the root is called where a path is needed, as XState's default machine id
NodeType = Literal["atomic", "compound", "parallel", "final", "history"]


@dataclass(eq=False, slots=True)
class StateNode:
    """One state. Compared by identity; `path` is dotted and without the machine's id, "" for the root."""

    key: str
    path: str
    id: str
    type: NodeType
    order: int
    parent: StateNode | None
    at: str  # path in the document
    last: int = 0
    ancestors: tuple[StateNode, ...] = ()  # proper ancestors, nearest first
    children: tuple[StateNode, ...] = ()  # in document order, history states included
    by_key: dict[str, StateNode] = field(default_factory=dict)
    regions: tuple[StateNode, ...] = ()  # the children that can be active, in document order
    history_states: tuple[StateNode, ...] = ()  # the children that remember
    history: Literal["shallow", "deep"] | None = None
    history_default: tuple[StateNode, ...] = ()  # where a history state leads that remembers nothing
    defaults_to_initial: bool = False  # ... because it names no target of its own
    initial: StateNode | None = None
    initial_actions: Block = ()
    entry: Block = ()
    exit: Block = ()
    invokes: tuple[InvokeTask, ...] = ()
    after: tuple[ArmAfter, ...] = ()  # the timers of `after`
    always: tuple[Transition, ...] = ()
    own: dict[str, tuple[Transition, ...]] = field(default_factory=dict)  # as written, by event descriptor
    exact: dict[str, tuple[Transition, ...]] = field(default_factory=dict)  # candidates for these descriptors
    wildcards: tuple[tuple[str, tuple[Transition, ...]], ...] = ()  # by prefix ("" for `*`), longest first
    output: Value | None = None
    tags: tuple[str, ...] = ()
    description: str | None = None
    ignored: tuple[str, ...] = ()  # keys of the document that mean nothing on a state of this type
    accepts_external: bool = False  # some descriptor of `on` answers to the world outside
    # Asked in each step, and so worked out once.
    name: str = field(init=False)
    is_leaf: bool = field(init=False)
    lineage: tuple[StateNode, ...] = field(init=False)  # from the root down to itself

    def __post_init__(self) -> None:
        self.name = self.path or ROOT_PATH
        self.is_leaf = self.type in ("atomic", "final")
        self.lineage = (*reversed(self.ancestors), self)

    def __repr__(self) -> str:
        return f"<{self.type} {self.name}>"


@dataclass(eq=False, slots=True)
class Transition:
    """One candidate. `target` None means that no state is left; `domain` None that even the root is left."""

    source: StateNode
    descriptor: str  # event descriptor, "" for `always`
    target: tuple[StateNode, ...] | None
    guard: Guard | None
    actions: Block
    reenter: bool
    at: str  # path in the document
    description: str | None = None
    plan: EntryPlan | None = None  # None: depends on history, worked out in the step
    domain: StateNode | None = None  # holds where `plan` is there

    @property
    def is_inert(self) -> bool:
        """It forbids: the event is taken by this state and nothing happens."""
        return self.target is None and not self.actions

    def __repr__(self) -> str:
        return f"<{self.at}>"


@dataclass(frozen=True, slots=True)
class EntryPlan:
    """States to enter in document order, and which of them are entered by default (their initial actions run)."""

    nodes: tuple[StateNode, ...]
    by_default: frozenset[StateNode]


@dataclass(frozen=True, slots=True)
class CompensationRules:
    """By which ends of an instance what it has done is undone, and after which errors it is not."""

    on: frozenset[str]
    without: frozenset[str]


@dataclass(frozen=True, slots=True)
class AskedTask:
    """A task as the definition writes it: `type` and `name` may be templates, `input` stands at `at` and may hold some."""

    type: str
    name: str | None
    input: Json
    at: str


Block = tuple["Action", ...]
Work = Union["InvokeTask", "NewTask"]


@dataclass(eq=False, slots=True)
class Chart:
    """A definition, compiled. `document` is the JSON it was made from; keep one `Chart` per definition version."""

    id: str
    document: Mapping[str, Json]
    root: StateNode
    nodes: tuple[StateNode, ...]  # in document order, the root first
    by_path: dict[str, StateNode]
    by_id: dict[str, StateNode]
    context: dict[str, Json]
    warnings: list[Problem]  # found by check.py when it was loaded
    events: frozenset[str]  # external event descriptors named anywhere
    task_types: frozenset[str]
    config_names: frozenset[str]  # `module.key`, or the module alone where the key is computed
    config: Mapping[str, Mapping[str, Json]]  # every module that is named, with the definition's defaults
    results: Results  # of work, as far as expressions read them
    work: Mapping[str, Work]  # invokes and tasks, by place
    initial_transition: Transition
    timeout_ms: int | None  # of the whole instance
    triggers: tuple[CompiledTrigger, ...]  # what starts instances by itself, in document order
    concurrency: Concurrency | None  # how many instances run at once
    max_steps: int | None  # events that an instance may take, its start included
    compensation: CompensationRules | None  # None: no work here says how it is undone
    has_always: bool
    has_parallel: bool
    uses: Sequence[Use]
    asked: Sequence[AskedTask]
    answers: frozenset[str]  # events that answer tasks and children
    guards: Mapping[str, Guard]
    unused_guards: tuple[str, ...]

    def config_with(self, found: Mapping[str, Mapping[str, Json]]) -> Mapping[str, Json]:
        """What expressions read as `config`: the values that were `found` for this step, and behind them the defaults."""
        if not found:
            return self.config
        return {module: {**defaults, **found.get(module, {})} for module, defaults in self.config.items()}

    def state(self, path: str) -> StateNode | None:
        """The state at a dotted path, None where there is none."""
        return self.by_path.get(path)


AnswerKind = Literal["completion_event", "failure_event"]
UseKind = Literal[
    "task_type",
    "task_name",
    "invoke_id",
    "completion_event",
    "failure_event",
    "raised_event",
    "cancelled_id",
    "cancellable_id",
    "workflow_key",
]


@dataclass(frozen=True, slots=True)
class Use:
    """A name that the document writes out, for check.py to compare with the others."""

    kind: UseKind
    name: str
    at: str
    node: StateNode


def is_descendant(node: StateNode, ancestor: StateNode | None) -> bool:
    """Is `node` properly below `ancestor`? Everything is below None (XState's reading for a root that re-enters)."""
    return ancestor is None or ancestor.order < node.order <= ancestor.last


def transitions_of(node: StateNode) -> Iterator[Transition]:
    """The node's own transitions in document order, `always` last."""
    for transitions in node.own.values():
        yield from transitions
    yield from node.always
