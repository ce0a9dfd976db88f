"""People and their tasks: who is meant by a name, what somebody was shown, who may decide. Pure: no I/O.

A principal is `key:NAME` or, in a signed link, `person:ADDRESS`. Definitions and people name each other with or without
that prefix, and nobody becomes another person by coming through another door: only what stands behind the prefix
counts, without regard to case.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from common.canonical import dumps

PERSON = "person:"
PREFIXES = ("key:", PERSON)
REJECTED = "human.rejected"
"""The code of the error with which a rejected task fails."""

Json = Any


@dataclass(frozen=True, slots=True)
class Person:
    """Who acts: a principal as it stands in the history, and whether it may stand in for others."""

    actor: str
    is_admin: bool = False


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why somebody may not do something with a task; kept in the history. `code` is that of the problem."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Held:
    """What of a HUMAN task decides about who may do something with it."""

    name: str
    assignee: str | None
    candidates: Sequence[str] | None


def bare(name: str) -> str:
    """A person's name without the door that it comes through."""
    for prefix in PREFIXES:
        if name.startswith(prefix):
            return name[len(prefix) :]
    return name


def is_same(one: str, other: str) -> bool:
    """Do two names mean the same person?"""
    return bare(one).casefold() == bare(other).casefold()


def spellings(name: str) -> list[str]:
    """The forms under which a person may be stored."""
    return [bare(name), *(f"{prefix}{bare(name)}" for prefix in PREFIXES)]


def may_claim(task: Held, by: Person, assignee: str) -> Refusal | None:
    """Why `by` may not let a task be `assignee`'s work, None where it may. Whoever has it already keeps it."""
    if task.assignee is not None and not is_same(task.assignee, assignee):
        message = (
            f'task "{task.name}" is the work of "{task.assignee}"; who has it, or an admin, may delegate it'
        )
        return Refusal("human.claimed", message)
    return _among_candidates(task, by, assignee)


def may_pass_on(task: Held, by: Person) -> Refusal | None:
    """Why `by` may not give a task back or to somebody else: only who has it, or an admin, may."""
    if by.is_admin or task.assignee is None or is_same(task.assignee, by.actor):
        return None
    return Refusal("human.not_assignee", f'task "{task.name}" is the work of "{task.assignee}"')


def may_assign(task: Held, by: Person, assignee: str) -> Refusal | None:
    """Why `by` may not give a task to `assignee`."""
    return may_pass_on(task, by) or _among_candidates(task, by, assignee)


def may_decide(task: Held, by: Person) -> Refusal | None:
    """Why `by` may not complete or reject a task: the work of a person is decided by that person or an admin."""
    if task.assignee is not None:
        return may_pass_on(task, by)
    return _among_candidates(task, by, by.actor)


def _among_candidates(task: Held, by: Person, chosen: str) -> Refusal | None:
    if by.is_admin or not task.candidates or any(is_same(one, chosen) for one in task.candidates):
        return None
    return Refusal("human.not_candidate", f'"{chosen}" is not among the candidates of task "{task.name}"')


def four_eyes(name: str, by: str, *, starters: Iterable[str], deciders: Iterable[str]) -> Refusal | None:
    """Why a second pair of eyes is needed: `by` started the instance, or ended another task that asks for four eyes."""
    if any(is_same(one, by) for one in starters):
        why = "started this instance"
    elif any(is_same(one, by) for one in deciders):
        why = "has decided another task of this instance that asks for four eyes"
    else:
        return None
    return Refusal("human.four_eyes", f'task "{name}" asks for four eyes, and "{by}" {why}')


def shown_hash(input: Json, options: Mapping[str, Json]) -> str:
    """SHA-256, hex, of the canonical JSON of what a person is shown: {title, description, input, form}."""
    shown = {name: options.get(name) for name in ("title", "description", "form")}
    return sha256(dumps({**shown, "input": input}).encode()).hexdigest()
