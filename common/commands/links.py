"""Making links, looking at them and following them: one decision or one event, once, by a person without a key.

Following notes the link as used in the transaction of what it does. Who comes second waits for the first and finds it used;
what is refused, or fails, leaves it as good as before. A second use is kept in the history, once for each link, so that
whoever holds an old link cannot fill a history with it.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from hashlib import sha256
from typing import Any

from sqlalchemy import Connection

from common.canonical import clean, read
from common.clock import instant_text
from common.commands.people import check_link, complete_task, record, record_refusal, reject_task
from common.commands.send import event_text, require_legal, send_event
from common.config import Limits
from common.db.now import read_now
from common.errors import Invalid
from common.ids import InstanceId, TaskId, TenantId, is_id
from common.lifecycle import TaskStatus, instance_can
from common.links import Link, person_name
from common.people import Person, Refusal
from common.store import people, used_links
from common.store.accepting import read_standing
from common.store.people import HumanTask
from statechart.durations import parse_duration

LIFETIME = timedelta(days=7)
LONGEST = timedelta(days=365)


# -- making -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Made:
    """A link that is to be signed; what would refuse its person, where something would."""

    link: Link
    refusal: Refusal | None = None


def make_task_link(
    tx: Connection,
    tenant_id: TenantId,
    task_id: str,
    *,
    by: str,
    person: str,
    reject: str | None = None,
    output: Any = None,
    expires_in: str | int | None = None,
    limits: Limits,
) -> Made:
    """A link by which `person` completes a HUMAN task with `output`, or rejects it with the reason `reject`.

    Raises as completing it would, and `Invalid` (`link.invalid`). That it was made, and by whom, is kept in the history.
    """
    name = person_name(person)
    expires_at = _expiry(tx, expires_in)
    task, refusal = check_link(
        tx, tenant_id, task_id, by=Person(f"person:{name}"), reason=reject, output=output, limits=limits
    )
    verb, value = ("complete", clean(output)) if reject is None else ("reject", str(clean(reject)))
    link = Link(
        tenant_id, task.instance_id, name, "complete" if verb == "complete" else "reject", value,
        secrets.token_hex(16), expires_at, task.id,
    )  # fmt: skip
    if refusal is None:
        _record_made(tx, link, by, {"taskId": task.id, "name": task.name})
    return Made(link, refusal)


def make_event_link(
    tx: Connection,
    tenant_id: TenantId,
    instance_id: str,
    *,
    by: str,
    person: str,
    event: Any,
    expires_in: str | int | None = None,
    limits: Limits,
) -> Made:
    """A link by which `person` sends an event. Raises as sending it would, and `Invalid` (`link.invalid`)."""
    name = person_name(person)
    expires_at = _expiry(tx, expires_in)
    value = read(event_text(event, limits=limits))
    require_legal(tx, tenant_id, instance_id, "send")
    link = Link(tenant_id, InstanceId(instance_id), name, "send", value, secrets.token_hex(16), expires_at)
    _record_made(tx, link, by, {"eventType": value["type"]})
    return Made(link)


def _record_made(tx: Connection, link: Link, by: str, about: dict[str, Any]) -> None:
    entry = {
        "type": "link.made",
        "person": link.actor,
        "verb": link.verb,
        "expiresAt": instant_text(link.expires_at),
        "link": link.digest.hex(),
        **about,
    }
    record(tx, link.tenant_id, link.instance_id, by, entry)


def _expiry(tx: Connection, expires_in: str | int | None) -> datetime:
    return read_now(tx).replace(microsecond=0) + lifetime(expires_in)


def lifetime(expires_in: Any) -> timedelta:
    """For how long a link is good, from a duration as definitions write it. Raises `Invalid` (`link.invalid`)."""
    if expires_in is None:
        return LIFETIME
    try:
        milliseconds = parse_duration(expires_in)
    except ValueError as error:
        raise Invalid(f"expiresIn: {error}", code="link.invalid") from error
    found = timedelta(milliseconds=milliseconds)
    if not timedelta(seconds=1) <= found <= LONGEST:
        raise Invalid(
            f"expiresIn: expected 1 s to {LONGEST.days} days, found {expires_in!r}", code="link.invalid"
        )
    return found


# -- looking ------------------------------------------------------------------------------------------------------


class LinkState(StrEnum):
    """What can be done with a link."""

    OPEN = "open"
    DONE = "done"
    USED = "used"
    EXPIRED = "expired"
    FINISHED = "finished"  # what it was for is over, by other hands or not at all
    REFUSED = "refused"  # its person may not do it


@dataclass(frozen=True, slots=True)
class Seen:
    """A link as its person sees it. `task` is what it decides, where it is about one that is there."""

    link: Link
    state: LinkState
    task: HumanTask | None = None
    refusal: Refusal | None = None


def look_at_link(tx: Connection, link: Link) -> Seen:
    """Say what a link would do now. Does nothing."""
    task = _task(tx, link)
    if used_links.used_at(tx, link.tenant_id, link.digest) is not None:
        return Seen(link, LinkState.USED, task)
    if read_now(tx) >= link.expires_at:
        return Seen(link, LinkState.EXPIRED, task)
    return Seen(link, LinkState.OPEN if _is_open(tx, link, task) else LinkState.FINISHED, task)


def _task(tx: Connection, link: Link) -> HumanTask | None:
    task_id = _task_id(tx, link)
    found = people.find(tx, link.tenant_id, task_id) if task_id is not None else None
    return found if found is not None and found.instance_id == link.instance_id else None


def _task_id(tx: Connection, link: Link) -> TaskId | None:
    """The task that a link names by its id, or by the name of an open one."""
    if link.task is None or is_id(link.task):
        return None if link.task is None else TaskId(link.task)
    return people.find_open(tx, link.tenant_id, link.instance_id, link.task)


def _is_open(tx: Connection, link: Link, task: HumanTask | None) -> bool:
    if link.verb != "send":
        return task is not None and task.status is TaskStatus.RUNNING and not task.gated
    found = read_standing(tx, link.tenant_id, link.instance_id)
    return found is not None and instance_can("send", found[0])


# -- following ----------------------------------------------------------------------------------------------------


def follow_link(tx: Connection, link: Link, *, limits: Limits) -> Seen:
    """Do what a link says, once. What comes back commits; what is raised must not.

    Raises `Conflict` where the task has ended or the instance has finished, and `Invalid` where its form does not take the
    output any more.
    """
    now = read_now(tx)
    task = _task(tx, link)
    if read_standing(tx, link.tenant_id, link.instance_id) is None:
        return Seen(link, LinkState.FINISHED)
    used = used_links.used_at(tx, link.tenant_id, link.digest) is not None
    if not used and now >= link.expires_at:
        return Seen(link, LinkState.EXPIRED, task)
    if used or not _note(tx, link, link.digest, now):
        _record_second_use(tx, link, task, now)
        return Seen(link, LinkState.USED, task)
    refusal = _act(tx, link, task, limits)
    if refusal is not None:
        used_links.forget(tx, link.tenant_id, link.digest)
    state = LinkState.DONE if refusal is None else LinkState.REFUSED
    if link.verb != "send" and task is None:
        used_links.forget(tx, link.tenant_id, link.digest)
        state = LinkState.FINISHED
    return Seen(link, state, task, refusal)


def _act(tx: Connection, link: Link, task: HumanTask | None, limits: Limits) -> Refusal | None:
    by = Person(link.actor)
    if link.verb == "send":
        send_event(tx, link.tenant_id, link.instance_id, link.value, actor=link.actor, limits=limits)
    elif task is not None and link.verb == "complete":
        return complete_task(tx, link.tenant_id, task.id, by=by, output=link.value, limits=limits)
    elif task is not None:
        return reject_task(tx, link.tenant_id, task.id, by=by, reason=link.value, limits=limits)
    return None


def _note(tx: Connection, link: Link, digest: bytes, now: datetime) -> bool:
    return used_links.use(
        tx, link.tenant_id, digest, instance_id=link.instance_id, person=link.actor, now=now
    )


def _record_second_use(tx: Connection, link: Link, task: HumanTask | None, now: datetime) -> None:
    if not _note(tx, link, sha256(b"again:" + link.digest).digest(), now):
        return
    if task is not None:
        record_refusal(tx, task, link.actor, "link.used", link=link.digest.hex())
    else:
        entry = {"type": "human.refused", "person": link.actor, "why": "link.used", "link": link.digest.hex()}
        record(tx, link.tenant_id, link.instance_id, link.actor, entry)
