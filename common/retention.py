"""How long finished instances are kept: what a definition says of its own, else what the settings say. Pure.

A definition's `retention` is `{"completed": "30d", "cancelled": …, "timedOut": …, "default": …}`, each a duration or
"forever"; it is stored beside its document as milliseconds by status, null for ever. A failed instance has not finished:
nobody deletes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from common.canonical import dumps, read
from common.config import Settings
from common.lifecycle import InstanceStatus
from statechart.document import FOREVER
from statechart.durations import parse_duration

MEMBERS: Mapping[InstanceStatus, str] = {
    InstanceStatus.COMPLETED: "completed",
    InstanceStatus.CANCELLED: "cancelled",
    InstanceStatus.TIMED_OUT: "timedOut",
}
"""Final statuses by their member in a definition."""


@dataclass(frozen=True, slots=True)
class Keeping:
    """What holds where a definition says nothing; None: for ever."""

    completed: timedelta | None = None
    cancelled: timedelta | None = None
    timed_out: timedelta | None = None

    @classmethod
    def of(cls, settings: Settings) -> Keeping:
        return cls(
            _days(settings.retention_days_completed),
            _days(settings.retention_days_cancelled),
            _days(settings.retention_days_timed_out),
        )

    @property
    def is_for_ever(self) -> bool:
        return self == Keeping()

    def by_status(self) -> dict[InstanceStatus, timedelta | None]:
        return {
            InstanceStatus.COMPLETED: self.completed,
            InstanceStatus.CANCELLED: self.cancelled,
            InstanceStatus.TIMED_OUT: self.timed_out,
        }


def _days(number: float | None) -> timedelta | None:
    return None if number is None else timedelta(days=number)


def retention_text(document: Mapping[str, Any]) -> str | None:
    """What is stored of a checked document's `retention`; None where it has none."""
    written = document.get("retention")
    if not written:
        return None
    found = {member: written.get(member, written.get("default")) for member in MEMBERS.values()}
    return dumps(
        {
            member: None if value == FOREVER else parse_duration(value)
            for member, value in found.items()
            if value is not None
        }
    )


def kept_for(stored: str | None, otherwise: Keeping) -> dict[InstanceStatus, timedelta]:
    """How long instances of a definition are kept, by final status; those that are kept for ever are left out."""
    own = read(stored) if stored is not None else {}
    found: dict[InstanceStatus, timedelta] = {}
    for status, member in MEMBERS.items():
        if member in own:
            kept = None if own[member] is None else timedelta(milliseconds=own[member])
        else:
            kept = otherwise.by_status()[status]
        if kept is not None:
            found[status] = kept
    return found
