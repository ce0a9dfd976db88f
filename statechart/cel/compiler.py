"""Nodes to closures: each node becomes one Python function of the scope, built once per expression.

Costs are counted without a call per node: a node's share is known here, so an evaluation charges the nodes outside
macros at its start, and a macro charges the nodes of its body for each element. Untaken branches are counted as
well. What the data decides (elements, texts) is charged by the functions as they run; an expression that has nothing
of the kind is `flat` and needs no meter at all, since a text has far fewer nodes than the limit.

Invariant: the closures raise nothing but `ExpressionFailed`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection
from datetime import datetime, timedelta
from typing import Any, NamedTuple, TypeGuard

from statechart.cel import patterns
from statechart.cel.arithmetic import OPERATIONS, negate
from statechart.cel.errors import (
    SYNTAX,
    TOO_DEEP,
    TOO_EXPENSIVE,
    TYPE,
    UNKNOWN_FUNCTION,
    UNKNOWN_NAME,
    VALUE,
    ExpressionFailed,
    ExpressionInvalid,
    Place,
)
from statechart.cel.functions import GLOBALS, METHODS, Function
from statechart.cel.macros import Loop, exactly_one, filtered, mapped, quantified
from statechart.cel.members import (
    Chain,
    Step,
    element,
    extra_reader,
    optional_reader,
    presence,
    reader,
)
from statechart.cel.scope import Run, Scope, drawn_fraction, drawn_uuid
from statechart.cel.syntax import (
    Binary,
    Call,
    Choice,
    Index,
    ListOf,
    Literal,
    Logic,
    MapOf,
    Name,
    Node,
    Select,
    Unary,
)
from statechart.cel.values import TYPES, check_ordered, equal, is_number, kind, need_string

ROOTS = ("context", "event", "input", "instance", "config", "steps", "now")
MACROS = ("has", "all", "exists", "exists_one", "map", "filter")
_DRAWS: dict[str, Run] = {"uuid": drawn_uuid, "random": drawn_fraction}

# How high the tree of nodes may be: one Python frame a level when it runs, two when it is compiled.
MAX_HEIGHT = 100

# Nodes and instructions of patterns in one expression; a text within its limit of length reaches this by patterns only.
MAX_SIZE = 20_000

_ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
# Calls that are made once and for all where their argument is a literal.
_LITERAL_CALLS = frozenset(("timestamp", "duration"))


class Code(NamedTuple):
    """A compiled node; where `is_constant`, `value` is what it always returns."""

    run: Run
    is_constant: bool = False
    value: Any = None


class Compiler:
    """Compiles one text; afterwards holds what an `Expression` needs to know beside the closure."""

    __slots__ = ("bound", "cost", "extra", "height", "is_flat", "paths", "size", "slots", "text")

    def __init__(self, text: str, extra_names: Collection[str]) -> None:
        self.text = text
        self.extra = frozenset(extra_names)
        self.bound: list[str] = []  # variables of the macros around, by slot
        self.slots = 0
        self.cost = 0  # nodes outside macros
        self.size = 0  # all nodes, and the instructions of literal patterns
        self.height = 0
        self.is_flat = True
        self.paths: set[str] = set()

    def place(self, at: int) -> Place:
        return Place(self.text, at)

    def compile(self, node: Node) -> Code:
        self.cost += 1
        self.size += 1
        self.height += 1
        if self.height > MAX_HEIGHT:
            raise self.place(node.at).invalid(
                TOO_DEEP, f"more than {MAX_HEIGHT} operations inside one another; use brackets or a list"
            )
        code = _COMPILED_BY[type(node)](self, node)
        self.height -= 1
        return code

    def literal(self, node: Literal) -> Code:
        return constant(node.value)

    # Names and members.

    def path(self, node: Node) -> Code:
        """A chain of members is one closure, whatever its length."""
        origin, steps = self.chain(node)
        root = self.root(origin, steps)
        if not steps:
            return root
        chain = Chain(origin.name if isinstance(origin, Name) else "the value", steps, self.text)
        if any(step.optional for step in steps):
            return Code(optional_reader(root.run, chain))
        return Code(reader(root.run, chain))

    def chain(self, node: Node) -> tuple[Node, tuple[Step, ...]]:
        """The node that a chain of members starts from, and the members in reading order."""
        steps: list[Step] = []
        while True:
            if isinstance(node, Select):
                steps.append(Step(node.name, node.at, node.optional))
            elif isinstance(node, Index) and isinstance(node.key, Literal) and type(node.key.value) is str:
                steps.append(Step(node.key.value, node.at, node.optional))
            else:
                break
            node = node.operand
        steps.reverse()
        self.cost += len(steps)
        self.size += len(steps)
        return node, tuple(steps)

    def root(self, origin: Node, steps: tuple[Step, ...]) -> Code:
        if not isinstance(origin, Name):
            return self.compile(origin)
        name = origin.name
        if name in self.bound and not origin.rooted:
            slot = len(self.bound) - 1 - self.bound[::-1].index(name)
            return Code(lambda scope: scope.variables[slot])
        if name in self.extra:
            self.note(name, steps)
            return Code(extra_reader(name, self.place(origin.at)))
        if name in ROOTS:
            self.note(name, steps)
            return Code(operator.attrgetter(name))
        if name in TYPES:
            return constant(TYPES[name])
        known = (*self.bound, *sorted(self.extra), *ROOTS)
        raise self.place(origin.at).invalid(
            UNKNOWN_NAME, f'unknown name "{name[:80]}"; there are {", ".join(known)}', name, known
        )

    def note(self, name: str, steps: tuple[Step, ...]) -> None:
        self.paths.add(".".join((name, *(_quoted(step.key) for step in steps))))

    def index(self, node: Index) -> Code:
        if isinstance(node.key, Literal) and type(node.key.value) is str:
            return self.path(node)
        operand, wanted = self.compile(node.operand).run, self.compile(node.key).run
        place, optional = self.place(node.at), node.optional

        def run(scope: Scope) -> Any:
            return element(operand(scope), wanted(scope), optional, place)

        return Code(run)

    # Operators.

    def binary(self, node: Binary) -> Code:
        left, right = self.compile(node.left), self.compile(node.right)
        place = self.place(node.at)
        was_flat = self.is_flat
        match node.operator:
            case "==":
                code = self.equality(left, right, place)
            case "!=":
                same = self.equality(left, right, place).run
                code = Code(lambda scope: not same(scope))
            case "in":
                code = self.membership(node, left, right, place)
            case symbol if symbol in _ORDERS:
                code = self.order(_ORDERS[symbol], left, right, place)
            case symbol:
                code = self.arithmetic(symbol, left, right, place)
        code = folded(code, left, right)
        if code.is_constant:
            self.is_flat = was_flat
        return code

    def equality(self, left: Code, right: Code, place: Place) -> Code:
        """Comparing with a literal needs no meter and mostly one test."""
        if left.is_constant and not right.is_constant:
            left, right = right, left
        one, other = left.run, right.value
        if right.is_constant:
            match other:
                case None | bool():
                    return Code(lambda scope: one(scope) is other)
                case str():
                    return Code(lambda scope: bool(one(scope) == other))
                case int() | float():
                    return Code(lambda scope: (value := one(scope)) == other and type(value) is not bool)
        self.is_flat = False
        another = right.run
        return Code(lambda scope: equal(one(scope), another(scope), scope.working, place))

    def order(self, test: Callable[[Any, Any], bool], left: Code, right: Code, place: Place) -> Code:
        one, another = left.run, right.run
        if right.is_constant and is_number(right.value):
            bound = right.value

            def compare_with_number(scope: Scope) -> bool:
                value = one(scope)
                found = type(value)
                if found is not int and found is not float:
                    check_ordered(value, bound, scope.working, place)
                return test(value, bound)

            return Code(compare_with_number)
        self.is_flat = False

        def compare(scope: Scope) -> bool:
            first, second = one(scope), another(scope)
            check_ordered(first, second, scope.working, place)
            return test(first, second)

        return Code(compare)

    def membership(self, node: Binary, left: Code, right: Code, place: Place) -> Code:
        wanted, container = left.run, right.run
        if isinstance(node.right, ListOf) and all(
            isinstance(item, Literal) and type(item.value) is str for item in node.right.items
        ):
            texts = frozenset(item.value for item in node.right.items if isinstance(item, Literal))
            return Code(lambda scope: type(value := wanted(scope)) is str and value in texts)
        self.is_flat = False
        return Code(lambda scope: contained(wanted(scope), container(scope), scope, place))

    def arithmetic(self, symbol: str, left: Code, right: Code, place: Place) -> Code:
        self.is_flat = False
        operation, one, another = OPERATIONS[symbol], left.run, right.run
        return Code(lambda scope: operation(one(scope), another(scope), scope.working, place))

    def unary(self, node: Unary) -> Code:
        operand = self.compile(node.operand)
        one, place = operand.run, self.place(node.at)
        if node.operator == "-":
            return folded(Code(lambda scope: negate(one(scope), place)), operand)

        def invert(scope: Scope) -> bool:
            value = one(scope)
            if value is True:
                return False
            if value is False:
                return True
            raise place.failed(TYPE, f"! needs a bool, found {kind(value)}")

        return folded(Code(invert), operand)

    def logic(self, node: Logic) -> Code:
        codes = [self.compile(operand) for operand in node.operands]
        runs = tuple([code.run for code in codes])
        return folded(Code(combined(runs, node, self.text)), *codes)

    def choice(self, node: Choice) -> Code:
        codes = self.compile(node.condition), self.compile(node.then), self.compile(node.otherwise)
        condition, then, otherwise = (code.run for code in codes)
        place = self.place(node.condition.at)

        def run(scope: Scope) -> Any:
            chosen = condition(scope)
            if chosen is True:
                return then(scope)
            if chosen is False:
                return otherwise(scope)
            raise place.failed(TYPE, f"the condition of ?: needs a bool, found {kind(chosen)}")

        return folded(Code(run), *codes)

    # Literals with parts.

    def list_of(self, node: ListOf) -> Code:
        items = tuple(self.compile(item).run for item in node.items)
        return Code(lambda scope: [item(scope) for item in items])

    def map_of(self, node: MapOf) -> Code:
        keys = [self.compile(key) for key, _ in node.entries]
        places = [self.place(key.at) for key, _ in node.entries]
        values = [self.compile(value).run for _, value in node.entries]
        refuse_keys(keys, places)
        entries = tuple(zip((key.run for key in keys), values, places, strict=True))

        def run(scope: Scope) -> dict[str, Any]:
            built: dict[str, Any] = {}
            for key, value, place in entries:
                name = need_string(key(scope), place, "the key of a map")
                if name in built:
                    raise place.failed(VALUE, f'the map has two members "{name[:40]}"')
                built[name] = value(scope)
            return built

        return Code(run)

    # Calls.

    def call(self, node: Call) -> Code:
        place = self.place(node.at)
        if node.target is None:
            return self.global_call(node, place)
        if self.is_namespace(node.target):
            return self.function(f"{node.target.name}.{node.function}", node.arguments, place, GLOBALS)
        if node.function in MACROS and node.function != "has":
            return self.macro(node, node.target, place)
        return self.function(node.function, (node.target, *node.arguments), place, METHODS)

    def is_namespace(self, target: Node) -> TypeGuard[Name]:
        return isinstance(target, Name) and target.name in {"math", "lists"} and target.name not in self.bound

    def global_call(self, node: Call, place: Place) -> Code:
        if node.function == "has":
            return self.has(node, place)
        if node.function in _DRAWS:
            if node.arguments:
                raise place.invalid(
                    SYNTAX, f"{node.function}() takes no arguments, found {len(node.arguments)}"
                )
            return Code(_DRAWS[node.function])
        return self.function(node.function, node.arguments, place, GLOBALS)

    def function(
        self, name: str, arguments: tuple[Node, ...], place: Place, table: dict[str, Function]
    ) -> Code:
        found = table.get(name)
        if found is None:
            raise unknown_function(name, place, table)
        if not found.fewest <= len(arguments) <= found.most:
            raise place.invalid(SYNTAX, _arity(name, found, len(arguments), is_method=table is METHODS))
        codes = [self.compile(argument) for argument in arguments]
        if name == "matches" and codes[1].is_constant:
            return self.match_literal(codes[0].run, codes[1].value, place)
        self.is_flat = False
        code = Code(called(found.run, tuple(code.run for code in codes), place))
        return self.literal_call(code, codes[0]) if name in _LITERAL_CALLS else code

    def literal_call(self, code: Code, argument: Code) -> Code:
        """`timestamp("…")` and `duration("…")`: read here where the text is a literal, and refused here."""
        if not argument.is_constant:
            return code
        try:
            return constant(code.run(Scope()))
        except ExpressionFailed as error:
            raise refused(error) from None

    def match_literal(self, subject: Run, pattern: Any, place: Place) -> Code:
        """A literal pattern is compiled here, and refused here."""
        self.is_flat = False
        try:
            compiled = patterns.compile_pattern(need_string(pattern, place, "matches"), place)
        except ExpressionFailed as error:
            raise refused(error) from None
        self.size += compiled.programsize
        if self.size > MAX_SIZE:
            raise place.invalid(TOO_EXPENSIVE, "the patterns of the expression are too large together")

        def run(scope: Scope) -> bool:
            return patterns.search(
                compiled, scope.working, place, need_string(subject(scope), place, "matches")
            )

        return Code(run)

    def has(self, node: Call, place: Place) -> Code:
        if len(node.arguments) != 1:
            raise place.invalid(SYNTAX, f"has() takes one argument, found {len(node.arguments)}")
        origin, steps = self.chain(node.arguments[0])
        if not steps:
            raise place.invalid(SYNTAX, "has() tests a member, as in has(context.amount)")
        owner = origin.name if isinstance(origin, Name) else "the value"
        return Code(presence(self.root(origin, steps).run, Chain(owner, steps, self.text)))

    def macro(self, node: Call, target: Node, place: Place) -> Code:
        """`target.all(x, …)` and its kind: the variable lives in a slot of the scope while the body runs."""
        most = 3 if node.function == "map" else 2
        if not 2 <= len(node.arguments) <= most:
            raise place.invalid(
                SYNTAX,
                f"{node.function}() takes a variable and an expression, found {len(node.arguments)} arguments",
            )
        variable, *bodies = node.arguments
        if not isinstance(variable, Name) or variable.rooted:
            raise self.place(variable.at).invalid(
                SYNTAX, f"{node.function}() takes the name of a variable first"
            )
        source = self.compile(target).run
        outer, self.cost = self.cost, 0
        slot = len(self.bound)
        self.bound.append(variable.name)
        self.slots = max(self.slots, len(self.bound))
        *tests, body = [self.compile(body).run for body in bodies]
        self.bound.pop()
        cost, self.cost = self.cost + 1, outer
        self.is_flat = False
        loop = Loop(source, slot, cost, place, node.function)
        match node.function:
            case "all":
                return Code(quantified(loop, body, decisive=False))
            case "exists":
                return Code(quantified(loop, body, decisive=True))
            case "exists_one":
                return Code(exactly_one(loop, body))
            case "filter":
                return Code(filtered(loop, body))
            case _:
                return Code(mapped(loop, tests[0] if tests else None, body))


# A `match` over the nodes would take a fifth of the whole compilation.
_COMPILED_BY: dict[type, Callable[[Compiler, Any], Code]] = {
    Literal: Compiler.literal,
    Name: Compiler.path,
    Select: Compiler.path,
    Index: Compiler.index,
    Call: Compiler.call,
    ListOf: Compiler.list_of,
    MapOf: Compiler.map_of,
    Unary: Compiler.unary,
    Binary: Compiler.binary,
    Logic: Compiler.logic,
    Choice: Compiler.choice,
}


def constant(value: Any) -> Code:
    return Code(lambda _scope: value, is_constant=True, value=value)


def refused(error: ExpressionFailed) -> ExpressionInvalid:
    """What fails whenever it runs, as an error of the definition."""
    return ExpressionInvalid(error.code, error.detail, error.text, error.offset)


def folded(code: Code, *parts: Code) -> Code:
    """`code` done once and for all where its parts are constants; a failure is left to happen when it runs."""
    for part in parts:
        if not part.is_constant:
            return code
    try:
        value = code.run(Scope())
    except ExpressionFailed:
        return code
    return constant(value) if isinstance(value, bool | int | float | str | datetime | timedelta) else code


def refuse_keys(keys: list[Code], places: list[Place]) -> None:
    """Refuse a map whose literal keys no JSON object can have: other than strings, or twice the same."""
    seen: set[str] = set()
    for key, place in zip(keys, places, strict=True):
        if not key.is_constant:
            continue
        if type(key.value) is not str:
            raise place.invalid(SYNTAX, f"the keys of a map are strings, found {kind(key.value)}")
        if key.value in seen:
            raise place.invalid(SYNTAX, f'the map has two members "{key.value[:40]}"')
        seen.add(key.value)


def _quoted(key: str) -> str:
    return f"`{key}`" if "." in key or "`" in key else key


def _arity(name: str, found: Function, count: int, *, is_method: bool) -> str:
    fewest, most, given = (number - is_method for number in (found.fewest, found.most, count))
    wanted = f"{fewest}" if fewest == most else f"at least {fewest}" if most > 100 else f"{fewest} to {most}"
    return f"{name}() takes {wanted} argument{'' if wanted == '1' else 's'}, found {given}"


def unknown_function(name: str, place: Place, table: dict[str, Function]) -> ExpressionInvalid:
    if table is GLOBALS and (name in METHODS or name in MACROS):
        detail = f"{name}() is called on a value, as in x.{name}(…)"
        return place.invalid(UNKNOWN_FUNCTION, detail)
    if table is METHODS and (name in GLOBALS or name == "has"):
        return place.invalid(UNKNOWN_FUNCTION, f"{name}() takes its value as an argument, as in {name}(x)")
    known = (*table, *MACROS, *_DRAWS)
    return place.invalid(UNKNOWN_FUNCTION, f'unknown function "{name[:80]}"', name, known)


# Operators with more to say than one line.


def contained(wanted: Any, container: Any, scope: Scope, place: Place) -> bool:
    """`wanted in container`: an element of a list, or the name of a member of a map."""
    if type(container) is list:
        meter = scope.working
        for item in container:
            meter.charge(1, place)
            if equal(wanted, item, meter, place):
                return True
        return False
    if type(container) is dict:
        return type(wanted) is str and bool(wanted in container)
    hint = "; for texts write text.contains(part)" if type(container) is str else ""
    raise place.failed(TYPE, f"in needs a list or a map, found {kind(container)}{hint}")


def combined(operands: tuple[Run, ...], node: Logic, text: str) -> Run:
    """`&&` and `||`: one operand that decides makes the errors of all others unimportant, wherever it stands."""
    decisive = node.operator == "||"

    def run(scope: Scope) -> bool:
        failure: ExpressionFailed | None = None
        for position, operand in enumerate(operands):
            try:
                value: object = operand(scope)
            except ExpressionFailed as error:
                # Work that was refused must end the evaluation, or a chain of `||` could go on refusing.
                if error.code == TOO_EXPENSIVE:
                    raise
                failure = failure or error
                continue
            if value is decisive:
                return decisive
            if type(value) is not bool:
                place = Place(text, node.operands[position].at)
                failure = failure or place.failed(TYPE, f"{node.operator} needs bools, found {kind(value)}")
        if failure is not None:
            raise failure
        return not decisive

    return run


def called(function: Callable[..., Any], arguments: tuple[Run, ...], place: Place) -> Run:
    match arguments:
        case (one,):
            return lambda scope: function(scope.working, place, one(scope))
        case (one, other):
            return lambda scope: function(scope.working, place, one(scope), other(scope))
    return lambda scope: function(scope.working, place, *[argument(scope) for argument in arguments])
