"""What can be said against the input of a POLL before it runs: its parts, its literals, its condition, its inner task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from pydantic import ValidationError

from statechart.document import Duration, TaskSpec
from statechart.durations import parse_duration
from statechart.env import Json
from statechart.expected import complaint
from statechart.findings import Findings, join
from statechart.polls import FIELDS, LEAST_INTERVAL_MS, NO_INNER, REQUIRED
from statechart.problems import nearest
from statechart.templates import is_template

_INNER = ("type", "name", "input", "retry", "maxAttempts", "timeout", "timeouts", "policy")
"""What may be said of the inner task. All the rest belongs to the POLL, which is the task that is created."""


class PollParts(NamedTuple):
    """A POLL's input, read: the inner task, the condition as an expression, and its other members."""

    task: TaskSpec
    until: str
    rest: dict[str, Json]


def read_poll(
    findings: Findings, given: Json, at: str, duration: Callable[[Duration, str], Duration]
) -> PollParts | None:
    """Find what is wrong in the input of a POLL, as far as it is written out; None where it is of no use.

    `duration` reads what may be the name of one.
    """
    if not isinstance(given, Mapping):
        findings.error(
            "poll.input", at, f"expected an object with task, until and interval, found {given!r:.80}"
        )
        return None
    for name in given:
        if name not in FIELDS:
            message = f"unknown field {name!r}; a POLL takes {', '.join(FIELDS)}"
            findings.error("poll.input", join(at, name), message, nearest(name, FIELDS))
    missing = [name for name in REQUIRED if given.get(name) is None]
    if missing:
        findings.error("poll.input", at, f"expected {' and '.join(missing)}, found none")
    rest = {name: value for name, value in given.items() if name in FIELDS and name not in ("task", "until")}
    _check_times(findings, rest, at, duration)
    _check_counts(findings, rest, at)
    until = _until(findings, given["until"], join(at, "until")) if "until" in given else None
    task = _inner(findings, given["task"], join(at, "task")) if "task" in given else None
    return None if task is None or until is None else PollParts(task, until, rest)


def _check_times(
    findings: Findings, rest: dict[str, Json], at: str, duration: Callable[[Duration, str], Duration]
) -> None:
    for name, least in (("interval", LEAST_INTERVAL_MS), ("timeout", 1)):
        value = rest.get(name)
        if value is None:
            continue
        rest[name] = read = duration(value, join(at, name))
        try:
            milliseconds = parse_duration(read)
        except ValueError:  # told already, or only known later
            continue
        if milliseconds < least:
            message = f"expected at least {least} ms, found {value!r}"
            findings.error(f"poll.{name}", join(at, name), message)


def _check_counts(findings: Findings, rest: Mapping[str, Json], at: str) -> None:
    most, first = rest.get("maxAttempts"), rest.get("checkFirst")
    if most is not None and not is_template(most):
        is_count = isinstance(most, int | float) and not isinstance(most, bool) and most >= 1
        if not is_count or most != int(most):
            message = f"expected a whole number of at least 1, found {most!r:.80}"
            findings.error("poll.max_attempts", join(at, "maxAttempts"), message)
    if first is not None and not is_template(first) and not isinstance(first, bool):
        findings.error(
            "poll.check_first", join(at, "checkFirst"), f"expected true or false, found {first!r:.80}"
        )


def _until(findings: Findings, condition: Json, at: str) -> str | None:
    """The condition is asked where the task runs, of its `output` and nothing else; here it is only made sure of."""
    if not isinstance(condition, str):
        findings.error("poll.until", at, f"expected an expression over output, found {condition!r:.80}")
        return None
    text = condition[2:-1] if condition.startswith("${") and condition.endswith("}") else condition
    expression = findings.expression(text, at, ("output",))
    if expression is None:
        return None
    others = sorted({path for path in expression.paths if path.partition(".")[0] != "output"})
    if others:
        message = f"expected an expression over output alone, which is all that is known where the task runs; found {others[0]!r}"
        findings.error("poll.until", at, message)
    elif not expression.paths:
        findings.error(
            "poll.until", at, f"expected an expression over output, found {text!r:.80}, which reads none"
        )
    return text


def _inner(findings: Findings, given: Json, at: str) -> TaskSpec | None:
    try:
        spec = TaskSpec.model_validate(given)
    except ValidationError as invalid:
        for detail in invalid.errors(include_url=False):
            where = ".".join(str(part) for part in detail["loc"])
            is_unknown = detail["type"] == "extra_forbidden"
            message = f"unknown key {where!r}; the task of a POLL takes {', '.join(_INNER)}"
            findings.error(
                "poll.task",
                join(at, where) if where else at,
                message if is_unknown else complaint(detail),
                nearest(where, _INNER) if is_unknown else None,
            )
        return None
    misplaced = [name for name in given if name not in _INNER]
    for name in misplaced:
        message = f"{name!r} belongs to the POLL, beside its input: that is the task which is created"
        findings.error("poll.task", join(at, name), message)
    if spec.type in NO_INNER:
        message = f"a task of type {spec.type!r} cannot be asked again: no task runner executes it"
        findings.error("poll.task", join(at, "type"), message)
    if spec.type == "SYSTEM" and not spec.name:
        findings.error("poll.task", at, "expected the name of the function beside type SYSTEM, found none")
    return spec
