# ruff: noqa: PLC0415 - what is heavy is loaded by the command that needs it: `signalbox --help` answers at once
"""What a command prints: tables and timelines for people on a terminal, plain text into a pipe, or JSON.

With `--json`, stdout carries the JSON answer and nothing else; without it, stdout carries the answer for people. Hints,
progress and errors go to stderr in either case, except that a failed `--json` command answers with
`{"error": {code, message, problems}}`.
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TextIO, cast

import orjson

from common.errors import Invalid, SignalboxError

if TYPE_CHECKING:  # rich is loaded when something is shown with it, so that `--json` and `--help` stay quick
    from rich.console import Console, RenderableType

PIPE_COLUMNS = 1_000
"""Into a pipe nothing is wrapped or cut: a line is a line, whatever its length."""
_TRAILING_SPACES = re.compile(r" +(?=\n)")


class Output:
    """Where one command writes."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json

    def show(self, data: Any, human: Callable[[], RenderableType]) -> None:
        """Print the answer: `data` as JSON, or what `human` makes of it."""
        if self.as_json:
            self.write_json(data)
        else:
            console(sys.stdout).print(human())

    def show_first(self, limit: int, found: list[Any], human: Callable[[list[Any]], RenderableType]) -> None:
        """Print a list, and say where it is cut: of `found`, for which one more was asked than is shown, the first `limit`."""
        shown = found[:limit]
        self.show({"items": shown, "nextCursor": None}, lambda: human(shown))
        if len(found) > limit:
            sys.stderr.write(f"these are the first {limit}, and there are more: --limit N shows N\n")

    def write_json(self, data: Any) -> None:
        sys.stdout.write(orjson.dumps(data, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE).decode())

    def write_json_line(self, data: Any) -> None:
        """One JSON value on one line, at once: for what arrives piece by piece."""
        sys.stdout.write(orjson.dumps(data, option=orjson.OPT_APPEND_NEWLINE).decode())
        sys.stdout.flush()

    def note(self, renderable: RenderableType) -> None:
        """Tell something beside the answer, on stderr."""
        console(sys.stderr).print(renderable)

    def fail(self, error: SignalboxError) -> None:
        """Tell why the command failed."""
        if self.as_json:
            self.write_json({"error": _error_body(error)})
        else:
            self.note(_error_text(error))


def console(stream: TextIO) -> Console:
    """A console that draws on a terminal and writes plain, unwrapped lines anywhere else."""
    from signalbox.cli.console import VisibleConsole

    if stream.isatty():
        return VisibleConsole(file=stream, highlight=False, markup=False, emoji=False)
    return VisibleConsole(
        file=cast("TextIO", _Trimmed(stream)),
        highlight=False,
        markup=False,
        emoji=False,
        width=PIPE_COLUMNS,
        no_color=True,
    )


class _Trimmed(io.TextIOBase):
    """A stream that gets no spaces at the ends of lines: tables pad their cells to the width of the column."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str, /) -> int:
        self._stream.write(_TRAILING_SPACES.sub("", text))
        return len(text)

    def flush(self) -> None:
        self._stream.flush()


def _error_body(error: SignalboxError) -> Mapping[str, Any]:
    body: dict[str, Any] = {"code": error.code, "message": error.message}
    if isinstance(error, Invalid):
        body["problems"] = error.problems
    return body


def _error_text(error: SignalboxError) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    from signalbox.cli.render import problem_line

    head = Text.assemble(("error", "bold red"), ": ", error.message)
    if not isinstance(error, Invalid):
        return head
    return Group(head, *(problem_line(problem) for problem in error.problems))
