"""Simulating on behalf of a caller: the kernel's simulation under bounds, its failures as our errors.

One step is bounded by the kernel; here their number, their time together and the size of the answer are.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import orjson

from common.canonical import clean, dumps, is_deeper
from common.commands.definitions import document_text, require_definition_size
from common.commands.send import require_size
from common.config import Limits
from common.errors import Invalid, LimitExceeded
from statechart import DefinitionInvalid, StepFailed, load
from statechart.draft import MAX_DEPTH
from statechart.simulate import Simulation

LONGEST_SECONDS = 2
MOST_BYTES = 8_000_000


def simulate_within(
    document: Any,
    events: Sequence[Any],
    *,
    config: Mapping[str, Mapping[str, Any]] | None = None,
    input: Any = None,
    limits: Limits,
) -> list[orjson.Fragment]:
    """The initial snapshot and the one after each event, as JSON.

    Raises `Invalid` (`definition.invalid`, `event.invalid`) and `LimitExceeded` for too many events, too much time and
    too large an answer.
    """
    if len(events) > limits.max_batch:
        _refuse(
            "max_batch", limits.max_batch, f"takes at most {limits.max_batch} events, found {len(events)}"
        )
    require_definition_size(document_text(document), limits)
    for event in events:
        require_size(dumps(event), "an event is", limits)
    given = clean(input, max_depth=limits.max_json_depth)
    require_size(dumps(given), "the input is", limits)
    try:
        return _run(Simulation(load(document), config, given), events)
    except DefinitionInvalid as error:
        problems = [problem.to_json() for problem in error.problems]
        raise Invalid(str(error), code="definition.invalid", problems=problems) from error
    except StepFailed as error:
        raise Invalid(error.message, code="event.invalid") from error
    except RecursionError:  # of who renders within a step what no step could have left
        _refuse_depth()


def _run(simulation: Simulation, events: Sequence[Any]) -> list[orjson.Fragment]:
    deadline = time.monotonic() + LONGEST_SECONDS
    texts = [_written(simulation.view())]
    total = len(texts[0])
    for event in events:
        if time.monotonic() > deadline:
            _refuse("max_simulation_seconds", LONGEST_SECONDS, f"may take {LONGEST_SECONDS} s")
        texts.append(_written(simulation.take(event)))
        total += len(texts[-1])
        if total > MOST_BYTES:
            _refuse("max_simulation_bytes", MOST_BYTES, f"may answer with {MOST_BYTES} bytes")
    return [orjson.Fragment(text) for text in texts]


def _written(view: dict[str, Any]) -> bytes:
    try:
        text = orjson.dumps(view)
    except TypeError:  # too deep to be written at all
        _refuse_depth()
    if is_deeper(view, text.decode(), MAX_DEPTH):
        _refuse_depth()
    return text


def _refuse_depth() -> NoReturn:
    """What an instance could not store of its context is not shown either."""
    _refuse("max_snapshot_depth", MAX_DEPTH, f"may nest a context {MAX_DEPTH} levels deep")


def _refuse(limit: str, allowed: int, what: str) -> NoReturn:
    raise LimitExceeded(f"a simulation {what}", limit=limit, allowed=allowed)
