"""Short ways to say what the tests of the kernel say: run a definition, step a chart, look at what came of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import statechart
from statechart import Chart, Env, Step

NOW = datetime(2026, 3, 1, 9, 12, tzinfo=UTC)
Json = Any


def env(*, after: float = 0, config: dict[str, Json] | None = None, seed: str = "seed") -> Env:
    """The environment `after` seconds past NOW."""
    return Env(NOW + timedelta(seconds=after), config or {}, seed)


def log(text: str) -> dict[str, Json]:
    """An action that appends `text` to `context.log`, so that a test can read the order of things."""
    return {"type": "assign", "path": "log", "value": f"${{context.log + ['{text}']}}"}


def traced(name: str, **state: Json) -> dict[str, Json]:
    """A state that logs `+name` on entry and `-name` on exit."""
    return {"entry": log(f"+{name}"), "exit": log(f"-{name}"), **state}


def chart_of(states: dict[str, Json] | None = None, **root: Json) -> Chart:
    return statechart.load(document_of(states, **root))


def document_of(states: dict[str, Json] | None = None, **root: Json) -> dict[str, Json]:
    """A document with id "m" and an empty log; the first state is initial unless the root says otherwise."""
    document: dict[str, Json] = {"id": "m", "context": {"log": []}}
    if states is not None:
        document["states"] = states
        if root.get("type") != "parallel":
            document["initial"] = next(iter(states))
    return document | root


def run(document: dict[str, Json], *events: str | dict[str, Json] | int) -> list[dict[str, Json]]:
    """Simulate: a text is an event's type, a number moves the clock by milliseconds."""
    return statechart.simulate(document, [as_event(event) for event in events])


def as_event(event: str | dict[str, Json] | int) -> dict[str, Json]:
    if isinstance(event, int):
        return {"advance_ms": event}
    return {"type": event} if isinstance(event, str) else event


def configurations(document: dict[str, Json], *events: str | dict[str, Json] | int) -> list[list[str]]:
    return [view["configuration"] for view in run(document, *events)]


def last(document: dict[str, Json], *events: str | dict[str, Json] | int) -> dict[str, Json]:
    return run(document, *events)[-1]


def trace(document: dict[str, Json], *events: str | dict[str, Json] | int) -> list[str]:
    """What was logged after the start."""
    views = run(document, *events)
    return views[-1]["context"]["log"][len(views[0]["context"]["log"]) :]


def begin(chart: Chart, *, input: Json = None, after: float = 0, **options: Json) -> Step:
    return statechart.start(chart, input, env(after=after), **options)


def send(
    chart: Chart, step: Step, event: str | dict[str, Json], *, obligation: str | None = None, after: float = 0
) -> Step:
    return statechart.step(chart, step.snapshot, as_event(event), env(after=after), obligation=obligation)


def kinds(step: Step) -> list[str]:
    """The types of what a step recorded."""
    return [change["type"] for change in step.changes]
