"""The two lifecycles, each written once as a table: what an instance and a task may become, and by which verb.

The `transitions` machines, the guards in SQL (`sources`), the errors for illegal verbs, the diagrams in
docs/lifecycle.md and the exhaustive test all read these tables. Pure: no I/O.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from transitions import Machine


class InstanceStatus(StrEnum):
    PENDING = "pending"  # accepted, its start not consumed yet
    RUNNING = "running"  # an open task that a runner executes, also between retries
    WAITING = "waiting"  # for an event, a timer, a person or a child
    PAUSED = "paused"  # by hand: running tasks finish, nothing new starts
    COMPENSATING = "compensating"  # undoing what was done
    COMPLETED = "completed"
    FAILED = "failed"  # frozen with an open incident
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"


class TaskStatus(StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"


_S = TypeVar("_S", InstanceStatus, TaskStatus)


@dataclass(frozen=True)
class Move(Generic[_S]):
    """`verb` takes a row from any of `sources` to `target`; a target of None leaves the status as it is."""

    verb: str
    sources: tuple[_S, ...]
    target: _S | None


_I = InstanceStatus
_T = TaskStatus

ACTIVE = (_I.PENDING, _I.RUNNING, _I.WAITING)
LIVE = (*ACTIVE, _I.PAUSED, _I.COMPENSATING)
"""Statuses that hold a business key. A failed instance is frozen but does not hold it."""
FROZEN = (_I.PAUSED, _I.FAILED)
"""Statuses in which only control commands are stepped; everything else is parked."""
FINAL = (_I.COMPLETED, _I.CANCELLED, _I.TIMED_OUT)

INSTANCE_MOVES: Sequence[Move[InstanceStatus]] = (
    Move("run", ACTIVE, _I.RUNNING),
    Move("wait", ACTIVE, _I.WAITING),
    Move("complete", ACTIVE, _I.COMPLETED),
    Move("fail", (*ACTIVE, _I.COMPENSATING), _I.FAILED),
    Move("pause", ACTIVE, _I.PAUSED),
    Move("resume", (_I.PAUSED,), _I.PENDING),
    Move("resume", (_I.PAUSED,), _I.RUNNING),
    Move("resume", (_I.PAUSED,), _I.WAITING),
    Move("retry", (_I.FAILED,), _I.PENDING),
    Move("retry", (_I.FAILED,), _I.RUNNING),
    Move("retry", (_I.FAILED,), _I.WAITING),
    Move("retry", (_I.FAILED,), _I.COMPENSATING),  # the compensation that has failed
    Move("compensate", (*ACTIVE, _I.PAUSED, _I.FAILED), _I.COMPENSATING),
    Move("cancel", (*LIVE, _I.FAILED), _I.CANCELLED),
    Move("time_out", (*LIVE, _I.FAILED), _I.TIMED_OUT),
    Move("restart", (_I.RUNNING, _I.WAITING, _I.PAUSED, _I.FAILED), _I.RUNNING),
    Move("restart", (_I.RUNNING, _I.WAITING, _I.PAUSED, _I.FAILED), _I.WAITING),
    Move("step", (_I.PAUSED,), _I.PAUSED),
    Move("step", (_I.PAUSED,), _I.COMPLETED),
    Move("step", (_I.PAUSED,), _I.FAILED),
    Move("send", (*LIVE, _I.FAILED), None),
    Move("note", tuple(_I), None),
    Move("erase", FINAL, None),
)

OPEN = (_T.PENDING, _T.RUNNING)
ENDED = (_T.SUCCEEDED, _T.FAILED, _T.CANCELLED, _T.SKIPPED)

TASK_MOVES: Sequence[Move[TaskStatus]] = (
    Move("claim", (_T.PENDING,), _T.RUNNING),
    Move("succeed", (_T.RUNNING,), _T.SUCCEEDED),
    Move("fail", (_T.RUNNING,), _T.FAILED),
    Move("release", (_T.RUNNING,), _T.PENDING),  # retry, drain, expired lease
    Move("time_out", OPEN, _T.FAILED),  # the sweep: nobody started it, or nobody ended it, in time
    Move("retry", (_T.FAILED,), _T.PENDING),
    Move("retry", (_T.FAILED,), _T.RUNNING),  # what no runner executes
    Move("cancel", OPEN, _T.CANCELLED),
    Move("skip", (_T.PENDING, _T.FAILED), _T.SKIPPED),
)


def _machine(statuses: type[_S], moves: Sequence[Move[_S]]) -> Machine:
    """Build a `transitions` machine without a model: a table that can be asked, and drawn."""
    return Machine(
        model=None,
        states=list(statuses),
        initial=next(iter(statuses)),
        auto_transitions=False,
        transitions=[
            {"trigger": move.verb, "source": list(move.sources), "dest": move.target} for move in moves
        ],
    )


INSTANCE_MACHINE = _machine(InstanceStatus, INSTANCE_MOVES)
TASK_MACHINE = _machine(TaskStatus, TASK_MOVES)


def sources(moves: Sequence[Move[_S]], verb: str) -> tuple[_S, ...]:
    """The statuses from which `verb` is legal, in table order: the guard of the statement that makes the move.

    Raises `KeyError` for a verb that the table does not have.
    """
    found = dict.fromkeys(status for move in moves if move.verb == verb for status in move.sources)
    if not found:
        raise KeyError(verb)
    return tuple(found)


def is_legal(machine: Machine, verb: str, status: InstanceStatus | TaskStatus) -> bool:
    """Ask a machine whether `verb` may be said in `status`."""
    return bool(machine.get_transitions(trigger=verb, source=status))


def instance_can(verb: str, status: InstanceStatus) -> bool:
    return is_legal(INSTANCE_MACHINE, verb, status)


def mermaid(statuses: type[InstanceStatus] | type[TaskStatus], moves: Sequence[Move[_S]]) -> str:
    """Draw a table as a Mermaid state diagram; verbs that keep the status are left out."""
    arrows: dict[tuple[str, str], list[str]] = {}
    for move in moves:
        for source in move.sources:
            if move.target is not None and move.target != source:
                arrows.setdefault((source, move.target), []).append(move.verb)
    left = {source for source, _ in arrows}
    lines = ["stateDiagram-v2", f"    [*] --> {next(iter(statuses)).value}"]
    lines += [f"    {source} --> {target}: {' / '.join(verbs)}" for (source, target), verbs in arrows.items()]
    lines += [f"    {status.value} --> [*]" for status in statuses if status.value not in left]
    return "\n".join(lines) + "\n"
