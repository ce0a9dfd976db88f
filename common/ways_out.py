"""Ways out of an incident: which are legal, pure. The API offers by it, and what refuses commands asks it, too."""

from __future__ import annotations

from typing import Literal

WayOut = Literal["retry", "skip", "restart", "cancel"]


def legal_ways(*, is_key_held: bool, is_over: bool, is_shut_out: bool, is_undoing: bool) -> list[WayOut]:
    """What can be done about an open incident, and is not refused.

    `is_key_held`: another holds the business key that its instance would go on under. `is_over`: there is nothing to go on from.
    `is_shut_out`: its instance gave its place back when it failed, and there is none now. `is_undoing`: it failed while it was undone.
    """
    if is_key_held:
        return ["cancel"]
    again: list[WayOut] = [] if is_over else ["retry", "skip"]
    ways: list[WayOut] = [*again, "restart", "cancel"]
    return [way for way in ways if not (is_shut_out and needs_place(way, is_undoing=is_undoing))]


def needs_place(way: WayOut, *, is_undoing: bool) -> bool:
    """Does this way out take a place? What is being undone goes on without one, unless it is to begin anew."""
    return way == "restart" or (way in ("retry", "skip") and not is_undoing)
