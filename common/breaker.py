"""Circuit breakers: whether a type of task may call a target, as its last calls went. Pure: no I/O, no clock.

A breaker is `closed` while its target does well. It opens when too many calls fail, in a row or of those in a window of time;
then nobody calls for the cool-down, and after it one task tries (`half_open`) for all that wait. What it answers closes
the breaker or opens it again. A forced breaker keeps the state that an operator gave it until it is reset.

Successes are counted only while failures are: a target that does well costs no write.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from urllib.parse import urlsplit

from common.ids import LeaseToken, TaskId, TenantId
from common.task_error import TaskError

MAX_TARGET = 255
"""Characters of a target."""
MAX_ERROR = 300
"""Characters that are kept of the last error."""
_FORBIDDEN = re.compile(r"[\s\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class BreakerState(StrEnum):
    """Of a circuit breaker."""

    CLOSED = "closed"  # calls go through and are counted
    OPEN = "open"  # none goes through until `retry_at`
    HALF_OPEN = "half_open"  # one tries, the others wait for how it ends


CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN


class Verdict(StrEnum):
    """What the end of an attempt says of the target that it called."""

    WELL = "well"
    BADLY = "badly"


@dataclass(frozen=True, slots=True)
class BreakerKey:
    """Which breaker: of a tenant, a type of task (the handler's name) and the target that it calls."""

    tenant_id: TenantId
    type: str
    target: str

    @property
    def text(self) -> str:
        """As it stands with the tasks that wait, and is told to people. A type has no space in it."""
        return f"{self.type} {self.target}"


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """When a breaker opens, and for how long.

    After `failures` in a row; or when the share `rate` of the calls within `window` failed, once these are `calls`.
    """

    failures: int = 5
    rate: float = 0.5
    calls: int = 10
    window: timedelta = timedelta(seconds=60)
    cool_down: timedelta = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class Guarded:
    """A call that a breaker watches. `is_probe`: it was let through to try for all that wait."""

    key: BreakerKey
    policy: BreakerPolicy
    is_probe: bool = False


@dataclass(frozen=True, slots=True)
class Breaker:
    """A breaker as it stands. `retry_at`: when one may try; None of one that an operator opened.

    The probe is the attempt at `probe_task_id` under `probe_token`: it tries for as long as that task runs under that token.
    """

    counted_from: datetime
    state: BreakerState = CLOSED
    forced: bool = False
    successes: int = 0
    failures: int = 0
    in_a_row: int = 0
    opened_at: datetime | None = None
    retry_at: datetime | None = None
    probe_task_id: TaskId | None = None
    probe_token: LeaseToken | None = None
    last_error: str | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """How one attempt ended that a breaker watches. `verdict` None: it says nothing of the target."""

    guarded: Guarded
    task_id: TaskId
    token: LeaseToken
    verdict: Verdict | None
    error: str | None = None


class Admission(StrEnum):
    """What becomes of a task that was claimed."""

    CALL = "call"
    PROBE = "probe"
    WAIT = "wait"


def admits(breaker: Breaker, *, is_probed: bool, now: datetime) -> Admission:
    """Whether a claimed task may call. `is_probed`: the probe that the breaker names still runs."""
    match breaker.state:
        case BreakerState.CLOSED:
            return Admission.CALL
        case BreakerState.OPEN:
            is_over = not breaker.forced and breaker.retry_at is not None and breaker.retry_at <= now
            return Admission.PROBE if is_over else Admission.WAIT
        case BreakerState.HALF_OPEN:
            return Admission.WAIT if is_probed else Admission.PROBE


def probed(breaker: Breaker, task_id: TaskId, token: LeaseToken) -> Breaker:
    """The breaker while this attempt tries."""
    return replace(breaker, state=HALF_OPEN, probe_task_id=task_id, probe_token=token)


def counted(breaker: Breaker, call: Call, *, now: datetime) -> Breaker:
    """The breaker after a call ended; the very same where that says nothing new.

    While it is not closed, only the probe counts: calls that were under way when it opened change nothing.
    """
    match breaker.state:
        case BreakerState.HALF_OPEN if _is_probe(breaker, call):
            return _after_probe(breaker, call, now)
        case BreakerState.CLOSED if call.verdict is Verdict.BADLY:
            return _after_failure(breaker, call, now)
        case BreakerState.CLOSED if call.verdict is Verdict.WELL:
            return _after_success(breaker, call.guarded.policy, now)
    return breaker


def _is_probe(breaker: Breaker, call: Call) -> bool:
    return (breaker.probe_task_id, breaker.probe_token) == (call.task_id, call.token)


def _after_probe(breaker: Breaker, call: Call, now: datetime) -> Breaker:
    match call.verdict:
        case Verdict.WELL:
            return closed(breaker, now=now)
        case Verdict.BADLY:
            return replace(
                breaker,
                state=OPEN,
                in_a_row=breaker.in_a_row + 1,
                failures=breaker.failures + 1,
                retry_at=now + call.guarded.policy.cool_down,
                probe_task_id=None,
                probe_token=None,
                last_error=call.error,
            )
        case None:  # it never came to the call: let another one try
            return replace(breaker, probe_task_id=None, probe_token=None)


def _after_failure(breaker: Breaker, call: Call, now: datetime) -> Breaker:
    policy = call.guarded.policy
    if breaker.failures == 0 or now >= breaker.counted_from + policy.window:
        breaker = replace(breaker, counted_from=now, failures=0, successes=0)
    breaker = replace(
        breaker, failures=breaker.failures + 1, in_a_row=breaker.in_a_row + 1, last_error=call.error
    )
    if breaker.forced or not _is_too_much(breaker, policy):
        return breaker
    return replace(breaker, state=OPEN, opened_at=now, retry_at=now + policy.cool_down)


def _is_too_much(breaker: Breaker, policy: BreakerPolicy) -> bool:
    calls = breaker.failures + breaker.successes
    too_often = calls >= policy.calls and breaker.failures >= policy.rate * calls
    return breaker.in_a_row >= policy.failures or too_often


def _after_success(breaker: Breaker, policy: BreakerPolicy, now: datetime) -> Breaker:
    if breaker.failures == 0 and breaker.in_a_row == 0:
        return breaker
    if now >= breaker.counted_from + policy.window:
        return replace(breaker, counted_from=now, failures=0, successes=0, in_a_row=0)
    return replace(breaker, successes=breaker.successes + 1, in_a_row=0)


def closed(breaker: Breaker, *, now: datetime, forced: bool = False) -> Breaker:
    """A breaker that lets calls through and counts from now on. The last error stays, for people."""
    return Breaker(counted_from=now, forced=forced, last_error=breaker.last_error)


def opened(breaker: Breaker, *, now: datetime) -> Breaker:
    """A breaker that an operator opened: nobody calls, and nobody tries, until it is closed or reset."""
    since = breaker.opened_at if breaker.state is not CLOSED else now
    return replace(
        breaker,
        state=OPEN,
        forced=True,
        opened_at=since,
        retry_at=None,
        probe_task_id=None,
        probe_token=None,
    )


# -- what an attempt says ---------------------------------------------------------------------------------------

_STATUS = re.compile(r"(?:http|ai)\.([1-5][0-9]{2})")
_ITS_FAULT = frozenset({408, 429})
_ANSWERED = frozenset(
    {"http.too_large", "http.headers_too_large", "http.redirects", "ai.too_large", "email.refused", "email.deferred"}
)  # fmt: skip
"""Codes that are no success of the task, but an answer of the target."""
_OF_NOBODY = frozenset({"http.cancelled", "ai.cancelled", "task.unwanted", "task.not_isolated", "task.lost"})
_OF_PROGRAMS = frozenset(
    {
        "ArithmeticError", "AssertionError", "AttributeError", "ImportError", "IndexError", "KeyError", "LookupError",
        "MemoryError", "ModuleNotFoundError", "NameError", "NotImplementedError", "OverflowError", "RecursionError",
        "SyntaxError", "TypeError", "UnboundLocalError", "UnicodeDecodeError", "UnicodeEncodeError", "ValueError",
        "ZeroDivisionError",
    }
)  # fmt: skip
"""Exceptions by which a program's own mistake is told: no target is to blame."""
_OF_SECRETS = ("secret.", "link.")


def verdict_on(error: TaskError | None) -> Verdict | None:
    """What an attempt's end says of its target.

    Badly: no connection, no answer in time, 5xx, 408, 429, and of a handler's own errors all that may be tried again. Well: a
    success, and every other answer. Nothing: what failed before or beside the call, and what would fail again (`Permanent`).
    """
    if error is None:
        return Verdict.WELL
    status = _STATUS.fullmatch(error.code)
    if status is not None:
        number = int(status[1])
        return Verdict.BADLY if number >= 500 or number in _ITS_FAULT else Verdict.WELL
    if error.code in _ANSWERED:
        return Verdict.WELL
    is_beside = error.code in _OF_NOBODY or error.code.startswith(_OF_SECRETS)
    is_mistake = error.retryable is None and error.code in _OF_PROGRAMS
    if error.retryable is False or is_beside or is_mistake:
        return None
    return Verdict.BADLY


def error_text(error: TaskError) -> str:
    """What is kept of an error: its code and the start of what it says."""
    return f"{error.code}: {error.message}"[:MAX_ERROR]


# -- targets ----------------------------------------------------------------------------------------------------

_PORTS = {"http": 80, "https": 443}


def canonical_target(written: str) -> str | None:
    """A target as a breaker is called by it: of a URL only scheme, host and port. None for what cannot be one.

    Path, query, user and password of a URL never stand in it. Other text is taken as it is, without spaces around it.
    """
    text = written.strip()
    if "://" in text:
        return origin_of(text)
    if not text or len(text) > MAX_TARGET or _FORBIDDEN.search(text):
        return None
    return text


def origin_of(url: str) -> str | None:
    """`scheme://host:port` of a URL, in small letters; None where it has none."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    scheme = parts.scheme.lower()
    if not host or not scheme or _FORBIDDEN.search(host) or not re.fullmatch(r"[a-z0-9_.:\-]+", host):
        return None
    port = port or _PORTS.get(scheme)
    name = f"[{host}]" if ":" in host else host.rstrip(".")
    origin = f"{scheme}://{name}" + ("" if port is None else f":{port}")
    return origin if name and len(origin) <= MAX_TARGET else None


def keys_of(calls: Iterable[Call]) -> list[BreakerKey]:
    """The breakers of some calls, each once, in the order in which their rows are locked."""
    return sorted({call.guarded.key for call in calls}, key=in_order)


def in_order(key: BreakerKey) -> tuple[str, str, str]:
    """By what rows of breakers are locked in order."""
    return key.tenant_id, key.type, key.target
