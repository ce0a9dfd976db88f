"""Named fault points: places where a test stops or kills this process; in production they do nothing.

`SIGNALBOX_FAULTS="before_commit=kill@3,after_claim=raise"` arms them: at the third pass of `before_commit` the process
sends itself SIGKILL, and the first pass of `after_claim` raises. `in_step:order-7=kill` counts only the passes about the
subject `order-7` (in a step: the instance's business key), so that one instance can be made deadly and no other.
A test in process calls `arm` instead. Points are listed in `POINTS`, so that a misspelt one is refused.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

POINTS = frozenset(
    {
        "after_lock",  # orchestrator: instances locked, inbox not yet read
        "in_step",  # orchestrator: while an instance is being stepped
        "before_items_commit",  # orchestrator: children of a MAP written, not committed
        "before_commit",  # orchestrator: a batch written, not committed
        "before_admission_commit",  # orchestrator: places given, not committed
        "before_schedule_commit",  # orchestrator: due schedules moved and their runs started, not committed
        "after_commit_before_ring",  # any process: committed, nobody told
        "after_claim",  # task-runner: tasks leased, handlers not called
        "after_handler",  # task-runner: a handler returned, nothing stored
        "before_report",  # task-runner: ended tasks taken for a commit, nothing written
        "before_outcome_commit",  # task-runner: outcomes written, not committed
        "after_outcome_commit",  # task-runner: outcomes committed, nobody told
        "after_accept_commit",  # api: a start or an event accepted, answer not sent
    }
)


class FaultInjected(BaseException):
    """Raised at an armed point; a BaseException, so that no `except Exception` hides it."""


_armed: dict[tuple[str, str | None], Callable[[], None]] = {}


def hit(point: str, subject: str | None = None) -> None:
    """Pass a fault point, on behalf of `subject` where it has one. Costs one look when nothing is armed."""
    if _armed:
        for armed in {(point, None), (point, subject)}:
            action = _armed.get(armed)
            if action is not None:
                action()


def arm(point: str, action: Callable[[], None], *, subject: str | None = None) -> None:
    """Call `action` at each pass of `point`, or only at those about `subject`, until `disarm`.

    Raises `ValueError` for an unknown point.
    """
    if point not in POINTS:
        raise ValueError(f'unknown fault point "{point}"; known: {", ".join(sorted(POINTS))}')
    _armed[point, subject] = action


def disarm() -> None:
    """Disarm every point."""
    _armed.clear()


def arm_from_environment(text: str | None) -> None:
    """Arm what `SIGNALBOX_FAULTS` says: comma-separated `point[:subject]=kill|raise|stop[@pass]`.

    Raises `ValueError` for an unknown point or verb.
    """
    for part in filter(None, (text or "").split(",")):
        where, _, what = part.strip().partition("=")
        point, _, subject = where.partition(":")
        verb, _, count = what.partition("@")
        if verb not in _VERBS:
            raise ValueError(f'fault point "{where}": expected {" | ".join(_VERBS)}, found "{verb}"')
        arm(point, _at_pass(int(count or 1), _VERBS[verb]), subject=subject or None)


def _at_pass(number: int, action: Callable[[], None]) -> Callable[[], None]:
    passed = 0

    def count() -> None:
        nonlocal passed
        passed += 1
        if passed == number:
            action()

    return count


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _stop() -> None:
    # To this thread, which then stops the process before it takes another step. Sent to the process, the main thread
    # may be the one to receive it, and this one gets as far as the commit meanwhile.
    signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)


def _raise() -> None:
    raise FaultInjected


_VERBS: dict[str, Callable[[], None]] = {"kill": _kill, "raise": _raise, "stop": _stop}
