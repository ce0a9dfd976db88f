"""Names of events that come from outside: people, programs and models. The engine's own are nobody else's to send."""

from __future__ import annotations

from statechart.people import EVENTS as PEOPLE_EVENTS

RESERVED = ("xstate.", "error.", "done.", *PEOPLE_EVENTS)
"""How the engine's own event types begin: who could send them could say that a task is done, or overdue."""
MAX_TYPE = 200


def is_well_formed(name: str) -> bool:
    """Tell whether a text can be an event's type: of a length, without wildcards and outer spaces."""
    return 0 < len(name) <= MAX_TYPE and name == name.strip() and "*" not in name


def is_reserved(name: str) -> bool:
    """Tell whether only the engine may send events of this type."""
    return name.startswith(RESERVED)
