"""`${link.NAME}` in a task's input: the address of a signed link, made where the task runs (`common.links`).

The link's nonce is made of the task and the link's name, and its expiry counts from when the task was made: a second
attempt at an e-mail holds the very same link, and whoever uses one of them has used it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection

from common.canonical import read
from common.errors import Invalid, Misconfigured
from common.ids import made_at
from common.links import Link, Links, Verb, person_name
from common.store.claims import TaskClaim
from statechart.durations import parse_duration
from task_runner.registry import HandlerError, Permanent
from task_runner.resolve import Look

LIFETIME = timedelta(days=7)
"""Of a link that names no `expiresIn`."""

Json = Any


class TaskLinks:
    """The links of tasks. `links` signs them, asked when the first one is needed."""

    def __init__(self, links: Callable[[], Links]) -> None:
        self._links = links

    def prepare(self, _tx: Connection, _asked: Sequence[tuple[TaskClaim, str]]) -> Look:
        """Nothing is read: a link says everything itself."""
        return self._url

    def _url(self, claim: TaskClaim, name: str) -> str:
        written = (read(claim.options) if claim.options else {}).get("links")
        wanted = written.get(name) if isinstance(written, Mapping) else None
        if not isinstance(wanted, Mapping):
            raise Permanent(f'the task has no link "{name}"', code="link.unknown", data={"link": name})
        try:
            return self._links().url(_link(claim, name, wanted))
        except Misconfigured as error:  # this process's lack, not the work's: another runner may have it
            raise HandlerError(
                f'this task runner cannot sign link "{name}": {error}', code="link.no_key"
            ) from None
        except (Invalid, ValueError) as error:
            code = error.code if isinstance(error, Invalid) else "link.invalid"
            raise Permanent(f'link "{name}": {error}', code=code, data={"link": name}) from None


def _link(claim: TaskClaim, name: str, wanted: Mapping[str, Json]) -> Link:
    """Raises `Invalid` and `ValueError` for what cannot be a link."""
    verb, value = _action(wanted)
    lifetime = wanted.get("expiresIn")
    allowed = LIFETIME if lifetime is None else timedelta(milliseconds=parse_duration(lifetime))
    task = wanted.get("task")
    return Link(
        claim.tenant_id,
        claim.instance_id,
        person_name(_person(claim, wanted)),
        verb,
        value,
        f"{claim.id}/{name}",
        made_at(claim.id).replace(microsecond=0) + allowed,
        None if verb == "send" else str(task),
    )


def _action(wanted: Mapping[str, Json]) -> tuple[Verb, Json]:
    event = wanted.get("event")
    if event is not None:
        named = {"type": event} if isinstance(event, str) else event
        if not isinstance(named, Mapping) or not isinstance(named.get("type"), str):
            raise ValueError(f"expected an event with a type, found {event!r:.80}")
        return "send", dict(named)
    if not isinstance(wanted.get("task"), str) or not wanted["task"]:
        raise ValueError(f"expected the name of a HUMAN task, found {wanted.get('task')!r:.80}")
    if "reject" in wanted:
        return "reject", str(wanted["reject"])
    return "complete", wanted.get("output")


def _person(claim: TaskClaim, wanted: Mapping[str, Json]) -> str:
    """Who the link is for: as it says, else the one address that an e-mail goes to."""
    person = wanted.get("person")
    given = read(claim.input) if person is None else None
    if isinstance(given, Mapping):
        person = given.get("to")
    if not isinstance(person, str) or not person:
        raise ValueError("expected a person, the address of whom it is for")
    return person
