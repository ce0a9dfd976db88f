"""What a step may know about the world: the time, the configuration it names, a seed. Nothing else reaches it.

Invariant: an `Env` is plain data that goes to JSON and back without loss, so that the history entry of a step
holds everything needed to take that step again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, TypeAlias

from statechart.record import record

# A value that JSON can hold. It is `Any` on purpose: definitions, contexts and events are the JSON boundary,
# and their shapes are checked at run time (document.py at the door, expressions at evaluation).
Json: TypeAlias = Any


@record
class Env:
    """The closed environment of one step.

    `now` is aware UTC (the database's clock in production, a virtual one in `simulate`). `config` holds the values
    {module: {key: value}} that were found for what the chart names (`Chart.config_names`); the definition's own defaults
    stand behind them. `seed` feeds `uuid()` and `random()`; the caller gives each
    step of each instance another one. Raises `ValueError` for a `now` without time zone.
    """

    now: datetime
    config: Mapping[str, Json] = field(default_factory=dict)
    seed: str = ""

    def __post_init__(self) -> None:
        if self.now.tzinfo is None:
            raise ValueError(
                f"env.now: expected an aware datetime in UTC, found naive {self.now.isoformat()!r}"
            )

    def to_json(self) -> dict[str, Json]:
        """The form that stands in a history entry: `{"now", "config", "seed"}`."""
        return {"now": format_instant(self.now), "config": dict(self.config), "seed": self.seed}

    @classmethod
    def from_json(cls, value: Mapping[str, Json]) -> Env:
        """Read back what `to_json` wrote."""
        return cls(
            now=parse_instant(value["now"]), config=value.get("config") or {}, seed=value.get("seed") or ""
        )


def format_instant(instant: datetime) -> str:
    """RFC 3339 in UTC with six digits of fraction and `Z`: texts of instants sort as the instants do."""
    return _format_utc(instant if instant.tzinfo is UTC else instant.astimezone(UTC))


# In UTC alone: in a zone, the two readings of an hour that comes twice are equal, and would share one text.
@lru_cache(256)  # one instant is written several times in a step: in its env, its history, its digest
def _format_utc(instant: datetime) -> str:
    return instant.isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def parse_instant(text: str) -> datetime:
    """An RFC 3339 instant as aware UTC; raises `ValueError` where there is no offset or it is no instant."""
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"expected an instant such as 2026-03-01T09:00:00Z, found {text!r:.80}") from None
    if instant.tzinfo is None:
        raise ValueError(f"expected an instant with an offset such as 2026-03-01T09:00:00Z, found {text!r}")
    try:
        return instant.astimezone(UTC)
    except OverflowError:  # the first and the last day of the calendar, moved beyond it
        raise ValueError(f"expected an instant of the years 1 to 9999 in UTC, found {text!r}") from None


def read_instant(value: Json) -> datetime:
    """The same of any value; only a text can be one."""
    if not isinstance(value, str):
        raise ValueError(f"expected an instant such as 2026-03-01T09:00:00Z, found {value!r:.80}")
    return parse_instant(value)


def after(now: datetime, milliseconds: int) -> datetime:
    """`now` plus a number of milliseconds."""
    return now + timedelta(milliseconds=milliseconds)


def end_of_wait(since: datetime, milliseconds: int) -> datetime:
    """The same, at the end of the calendar at the latest: many write "never" as 9999-12-31, and a wait that counts
    from there never ends."""
    try:
        return after(since, milliseconds)
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC)
