"""Loading a definition into a test, and saying what its tasks and children answer."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import statechart
from common.canonical import clean, dumps, loads, read
from common.commands.configs import NewConfig, check_names, config_text
from common.commands.definitions import document_text
from common.commands.send import require_size
from common.config import Limits
from common.db.tables import ConfigScope, InboxType
from common.decision import START_TIMER
from common.errors import did_you_mean
from common.store import inbox
from common.store.configs import Configured
from orchestrator.charts import CompiledChart
from signalbox.door import problems_of
from signalbox.testing.answers import Answer, Answering, script_of
from signalbox.testing.handlers import Handlers
from signalbox.testing.memory import TENANT, Memory, Timer
from signalbox.testing.run import ACTOR, Run
from signalbox.testing.world import World
from statechart.durations import parse_duration
from statechart.tasks import INSTANT_TYPES
from task_runner.registry import REGISTRY, Continue, Registry

START = datetime(2026, 1, 1, tzinfo=UTC)
"""When virtual time begins, unless a test says otherwise."""

LIMITS = Limits.model_construct()
"""The bounds of an installation that sets none: a test must not depend on its environment."""

Source = str | Path | Mapping[str, Any]


class Workflow:
    """A definition under test, with everything it meets: other definitions, answers, and a virtual time of its own.

    Load it anew in each test: its instances, business keys and time are shared by all that start from it.
    """

    def __init__(self, world: World, key: str) -> None:
        self._world = world
        self.key = key
        self.warnings: list[str] = []
        self._makes_up_names = False
        self._has_started = False

    @classmethod
    def load(cls, source: Source, *, at: datetime = START, handlers: bool | Registry = False) -> Workflow:
        """Load a definition: a path, a document, or the text of one.

        `at` is when virtual time begins. With `handlers`, tasks that have no answer are done by the functions that are
        registered by `@handler` (or in the registry that is given). Raises `InvalidDefinition` with every problem, as
        `signalbox check` does; what `check` only warns of stands in `warnings`.
        """
        if at.tzinfo is None:
            raise ValueError(f"at: expected an instant with an offset, found naive {at.isoformat()!r}")
        world = World(Memory(at.astimezone(UTC)), LIMITS)
        if handlers is not False:
            registry = REGISTRY if handlers is True else handlers
            functions = Handlers(registry, world.limits.max_output_bytes, world.memory)
            world.run_handler, world.has_handler = (
                functions.run,
                lambda task: functions.find(task) is not None,
            )
        text = _text_of(source)
        workflow = cls(world, _key_of(text))
        workflow.definition(text)
        workflow.warnings = list(_compiled(text).warnings)
        return workflow

    def definition(self, source: Source) -> str:
        """Add another definition: a child's, or a further version of one. Returns its key."""
        text = _text_of(source)
        loaded = _compiled(text)
        self._world.add_definition(_key_of(text), loaded.chart)
        self._makes_up_names |= loaded.makes_up_names
        return _key_of(text)

    def task(self, name: str, *answers: Answer | Continue | Answering) -> Workflow:
        """Say how the attempts of tasks of a name, or of a type, end: one answer an attempt, the last for all after it.

        `name#3` says it of one item of a MAP, by its index. A function gets `(input, attempt)`; what it returns is the output, what it raises the error. With a `Continue`
        another attempt goes on after its time; attempts count on. A name that no definition has is `UnknownName`: at the first
        start, since definitions may still be added until then, and at once where there was one.
        """
        if self._has_started:
            self._check_names([name], ())
        self._world.tasks[name] = script_of(answers, f'task "{name}"')
        return self

    def child(self, definition_key: str, answer: Answer | Answering) -> Workflow:
        """Say how children of a definition end, which the test does not give; a function gets `(input, 1)`.

        A key that no definition names is `UnknownName`, when it is for `task`.
        """
        if self._has_started:
            self._check_names((), [definition_key])
        self._world.children[definition_key] = script_of((answer,), f'child "{definition_key}"')
        return self

    def config(
        self,
        module: str,
        key: str,
        value: Any,
        *,
        scope: Literal["tenant", "module", "instance"] = "module",
        scope_id: str | None = None,
    ) -> Workflow:
        """Set a configuration value, from the next step on: `config.module.key` in expressions.

        `scope_id`, of scope "instance", is the business key whose value it is (or the id of an instance without one).
        """
        wanted = NewConfig(module, key, value, ConfigScope(scope), scope_id)
        check_names(wanted)
        configs = self._world.memory.configs
        place = (wanted.scope, scope_id or "", module, key)
        configs[:] = [one for one in configs if (one.scope, one.scope_id, one.module, one.key) != place]
        configs.append(Configured(TENANT, *place, config_text(value, limits=self._world.limits)))
        return self

    def start(
        self,
        input: Any = None,
        *,
        context: Mapping[str, Any] | None = None,
        business_key: str | None = None,
        definition: str | None = None,
        start_after: str | int = 0,
        by: str = ACTOR,
    ) -> Run:
        """Start an instance, at once or `start_after` a time; the live one where there is one of this business key.

        `definition` is the key of another definition that was added. Raises `UnknownName` where an answer was given for
        a task or child that no definition names, `Invalid` for an input that the definition's schema refuses.
        """
        self._check_names(self._world.tasks, self._world.children)
        self._has_started = True
        key = definition or self.key
        if not self._world.has_definition(key):
            raise UnknownName(f'definition "{key}": expected one that was added, found none')
        found = self._world.find_definition(key, None)
        memory = self._world.memory
        held = memory.find_live(key, business_key) if business_key is not None else None
        if held is not None:
            return Run(self._world, memory.instances[held])
        body = dumps({"context": clean(context), "input": clean(input)})
        require_size(body, "input and context are", self._world.limits)
        if isinstance(found, Exception):
            raise found
        memory.contract(found[0]).check_input(clean(input))
        instance = memory.insert_pending(
            id=memory.number("instance"), definition_id=found[0], definition_key=key, definition_version=found[1],
            business_key=business_key, input=dumps(clean(input)),
        )  # fmt: skip
        assert instance is not None, "the business key was free a moment ago"  # noqa: S101
        delay = timedelta(milliseconds=parse_duration(start_after))
        if delay:
            later = dumps({**read(body), "by": by})
            memory.timers.append(Timer(instance.id, START_TIMER, memory.now + delay, InboxType.START, later))
        else:
            self._world.accept(instance.id, InboxType.START, body, lane=inbox.ORDINARY, actor=by)
            self._world.settle()
        return Run(self._world, instance)

    def _check_names(self, answered: Collection[str], played: Collection[str]) -> None:
        """An answer that nothing asks for would leave a task or a child open without a word."""
        if not self._makes_up_names:
            uses = [use for compiled in self._world.memory.definitions.values() for use in _uses(compiled)]
            tasks = [use.name for use in uses if use.kind in ("task_name", "task_type")]
            children = [use.name for use in uses if use.kind == "workflow_key"]
            _require_known("task", [_without_index(name) for name in answered], tasks)
            _require_known("child", played, children)
        for name in answered:
            if name in _DONE_BY_THE_ENGINE:
                raise UnknownName(
                    f'task "{name}": tasks of this type are done by the engine, nobody answers them'
                )
        for key in played:
            if self._world.has_definition(key, played=False):
                raise UnknownName(f'child "{key}": its definition was added and runs, nobody plays it')


_DONE_BY_THE_ENGINE = frozenset({*INSTANT_TYPES, "TIMER", "WORKFLOW"})


def _without_index(name: str) -> str:
    """The name of the task in a name that may say which item of a MAP is meant."""
    before, _, index = name.rpartition("#")
    return before if index.isdecimal() else name


def _require_known(what: str, given: Iterable[str], named: Sequence[str]) -> None:
    for name in given:
        if name not in named:
            found = ", ".join(f'"{one}"' for one in sorted(set(named))) or "none"
            raise UnknownName(
                f'{what} "{name}": no definition names it{did_you_mean(name, named)}; there are {found}'
            )


class UnknownName(AssertionError):
    """A name that no definition of the test has, or an answer that nothing will ask for."""


class InvalidDefinition(AssertionError):
    """A definition with errors; `problems` has all that was found, warnings too."""

    def __init__(self, problems: list[statechart.Problem]) -> None:
        self.problems = problems
        listed = "\n".join(f"  {problem.severity} {problem}" for problem in problems)
        super().__init__(f"expected a definition without errors, found\n{listed}")


def _uses(compiled: CompiledChart) -> Iterator[Any]:
    return iter(() if compiled.chart is None else compiled.chart.uses)


def _text_of(source: Source) -> str:
    """The stored text of a document. Raises `OSError` for a file that cannot be read, `Invalid` for what is no JSON."""
    if isinstance(source, Mapping):
        return document_text(clean(source))
    is_text = isinstance(source, str) and source.lstrip().startswith("{")
    written = str(source) if is_text else Path(source).read_text(encoding="utf-8")
    return document_text(loads(written, max_bytes=LIMITS.max_definition_bytes))


def _key_of(text: str) -> str:
    return str(read(text)["id"])


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A document that was checked. `makes_up_names`: of tasks or children, by expressions, so that any name may come."""

    chart: CompiledChart
    warnings: tuple[str, ...]
    makes_up_names: bool


@lru_cache(maxsize=256)
def _compiled(text: str) -> _Loaded:
    """The chart of a document and its warnings, kept: tests load the same definition again and again."""
    document = read(text)
    problems = problems_of(document)
    if any(problem.severity == "error" for problem in problems):
        raise InvalidDefinition(problems)
    checksum = hashlib.sha256(text.encode()).hexdigest()
    warnings = tuple(str(problem) for problem in problems)
    return _Loaded(CompiledChart(statechart.load(document), checksum), warnings, _makes_up_names(document))


def _makes_up_names(value: Any) -> bool:
    match value:
        case Mapping():
            own = (value.get(member) for member in ("name", "type", "src", "definitionKey"))
            return any(isinstance(name, str) and "$" in name for name in own) or any(
                _makes_up_names(inner) for inner in value.values()
            )
        case list():
            return any(_makes_up_names(inner) for inner in value)
        case _:
            return False
