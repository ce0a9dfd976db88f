"""Templates of e-mails: files of the operator's, filled with data of anybody's.

A template NAME is up to three files in the folder `SIGNALBOX_TEMPLATES`: NAME.txt, NAME.html, NAME.subject. They are Jinja2 in its
sandbox. Who writes the files is trusted to mean well, the data is not: it is never read as a template, it is escaped in HTML,
what is missing is an error, and however much of it there is, a rendering ends soon and stays small.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import BaseLoader, Environment, StrictUndefined, Template, TemplateError, TemplateNotFound, nodes
from jinja2.runtime import Context
from jinja2.sandbox import SandboxedEnvironment
from jinja2.visitor import NodeTransformer

from task_runner.registry import Permanent

NAME = r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}(/[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}){0,3}"
MAX_RENDERED = 1_000_000
"""Characters of one part of a message."""
MAX_ROUNDS = 100_000
"""Rounds of all loops, and calls, of one rendering together."""
MAX_BITS = 10_000
MAX_SECONDS = 5.0
MAX_FILE_BYTES = 1_000_000
_PARTS = ("txt", "html", "subject")


@dataclass(frozen=True, slots=True)
class Filled:
    """A filled template: the parts that it has."""

    text: str | None
    html: str | None
    subject: str | None


def fill(folder: Path | None, name: str, data: Mapping[str, Any]) -> Filled:
    """Fill a template with data. Raises `Permanent` (`email.template_unknown`, `email.template_failed`)."""
    if not re.fullmatch(NAME, name):
        raise Permanent(
            f"template: {name[:100]!r} is no name of one; expected letters, digits and _ . -, in folders by /",
            code="email.template_unknown",
        )
    if folder is None:
        raise Permanent(
            f'template: there is no folder to find "{name}" in; set SIGNALBOX_TEMPLATES for the task runner',
            code="email.template_unknown",
        )
    environment = _Sandbox(folder)
    found: dict[str, str] = {}
    for part in _PARTS:
        try:
            found[part] = _filled(environment, f"{name}.{part}", data)
        except TemplateNotFound as error:
            if error.name != f"{name}.{part}":
                raise _failed(f"{name}.{part}", f'it includes "{error.name}", which is not there') from None
    if "txt" not in found and "html" not in found:
        raise Permanent(
            f'template: there is no "{name}" in SIGNALBOX_TEMPLATES; expected {name}.txt or {name}.html or both there',
            code="email.template_unknown",
        )
    subject = found.get("subject")
    return Filled(found.get("txt"), found.get("html"), None if subject is None else subject.strip())


def _filled(environment: _Sandbox, file: str, data: Mapping[str, Any]) -> str:
    environment.begin()
    pieces: list[str] = []
    size = 0
    try:
        for piece in environment.get_template(file).generate(dict(data)):
            environment.check_time()
            size += len(piece)
            if size > MAX_RENDERED:
                raise _failed(file, f"it makes more than {MAX_RENDERED:,} characters")
            pieces.append(piece)
    except (TemplateNotFound, Permanent):
        raise
    except TemplateError as error:
        line = getattr(error, "lineno", None)
        raise _failed(f"{file}{f', line {line}' if line else ''}", str(error.message)[:500]) from None
    except RecursionError:
        raise _failed(file, "it calls or includes itself without end") from None
    except _TooMuch as error:
        raise _failed(file, str(error)) from None
    except Exception as error:  # noqa: BLE001 - whatever the operator's template does with whatever data there is
        raise _failed(file, f"{type(error).__name__}: {error}"[:500]) from None
    return "".join(pieces)


def _failed(file: str, what: str) -> Permanent:
    return Permanent(f"template {file} cannot be filled: {what}", code="email.template_failed")


class _TooMuch(Exception):
    pass


class _Sandbox(SandboxedEnvironment):
    """Jinja2's sandbox, in which loops and calls are counted, and what multiplies is bounded."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, folder: Path) -> None:
        super().__init__(
            loader=_Files(folder),
            undefined=StrictUndefined,
            autoescape=lambda name: name is not None and name.endswith(".html"),
            auto_reload=False,
        )
        self.globals.pop("lipsum", None)
        for padding in ("center", "format"):
            self.filters.pop(padding, None)
        self.filters |= {"_counted": self._counted, "_bounded": _bounded}
        self.begin()

    def begin(self) -> None:
        """A rendering begins."""
        self._rounds = 0
        self._until = time.monotonic() + MAX_SECONDS

    def check_time(self) -> None:
        if time.monotonic() > self._until:
            raise _TooMuch(f"it takes longer than {MAX_SECONDS:g} s")

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        template: nodes.Template = _Bounding(self).visit(super()._parse(source, name, filename))
        return template

    def _counted(self, values: Iterable[Any]) -> Iterable[Any]:
        return _Counted(values, self._count) if isinstance(values, Sized) else self._one_by_one(values)

    def _one_by_one(self, values: Iterable[Any]) -> Iterator[Any]:
        for value in values:
            self._count()
            yield value

    def _count(self) -> None:
        self._rounds += 1
        if self._rounds > MAX_ROUNDS:
            raise _TooMuch(f"it takes more than {MAX_ROUNDS:,} rounds of loops and calls")
        self.check_time()

    def get_template(self, *arguments: Any, **named: Any) -> Template:
        self._count()
        return super().get_template(*arguments, **named)

    def call(self, *arguments: Any, **named: Any) -> Any:
        self._count()
        return super().call(*arguments, **named)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if not _is_bounded(operator, left, right):
            raise _TooMuch(f'"{operator}" may make too much of what it is given')
        return super().call_binop(context, operator, left, right)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        is_padding = isinstance(obj, str) and attr in _PADDING
        return not is_padding and super().is_safe_attribute(obj, attr, value)

    def getattr(self, obj: Any, attribute: str) -> Any:
        """`order.items` is the member of that name: data has no methods of interest (`order|items` goes over both)."""
        if isinstance(obj, Mapping) and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)


# What makes a text as long as a number says.
_PADDING = frozenset({"format", "format_map", "center", "ljust", "rjust", "zfill", "expandtabs"})


def _is_bounded(operator: str, left: Any, right: Any) -> bool:
    if operator == "%":
        return not isinstance(left, str)
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * (abs(right) if operator == "**" else 1) + right.bit_length()
        return bits <= MAX_BITS
    sizes = [
        one if isinstance(one, int) else len(one) for one in (left, right) if isinstance(one, int | Sized)
    ]
    size = sum(sizes) if operator == "+" else math.prod(sizes)
    return len(sizes) < 2 or size <= MAX_RENDERED


def _bounded(text: str) -> str:
    if len(text) > MAX_RENDERED:
        raise _TooMuch(f'"~" makes more than {MAX_RENDERED:,} characters')
    return text


class _Bounding(NodeTransformer):
    """Lets each loop of a template go over what is counted, and bounds what is put together."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802 - named by Jinja2
        self.generic_visit(node)
        node.iter = self._filtered(node.iter, "_counted")
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return self._filtered(node, "_bounded")

    def _filtered(self, node: Any, name: str) -> nodes.Filter:
        wrapped = nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)
        wrapped.set_environment(self._environment)
        return wrapped


class _Counted:
    """Values that know their length, and whose every round is counted."""

    def __init__(self, values: Any, count: Callable[[], None]) -> None:
        self._values = values
        self._count = count

    def __iter__(self) -> Iterator[Any]:
        for value in self._values:
            self._count()
            yield value

    def __len__(self) -> int:
        return len(self._values)


class _Files(BaseLoader):
    """The files of one folder, and none beyond it, whatever a name or a link in it says."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()

    def get_source(
        self,
        environment: Environment,  # noqa: ARG002 - the base class's signature
        template: str,
    ) -> tuple[str, str | None, Callable[[], bool] | None]:
        if not re.fullmatch(NAME, template):
            raise TemplateNotFound(template)
        path = (self._folder / template).resolve()
        if not path.is_relative_to(self._folder) or not path.is_file():
            raise TemplateNotFound(template)
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
        if len(raw) > MAX_FILE_BYTES:
            raise _TooMuch(f"the file has more than {MAX_FILE_BYTES:,} bytes")
        return raw.decode(), template, None
