"""What a compilation finds on its way: problems, and what the document names and reads.

The parts of the compiler share one `Findings`; each reports what it finds and goes on, so that one look at a document
tells its author everything.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator

from statechart.chart import AskedTask, StateNode, Use, UseKind
from statechart.env import Json
from statechart.expressions import Expression, ExpressionInvalid, compile_expression
from statechart.problems import DefinitionInvalid, Problem, Severity
from statechart.reading import MAX_PROBLEMS
from statechart.templates import Value, Where, compile_value
from statechart.values import config_name

NOTHING = compile_value(None)
MAX_EXPRESSIONS = 5_000  # in one document, texts and objects with expressions inside counted once
MAX_CHARACTERS = 200_000  # of expressions in one document


class Findings:
    """Problems, uses and paths, in the order of the document."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.uses: list[Use] = []
        self.asked: list[AskedTask] = []
        self.paths: set[str] = set()
        self.results_read: list[tuple[str, str]] = []  # path of the expression's, path in the document
        self._expressions = 0
        self._characters = 0

    def error(self, code: str, at: str, message: str, suggestion: str | None = None) -> None:
        """Raises `DefinitionInvalid` once there are more problems than anybody would read."""
        self.add("error", code, at, message, suggestion)

    def add(
        self, severity: Severity, code: str, at: str, message: str, suggestion: str | None = None
    ) -> None:
        self.problems.append(Problem(severity, code, at, message, suggestion))
        if len(self.problems) >= MAX_PROBLEMS:
            raise DefinitionInvalid(self.problems)

    def has_errors(self) -> bool:
        return any(problem.severity == "error" for problem in self.problems)

    def use(self, kind: UseKind, name: str, at: str, node: StateNode) -> None:
        self.uses.append(Use(kind, name, at, node))

    def value(
        self,
        value: Json,
        at: str,
        extra_names: Collection[str] = (),
        *,
        may_hold_secret: Callable[[Where], bool] = lambda _where: False,
    ) -> Value:
        """Compile a value; a stand-in where that fails, for a chart that nobody will get.

        `may_hold_secret` tells of a place in it whether `${secret.NAME}` will be resolved there.
        """
        self._charge(_template_length(value), at)
        try:
            compiled = compile_value(value, extra_names=extra_names)
        except ExpressionInvalid as invalid:
            self.invalid(invalid, at)
            return NOTHING
        self.note_paths(compiled.paths, at)
        self.check_secrets((where for where in compiled.secrets if not may_hold_secret(where)), at)
        return compiled

    def check_secrets(self, misplaced: Iterable[Where], at: str) -> None:
        """Refuse secrets at places where nobody would resolve them: their names would be taken for their values."""
        for where in misplaced:
            self.error(
                "secret.misplaced",
                ".".join((at, *map(str, where))),
                "a secret, or a link, stands in the input of a task that a task runner executes, and nowhere else; "
                'literal text is written "$${secret.…}"',
            )

    def expression(self, text: str, at: str, extra_names: Collection[str] = ()) -> Expression | None:
        """Compile an expression; None where that fails."""
        self._charge(len(text), at)
        try:
            expression = compile_expression(text, extra_names=extra_names)
        except ExpressionInvalid as invalid:
            self.invalid(invalid, at)
            return None
        self.note_paths(expression.paths, at)
        return expression

    def note_paths(self, paths: Collection[str], at: str) -> None:
        """Note what an expression reads. Configuration is read by what it names, so a module must be named."""
        self.paths.update(paths)
        self.results_read += [(path, at) for path in paths if path.startswith("steps.")]
        if "config" in paths:
            self.error(
                "config.unnamed",
                at,
                "expected config.module.key, or a module and a computed key: config.limits[...]",
            )

    def invalid(self, invalid: ExpressionInvalid, at: str) -> None:
        self.error(invalid.code, at, invalid.message, invalid.suggestion)

    def _charge(self, characters: int, at: str) -> None:
        """Parsing takes about 2 µs a character; a hostile document must not take longer than a second in all."""
        if not characters:
            return
        self._expressions += 1
        self._characters += characters
        if self._expressions > MAX_EXPRESSIONS or self._characters > MAX_CHARACTERS:
            self.error(
                "document.too_many_expressions",
                at,
                f"expected at most {MAX_EXPRESSIONS:,} expressions of {MAX_CHARACTERS:,} characters together",
            )
            raise DefinitionInvalid(self.problems)

    def config_names(self) -> Iterator[str]:
        """`module.key` of every configuration value that is read; only the module where the key is computed."""
        for path in self.paths:
            name = config_name(path)
            if name is not None:
                yield name


def join(at: str, key: str) -> str:
    return f"{at}.{key}" if at else key


def _template_length(value: Json) -> int:
    """Characters of the texts that hold expressions, at any depth."""
    if isinstance(value, str):
        return len(value) if "${" in value else 0
    if not isinstance(value, dict | list):
        return 0
    length = 0
    pending = [value]
    while pending:
        holder = pending.pop()
        for item in holder.values() if isinstance(holder, dict) else holder:
            if isinstance(item, str):
                length += len(item) if "${" in item else 0
            elif isinstance(item, dict | list):
                pending.append(item)
    return length
