"""MAP: one obligation over many items, each of them a task or a child workflow of its own.

The input of a MAP is read and its template filled in, once for each item, within the step that asks for it. What comes
of it is one `CreateTask` that carries its items: they stand neither in the snapshot nor in the history. How they end is
counted outside (`common.commands.joins`), and one event answers the MAP.

Filling in has a budget of its own: the 100,000 operations of a step would not do for 10,000 items. All items of a step
share it, so that a definition cannot have it more than once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from statechart.actions import as_integer, as_text, render_json
from statechart.cel.errors import Place
from statechart.cel.values import weigh
from statechart.draft import ActionFailed, Draft
from statechart.effects import CreateTask, MapItems, StartWorkflow
from statechart.env import Json
from statechart.expressions import Meter
from statechart.polls import POLL, as_asked_again
from statechart.workflows import child_of_task, definition_key_of

if TYPE_CHECKING:
    from statechart.tasks import Filled, TaskTemplate
    from statechart.templates import Value

MAX_ITEMS = 10_000
MAX_OPERATIONS = 1_500_000
"""What the templates of all items of a step may cost together, by the meter of expressions."""
MAX_BYTES = 8 * 2**20
"""The text that the items of a step may be together."""
OPERATIONS_PER_ITEM = 40
"""What an item costs before anything is evaluated: a row that has to be made and stored."""

FIELDS = ("items", "task", "workflow", "concurrency", "join", "onError")
PARTS = ("task", "workflow")
JOINS = ("all", "any")
ON_ERROR = ("failFast", "waitAll")
NO_ITEM = ("MAP", "TIMER", "WORKFLOW", "AI", "SET", "TRANSFORM", "LOG", "EMIT")
"""Task types that no item can be of: they are done inside a step, nest what is counted, or, AI, have each of their ends ruled
on by the policy that a step keeps, while items end in a count."""

Build: TypeAlias = "Callable[[str, Filled], CreateTask]"
"""Makes the task of an item from its key and its filled-in fields."""

_WHOLE = Place("(an item of a MAP)", 0)


@dataclass(frozen=True, slots=True)
class EachItem:
    """What a MAP does with each of its items: a `task`, or a `workflow`; with `item` and `index` in expressions."""

    task: TaskTemplate | None = None
    workflow: Value | None = None


def item_key(key: str, index: int) -> str:
    """The key of an item: that of its MAP and its index."""
    return f"{key}#{index}"


def map_key(key: str) -> str | None:
    """The key of the MAP that an item belongs to; None for the key of an obligation, which ends in a count."""
    before, _, index = key.rpartition("#")
    return before if index.isdecimal() else None


def open_map(draft: Draft, task: CreateTask, each: EachItem | None, build: Build) -> bool:
    """Ask for a MAP and its items. False where it has none to wait for: then it is done. Raises `ActionFailed`."""
    given = task.input if isinstance(task.input, Mapping) else {}
    if each is None:
        raise ActionFailed("map.input", "expected an input with items and a task or workflow, written out")
    if task.idempotency_key is not None:
        raise ActionFailed("map.idempotency_key", "a MAP takes no idempotencyKey")
    items = _items(given)
    join = given.get("join", "all")
    needed = _needed(join, len(items))
    if not items:
        return False
    concurrency = _concurrency(given)
    with_items = MapItems(
        *_filled(draft, task, items, each, build, concurrency),
        join=join,
        needed=needed,
        fail_fast=_fails_fast(given),
        concurrency=concurrency,
    )
    kept = {name: value for name, value in given.items() if value is not None}
    draft.create_task(replace(task, input=kept, secrets=(), items=with_items))
    return True


def _filled(
    draft: Draft,
    task: CreateTask,
    items: list[Json],
    each: EachItem,
    build: Build,
    concurrency: int | None,
) -> tuple[tuple[CreateTask, ...], tuple[StartWorkflow, ...]]:
    """The tasks of the items, and the children of those that are workflows."""
    scope = draft.scope
    before, meter = scope.extra, scope.meter
    if draft.item_meter is None:
        draft.item_meter = Meter(MAX_OPERATIONS, MAX_BYTES)
    scope.meter = draft.item_meter
    try:
        if each.task is not None:
            return tuple(_tasks(draft, task, items, each.task, build, concurrency)), ()
        assert each.workflow is not None, "a MAP has one of the two"  # noqa: S101
        asked = tuple(_workflows(draft, task, items, each.workflow))
        return asked, tuple(child_of_task(draft, one) for one in asked)
    finally:
        scope.extra, scope.meter = before, meter


def _tasks(
    draft: Draft,
    task: CreateTask,
    items: list[Json],
    template: TaskTemplate,
    build: Build,
    concurrency: int | None,
) -> Iterator[CreateTask]:
    for index in _each(draft, items):
        filled = template.fill(draft.scope)
        _charge(draft, filled.fields)
        made = build(item_key(task.key, index), filled)
        if made.type in NO_ITEM:
            raise ActionFailed("map.task", f"an item of a MAP cannot be a task of type {made.type!r}")
        if made.idempotency_key is not None:
            raise ActionFailed("map.idempotency_key", "an item of a MAP takes no idempotencyKey")
        made = _after(made, task)
        is_gated = concurrency is not None and index >= concurrency
        yield as_asked_again(made, draft.env.now, has_started=not is_gated) if made.type == POLL else made


def _workflows(draft: Draft, task: CreateTask, items: list[Json], template: Value) -> Iterator[CreateTask]:
    for index in _each(draft, items):
        spec = template.evaluate(draft.scope)
        _charge(draft, spec)
        if isinstance(spec, Mapping) and spec.get("wait", True) is not True:
            raise ActionFailed("map.workflow", "wait: a MAP waits for each of its workflows")
        name = definition_key_of(spec if isinstance(spec, Mapping) else {})
        yield _after(CreateTask(item_key(task.key, index), "WORKFLOW", name, spec, "", ""), task)


def _each(draft: Draft, items: list[Json]) -> Iterator[int]:
    """Set `item` and `index` for each item in turn."""
    before = draft.scope.extra
    for index, item in enumerate(items):
        draft.scope.extra = {**before, "item": item, "index": index}
        yield index


def _charge(draft: Draft, filled: Json) -> None:
    assert draft.item_meter is not None, "set before items are filled in"  # noqa: S101
    found = weigh(filled, draft.item_meter, _WHOLE)
    draft.item_meter.charge(OPERATIONS_PER_ITEM + found.values, _WHOLE)
    draft.item_meter.charge_bytes(found.bytes, _WHOLE)


def _after(item: CreateTask, task: CreateTask) -> CreateTask:
    """An item is not due before its MAP, and as urgent where it does not say itself."""
    starts = [at for at in (item.run_at, task.run_at) if at is not None]
    priority = task.priority if item.priority is None else item.priority
    return replace(item, run_at=max(starts, default=None), priority=priority)


# -- the input ----------------------------------------------------------------------------------------------------


def _items(given: Mapping[str, Json]) -> list[Json]:
    items = given.get("items")
    if not isinstance(items, list):
        raise ActionFailed("map.items", f"expected a list of items, found {render_json(items)[:80]}")
    if len(items) > MAX_ITEMS:
        raise ActionFailed("map.items", f"expected at most {MAX_ITEMS:,} items, found {len(items):,}")
    return items


def _needed(join: Json, total: int) -> int:
    """How many items must succeed."""
    if join == "all":
        return total
    if join == "any":
        needed = 1
    elif isinstance(join, Mapping) and set(join) == {"quorum"}:
        needed = as_integer(join["quorum"], "map.join", "a quorum")
    else:
        raise ActionFailed(
            "map.join", f'expected "all", "any" or {{"quorum": n}}, found {render_json(join)[:80]}'
        )
    if not 1 <= needed <= total:
        raise ActionFailed("map.join", f"expected a quorum of 1 to {total:,}, the items, found {needed:,}")
    return needed


def _fails_fast(given: Mapping[str, Json]) -> bool:
    policy = as_text(given.get("onError", "failFast"), "map.on_error", "what an error does")
    if policy not in ON_ERROR:
        raise ActionFailed("map.on_error", f"expected one of {', '.join(ON_ERROR)}, found {policy[:80]!r}")
    return policy == "failFast"


def _concurrency(given: Mapping[str, Json]) -> int | None:
    concurrency = given.get("concurrency")
    if concurrency is None:
        return None
    number = as_integer(concurrency, "map.concurrency", "how many items run at once")
    if number < 1:
        raise ActionFailed("map.concurrency", f"expected at least 1 item at once, found {number}")
    return min(number, MAX_ITEMS)
