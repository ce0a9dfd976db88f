"""Circuit breakers: counting how calls end, waking who waits, and what operators do with them.

Whoever counts holds the rows of its tasks and waits for those of breakers last, in order of their keys.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from common.breaker import (
    MAX_TARGET,
    Breaker,
    BreakerKey,
    BreakerState,
    Call,
    Verdict,
    canonical_target,
    closed,
    counted,
    keys_of,
    opened,
)
from common.config import Limits, limits_of_process
from common.db import TASK_RUNNER_QUEUE, note_bell
from common.db.now import read_now
from common.errors import Invalid, LimitExceeded, NotFound
from common.ids import TenantId
from common.store import breakers as store
from common.store.breakers import BreakerRecord

ENGINE = "engine"
"""Who changed a breaker that no person did."""
IDLE = timedelta(hours=1)
"""How long a breaker is kept that nothing happens to, and that nobody waits for."""


@dataclass(frozen=True, slots=True)
class Turned:
    """A breaker that went into another state, and how many tasks that woke."""

    key: BreakerKey
    before: BreakerState
    breaker: Breaker
    woken: int


def log_turned(log: Any, turned: Turned) -> None:
    """Tell of a breaker that turned, once that is committed."""
    breaker = turned.breaker
    tell = log.warning if breaker.state is BreakerState.OPEN else log.info
    tell(
        f"breaker.{breaker.state.value}",
        tenant_id=turned.key.tenant_id,
        type=turned.key.type,
        target=turned.key.target,
        before=turned.before.value,
        forced=breaker.forced,
        failures=breaker.failures,
        in_a_row=breaker.in_a_row,
        retry_at=None if breaker.retry_at is None else breaker.retry_at.isoformat(),
        error=breaker.last_error,
        woken=turned.woken,
    )


# -- counting ---------------------------------------------------------------------------------------------------


def count_calls(tx: Connection, calls: Sequence[Call], *, now: datetime) -> list[Turned]:
    """Count how some calls ended, in their order, and let those go on that waited for what they tell.

    Nothing is written where all did well and no failure is being counted. Returns the breakers that turned.
    """
    if not calls:
        return []
    failing = keys_of(call for call in calls if call.verdict is Verdict.BADLY)
    _require(tx, failing, now)
    before = store.lock_telling(tx, keys_of(calls), failing)
    after = dict(before)
    for call in calls:
        key = call.guarded.key
        if key in after:  # else nothing is told by it, or its tenant has too many
            after[key] = counted(after[key], call, now=now)
    changed = {key: breaker for key, breaker in after.items() if breaker != before[key]}
    return _save(tx, before, changed, by=ENGINE, now=now)


def _require(tx: Connection, failing: Sequence[BreakerKey], now: datetime) -> None:
    """See to it that there are rows to count failures in, as far as their tenants may have more."""
    missing = set(failing) - store.find_known(tx, failing) if failing else set()
    for key in failing:
        if key in missing:
            store.create(tx, key, by=ENGINE, now=now, at_most=limits_of_process().max_breakers)


def _save(
    tx: Connection,
    before: Mapping[BreakerKey, Breaker],
    changed: Mapping[BreakerKey, Breaker],
    *,
    by: str,
    now: datetime,
) -> list[Turned]:
    store.save(tx, changed, by=by, now=now)
    turned = []
    for key, breaker in changed.items():
        woken = _wake(tx, key, breaker, before[key], now)
        if woken:
            note_bell(tx, TASK_RUNNER_QUEUE)
        if breaker.state is not before[key].state:
            turned.append(Turned(key, before[key].state, breaker, woken))
    return turned


def _wake(tx: Connection, key: BreakerKey, breaker: Breaker, before: Breaker, now: datetime) -> int:
    """Let tasks go on that waited for this change. They are locked out of their turn, so none is waited for.

    Who holds one of them meanwhile is a claim, which will find the breaker as it is now, or somebody who ends it; what is
    passed over all the same is found by the sweep.
    """
    match breaker.state:
        case BreakerState.CLOSED if before.state is not BreakerState.CLOSED:
            return store.wake(tx, key, now=now)
        case BreakerState.HALF_OPEN if breaker.probe_task_id is None:
            return store.wake_one(tx, key, now=now)
    return 0


# -- sweeping ---------------------------------------------------------------------------------------------------


def wake_waiting(tx: Connection, *, now: datetime) -> int:
    """Wake one task for each breaker whose cool-down is over, and what closed ones passed over; returns how many."""
    woken = 0
    for key, state in store.find_to_wake(tx, now=now):
        is_closed = state is BreakerState.CLOSED
        woken += store.wake(tx, key, now=now) if is_closed else store.wake_one(tx, key, now=now)
    if woken:
        note_bell(tx, TASK_RUNNER_QUEUE)
    return woken


def forget_idle(tx: Connection, *, now: datetime) -> int:
    """Delete breakers that have told nothing for an hour."""
    return store.forget_idle(tx, before=now - IDLE)


# -- by hand ----------------------------------------------------------------------------------------------------


def open_breaker(
    tx: Connection, tenant_id: TenantId, type: str, target: str, *, actor: str, limits: Limits
) -> tuple[BreakerRecord, list[Turned]]:
    """Let nobody call a target until the breaker is closed or reset by hand. One that is not there yet is made."""
    return _turn(tx, tenant_id, type, target, lambda it, now: opened(it, now=now), actor, limits)


def close_breaker(
    tx: Connection, tenant_id: TenantId, type: str, target: str, *, actor: str, limits: Limits
) -> tuple[BreakerRecord, list[Turned]]:
    """Let everybody call a target, however it does, until the breaker is reset by hand. One that is not there yet is made."""
    return _turn(tx, tenant_id, type, target, lambda it, now: closed(it, now=now, forced=True), actor, limits)


def reset_breaker(
    tx: Connection, tenant_id: TenantId, type: str, target: str, *, actor: str
) -> tuple[BreakerRecord, list[Turned]]:
    """Close a breaker and leave it to itself again, counting from now on. Raises `NotFound` (`breaker.not_found`)."""
    return _turn(tx, tenant_id, type, target, lambda it, now: closed(it, now=now), actor, None)


def _turn(
    tx: Connection,
    tenant_id: TenantId,
    type: str,
    target: str,
    change: Callable[[Breaker, datetime], Breaker],
    actor: str,
    limits: Limits | None,
) -> tuple[BreakerRecord, list[Turned]]:
    """Change a breaker; without `limits` only one that is there."""
    key, now = breaker_key(tenant_id, type, target), read_now(tx)
    locked = store.lock(tx, [key])
    if not locked and limits is not None:
        if not store.create(tx, key, by=actor, now=now, at_most=limits.max_breakers):
            raise LimitExceeded(
                f"a tenant may have {limits.max_breakers} circuit breakers; those that nothing happens to go after an hour",
                limit="max_breakers",
                allowed=limits.max_breakers,
            )
        locked = store.lock(tx, [key])
    if not locked:
        raise NotFound(
            f'no circuit breaker of type "{key.type}" and target "{key.target}"; there is one once a call has failed',
            code="breaker.not_found",
        )
    turned = _save(tx, locked, {key: change(locked[key], now)}, by=actor, now=now)
    (record,) = store.read(tx, [key])
    return record, turned


def breaker_key(tenant_id: TenantId, type: str, target: str) -> BreakerKey:
    """A breaker as it is named by hand. Raises `Invalid` (`breaker.target`)."""
    found = canonical_target(target)
    if found is None or not type or " " in type:
        raise Invalid(
            f"expected a type of task, and as its target a URL or a name without spaces of at most {MAX_TARGET} characters",
            code="breaker.target",
        )
    return BreakerKey(tenant_id, type, found)
