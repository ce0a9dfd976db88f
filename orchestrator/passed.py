"""What one pass of the orchestrator did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import field
from itertools import chain

from common.ids import InstanceId, LeaseToken, TaskId
from common.store.places import Place
from orchestrator.opened import Opened
from statechart.record import record

Claim = tuple[TaskId, LeaseToken]


@record
class Pass:
    """What one pass did.

    `more`: a sweep must go on, or begin anew; `left` were locked, but the time was over.
    `changed` may have come to rest: a runner's task is under way for those of the others that were stepped.
    `answered`: the tasks' claims whose ends were written with the steps that their answers were for.
    `starts_items`: children of MAPs may have their turn now (`map_children.start_items`).
    `rest`: a flood waits so many seconds for others (`common.courtesy`); nobody will ring for it.
    `due_in`: after how many seconds the first of the timers fires that it armed.
    `opened`: incidents, to be logged once they are committed.
    `asking` and `vacated`: who waits for a place since now, and the places that were given back; `has_published`: events that triggers answer.
    `is_behind`: it is being saved by somebody else (`behind.py`), who will tell the rest.
    """

    steps: int = 0
    instances: int = 0
    tasks: int = 0
    more: bool = False
    changed: tuple[InstanceId, ...] = ()
    left: tuple[InstanceId, ...] = ()
    answered: frozenset[Claim] = frozenset()
    starts_items: bool = False
    rest: float = 0.0
    due_in: float | None = None
    opened: tuple[Opened, ...] = ()
    asking: Mapping[Place, set[InstanceId]] = field(default_factory=dict)
    vacated: Set[Place] = frozenset()
    has_published: bool = False
    is_behind: bool = False


NOTHING = Pass()


def in_all(done: Sequence[Pass]) -> Pass:
    """What several transactions of one pass did, each of whose commits was noted."""
    return Pass(
        steps=sum(one.steps for one in done),
        instances=sum(one.instances for one in done),
        tasks=sum(one.tasks for one in done),
        changed=tuple(chain.from_iterable(one.changed for one in done)),
        left=tuple(chain.from_iterable(one.left for one in done)),
        answered=frozenset(chain.from_iterable(one.answered for one in done)),
        starts_items=any(one.starts_items for one in done),
        due_in=min((one.due_in for one in done if one.due_in is not None), default=None),
    )
