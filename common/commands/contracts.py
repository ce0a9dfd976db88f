"""What a definition says of the data that comes to its instances: JSON Schemas of its `input` and of its `events`.

`input` is a schema of what an instance is started with; `events` has a schema for each event type that is written there, of
the whole event; other types are free. Both are checked at the door, and asked of every start and every event that is sent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection

from common.canonical import dumps, read
from common.errors import Invalid
from common.kept import Shared
from common.schemas import Schema, compile_schema, schema_problem
from common.store import definitions
from statechart import DefinitionInvalid, load
from statechart.concurrency import Concurrency
from statechart.expected import found
from statechart.problems import Problem

KEPT = 1_024
KEPT_CHARACTERS = 8_000_000
"""Of their schemas together: compiled, these take up to thirty times as many bytes."""
MAX_EVENTS = 500

Json = Any


@dataclass(frozen=True, slots=True)
class Contract:
    """The compiled schemas of a definition, and how many of its instances run at once; None and nothing where it has none."""

    input: Schema | None = None
    events: Mapping[str, Schema] = field(default_factory=dict)
    concurrency: Concurrency | None = None
    characters: int = 0
    """Of its schemas, by which it is kept."""

    def check_input(self, value: Json) -> None:
        """Raise `Invalid` (`input.invalid`) with problems by path for an input that is not as the definition says."""
        _check(self.input, value, "input.invalid", "input")

    def check_event(self, event: Mapping[str, Json]) -> None:
        """Raise `Invalid` (`event.invalid`) with problems by path for an event that is not as the definition says."""
        _check(self.events.get(event["type"]), event, "event.invalid", f'event "{event["type"]}"')


NOTHING_SAID = Contract()


def contract_of(document: Mapping[str, Json]) -> Contract:
    """The contract of a document. A schema that is none says nothing: it was accepted when there was no such check."""
    written, events = document.get("input"), document.get("events")
    compiled = {
        name: schema
        for name, part in (events.items() if isinstance(events, Mapping) else ())
        if (schema := _compiled(part)) is not None
    }
    own = None if written is None else _compiled(written)
    places = _concurrency(document)
    is_silent = own is None and not compiled and places is None
    characters = len(dumps([written, events])) if own is not None or compiled else 0
    return NOTHING_SAID if is_silent else Contract(own, compiled, places, characters)


def _concurrency(document: Mapping[str, Json]) -> Concurrency | None:
    """The chart is compiled only where it has a say; one that does not compile is its step's to tell."""
    if document.get("concurrency") is None:
        return None
    try:
        return load(document).concurrency
    except DefinitionInvalid:
        return None


def schema_problems(document: Mapping[str, Json]) -> Iterator[Problem]:
    """What can be said against the schemas of a document."""
    written, events = document.get("input"), document.get("events")
    if written is not None:
        yield from _problems(written, "input")
    if events is None:
        return
    if not isinstance(events, Mapping):
        message = f"expected an object of event types and their schemas, found {found(events)}"
        yield Problem("error", "schema.invalid", "events", message)
        return
    if len(events) > MAX_EVENTS:
        yield Problem(
            "error",
            "schema.invalid",
            "events",
            f"expected at most {MAX_EVENTS} event types, found {len(events)}",
        )
        return
    for name, part in events.items():
        yield from _problems(part, f"events.{name}")


def _problems(schema: Json, at: str) -> Iterator[Problem]:
    try:
        compile_schema(schema)
    except Invalid as error:
        yield schema_problem(error, "schema.invalid", at)


def _compiled(schema: Json) -> Schema | None:
    try:
        return compile_schema(schema)
    except Invalid:
        return None


def _check(schema: Schema | None, value: Json, code: str, what: str) -> None:
    problems = [] if schema is None else schema.problems(value)
    if problems:
        first = problems[0]
        where = f"{first['path']}: " if first["path"] else ""
        more = f"; and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise Invalid(
            f"{what}: {where}{first['message']}{more}",
            code=code,
            problems=[
                {"severity": "error", "code": code, "suggestion": None, **problem} for problem in problems
            ],
        )


class Contracts:
    """The contracts of the definitions asked for last; those that say the same share one.

    Definitions are immutable by id, so nothing here is ever stale.
    """

    def __init__(self) -> None:
        self._kept: Shared[Contract] = Shared(most=KEPT, characters=KEPT_CHARACTERS)

    def known(self, definition_id: str) -> Contract | None:
        """The contract of a stored definition, where it has been read before and is still kept."""
        return self._kept.find(definition_id)

    def of(self, tx: Connection, definition_id: str) -> Contract:
        """The contract of a stored definition, read once."""
        found = self.known(definition_id)
        if found is not None:
            return found
        text = definitions.read_document(tx, definition_id)
        return NOTHING_SAID if text is None else self._kept.keep(definition_id, text, _read)


def _read(text: str) -> tuple[Contract, int]:
    contract = contract_of(read(text))
    return contract, contract.characters


CONTRACTS = Contracts()
"""Those of this process."""
