"""Handlers: the functions that do the work, registered by name and found at start.

A handler is `def work(input, context) -> JSON` (one that needs no context may take `input` alone). It runs at least once
per attempt and its result counts once, so what it does outside should be keyed by `context.idempotency_key`. It fails by
raising: `Retryable` and `Permanent` say whether another try makes sense; any other exception leaves that to the retry policy.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module
from importlib.metadata import entry_points
from traceback import extract_tb
from typing import TYPE_CHECKING, Any, TypeVar

from common.canonical import clean
from common.errors import Invalid, Misconfigured, did_you_mean

if TYPE_CHECKING:
    from common.schemas import Schema

ENTRY_POINTS = "signalbox.handlers"
SYSTEM = "SYSTEM"
AI = "AI"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.:-]{0,199}")

F = TypeVar("F", bound=Callable[..., Any])
Target = Callable[[Any], str | None]
"""The target of a call by its input, which has no secrets filled in; None: no breaker watches it. A URL stands for its origin."""
WHOLE_TYPE = "*"
"""The one target of a type whose handler says `breaker=True`."""


class HandlerError(Exception):
    """A failure with a stable `code` and JSON `data`, kept with the attempt and shown to people."""

    retryable: bool | None = None
    default_code = "handler.failed"
    after: timedelta | None = None

    def __init__(self, message: str = "", *, code: str | None = None, data: Any = None) -> None:
        super().__init__(message)
        self.code = code or self.default_code
        self.data = data


class Retryable(HandlerError):
    """Try again, as long as the retry policy has attempts left; not earlier than `after`, where it is given.

    The policy's wait counts where it is longer, and its `maxInterval` (1 h by default) is never exceeded.
    """

    retryable = True
    default_code = "handler.retryable"

    def __init__(
        self, message: str = "", *, code: str | None = None, data: Any = None, after: timedelta | None = None
    ) -> None:
        super().__init__(message, code=code, data=data)
        self.after = after


class Permanent(HandlerError):
    """Do not try again: the same input would fail again."""

    retryable = False
    default_code = "handler.permanent"


@dataclass(frozen=True, slots=True)
class Continue:
    """Returned by a handler that is not done: another attempt goes on, `after` this long, from `state` (any JSON).

    `state` is stored with the end of this attempt and given to the next as `context.state`; it is never shown. Such an
    attempt counts neither as a success nor as a failure, and starts the count of failures anew.
    """

    state: Any = None
    after: timedelta = timedelta(0)


@dataclass(frozen=True, slots=True)
class Options:
    """How a handler wants to be run, where a task and its definition say nothing of it.

    `retry` is a policy as definitions write it; `timeout_ms` bounds one attempt, `heartbeat_ms` the silence in it.
    `isolated`: in a process of its own, which may take `memory_bytes` of address space (None: as the setting says).
    `light`: it promises to be done within 10 ms and to wait for nothing, and is called inside the claiming transaction.
    `breaker` tells from an input which target the call is going to, for the circuit breaker that watches it; None: none does.
    """

    retry: Mapping[str, Any] | None = None
    timeout_ms: int | None = None
    heartbeat_ms: int | None = None
    isolated: bool = False
    memory_bytes: int | None = None
    light: bool = False
    breaker: Target | None = None


PLAIN = Options()


@dataclass(frozen=True, slots=True)
class Handler:
    """A registered function, with the JSON Schemas of its input and output.

    Both are published, for people and for the door. `input_check` and `output_check` are the same, compiled, and asked of each
    call; a built-in handler has none: it says itself, and better, what is wrong.
    """

    name: str
    function: Callable[..., Any]
    takes_context: bool
    description: str
    input_schema: Mapping[str, Any] | None = None
    output_schema: Mapping[str, Any] | None = None
    built_in: bool = False
    options: Options = PLAIN
    input_check: Schema | None = None
    output_check: Schema | None = None


class Registry:
    """Handlers by name: a task's type, or for type SYSTEM the task's name."""

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}

    def add(self, handler: Handler) -> None:
        """Register a handler. Raises `Misconfigured` for a bad name or one that another function holds."""
        if not _NAME.fullmatch(handler.name):
            raise Misconfigured(
                f'handler "{handler.name}": expected a letter, then letters, digits and _ . : - (at most 200 characters)'
            )
        if handler.name == AI and not handler.built_in:
            # Its outcome may send events: nobody's function stands in for the one that holds policies.
            raise Misconfigured(f'handler "{AI}": the name is reserved for the tasks that ask models')
        held = self._handlers.get(handler.name)
        if held is not None and _place(held.function) != _place(handler.function):
            raise Misconfigured(
                f'handler "{handler.name}" is registered twice: by {_place(held.function)} and {_place(handler.function)}'
            )
        self._handlers[handler.name] = handler

    def find(self, type: str, name: str) -> Handler:
        """The handler of a task. Raises `KeyError` with a sentence where there is none."""
        wanted = name if type == SYSTEM else type
        handler = self._handlers.get(wanted)
        if handler is None:
            raise KeyError(f'no handler "{wanted}" in this task runner{did_you_mean(wanted, self._handlers)}')
        return handler

    def get(self, name: str) -> Handler | None:
        """The handler of a name, None where there is none."""
        return self._handlers.get(name)

    def types(self) -> list[str]:
        """Task types that this process can run."""
        return sorted({*self._handlers, SYSTEM})

    def functions(self) -> list[str]:
        """Names that a SYSTEM task may have here."""
        return sorted(name for name, handler in self._handlers.items() if not handler.built_in)

    def all(self) -> list[Handler]:
        return [self._handlers[name] for name in sorted(self._handlers)]


REGISTRY = Registry()


Duration = str | int | timedelta


def handler(
    name: str,
    *,
    description: str | None = None,
    input_schema: Mapping[str, Any] | None = None,
    output_schema: Mapping[str, Any] | None = None,
    retry: Mapping[str, Any] | None = None,
    timeout: Duration | None = None,
    heartbeat_timeout: Duration | None = None,
    isolated: bool = False,
    memory_limit: str | int | None = None,
    light: bool = False,
    breaker: Target | bool = False,
) -> Callable[[F], F]:
    """Register the decorated function as the handler of task type `name` (and of SYSTEM tasks of that name).

    `retry`, `timeout` (of one attempt) and `heartbeat_timeout` (the longest silence) hold where neither the task nor
    its definition says otherwise; durations are written as in definitions (`"30s"`, milliseconds) or a `timedelta`.
    `isolated` runs it in a process of its own with at most `memory_limit` (bytes, or text such as `"512MB"`). `light`
    promises that it waits for nothing and takes less than 10 ms: it is claimed, called and reported in one transaction.
    `breaker` has a circuit breaker watch what it calls: a function of the input that names the target, or True for one target
    that all its tasks share.
    `input_schema` and `output_schema` are JSON Schemas: a task whose input or output they refuse fails for good
    (`input.invalid`, `output.invalid`), and definitions are checked against the first as far as their literals allow.
    Raises `Misconfigured` for options that cannot be.
    """
    options = Options(
        _retry(name, retry),
        _milliseconds(name, "timeout", timeout),
        _milliseconds(name, "heartbeat_timeout", heartbeat_timeout),
        isolated,
        _bytes(name, memory_limit, isolated=isolated),
        light,
        _target(name, breaker),
    )
    if light and breaker:
        raise Misconfigured(
            f'handler "{name}": light=True is for what calls nobody; no circuit breaker can watch it'
        )
    if light and (isolated or timeout is not None or heartbeat_timeout is not None):
        raise Misconfigured(
            f'handler "{name}": light=True is for what is done at once; it goes with no isolation and no time-out'
        )

    def register(function: F) -> F:
        REGISTRY.add(make_handler(name, function, description, input_schema, output_schema, options=options))
        return function

    return register


def make_handler(
    name: str,
    function: Callable[..., Any],
    description: str | None = None,
    input_schema: Mapping[str, Any] | None = None,
    output_schema: Mapping[str, Any] | None = None,
    *,
    built_in: bool = False,
    options: Options = PLAIN,
) -> Handler:
    """Describe a function as a handler.

    Raises `Misconfigured` when it cannot take `(input)` or `(input, context)`, and for a schema that is none.
    """
    if inspect.iscoroutinefunction(function):
        raise Misconfigured(f'handler "{name}": {_place(function)} is async; handlers are plain functions')
    positional = [
        parameter
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind
        in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD, parameter.VAR_POSITIONAL)
    ]
    if not positional:
        raise Misconfigured(f'handler "{name}": {_place(function)} must take (input) or (input, context)')
    takes_context = len(positional) > 1 or positional[0].kind is inspect.Parameter.VAR_POSITIONAL
    text = description if description is not None else inspect.getdoc(function) or ""
    checks = [
        None if built_in else _compiled(name, what, schema)
        for what, schema in (("input", input_schema), ("output", output_schema))
    ]
    return Handler(
        name, function, takes_context, text, input_schema, output_schema, built_in, options, *checks
    )


def _compiled(name: str, what: str, schema: Mapping[str, Any] | None) -> Schema | None:
    if schema is None:
        return None
    # As below: most processes of an isolated handler need none of it.
    from common.schemas import compile_schema  # noqa: PLC0415

    try:
        return compile_schema(clean(dict(schema)), trusted=True)
    except Invalid as error:
        raise Misconfigured(f'handler "{name}": {what}_schema: {error}') from error


LEAST_MEMORY = 128 * 2**20
_SIZE = re.compile(r"(\d{1,9})\s*([KMG]i?)?B?", re.IGNORECASE)
_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30}


def _retry(name: str, written: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    if written is None:
        return None
    # Imported where it is needed: the kernel would cost each process of an isolated handler half a second.
    from common.retry import RetryPolicy  # noqa: PLC0415

    try:
        RetryPolicy.read(written)
    except Invalid as error:
        raise Misconfigured(f'handler "{name}": {error}') from error
    return dict(written)


def _milliseconds(name: str, option: str, duration: Duration | None) -> int | None:
    if duration is None:
        return None
    if isinstance(duration, timedelta):
        milliseconds = round(duration.total_seconds() * 1_000)
    else:
        from statechart.durations import parse_duration  # noqa: PLC0415 - as above

        try:
            milliseconds = parse_duration(duration)
        except ValueError as error:
            raise Misconfigured(f'handler "{name}": {option}: {error}') from error
    if milliseconds < 1:
        raise Misconfigured(f'handler "{name}": {option}: expected at least 1 ms, found {duration!r}')
    return milliseconds


def _target(name: str, breaker: Target | bool) -> Target | None:
    if isinstance(breaker, bool):
        return (lambda _input: WHOLE_TYPE) if breaker else None
    if not callable(breaker):
        raise Misconfigured(f'handler "{name}": breaker: expected True or a function of the input')
    return breaker


def _bytes(name: str, limit: str | int | None, *, isolated: bool) -> int | None:
    if limit is None:
        return None
    if not isolated:
        raise Misconfigured(f'handler "{name}": memory_limit needs isolated=True, threads share their memory')
    written = _SIZE.fullmatch(str(limit).strip())
    unit = (written[2] or "").lower().removesuffix("i") if written else ""
    size = int(written[1]) * _UNITS[unit] if written else 0
    if size < LEAST_MEMORY:
        raise Misconfigured(
            f'handler "{name}": memory_limit: expected at least 128 MB, such as "512MB" or 1073741824, found {limit!r}'
        )
    return size


def discover(modules: str) -> None:
    """Import what registers handlers: the entry point group `signalbox.handlers`, then the comma-separated `modules`.

    The current folder is importable, as for `celery -A`. Raises `Misconfigured` naming the module that fails.
    """
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    for point in entry_points(group=ENTRY_POINTS):
        _import(point.value.partition(":")[0], f'entry point "{point.name}"')
    for module in filter(None, (part.strip() for part in modules.split(","))):
        _import(module, "SIGNALBOX_HANDLERS")


def _import(module: str, source: str) -> None:
    try:
        import_module(module)
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        raise Misconfigured(f'{source}: cannot import "{module}": {said}{_raised_at(error)}') from error


def _raised_at(error: BaseException) -> str:
    """Where a module raised, in words; nothing where the import itself found none."""
    frames = [frame for frame in extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    return f" ({frames[-1].filename}, line {frames[-1].lineno})" if len(frames) > 1 else ""


def _place(function: Callable[..., Any]) -> str:
    return f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', '?')}"
