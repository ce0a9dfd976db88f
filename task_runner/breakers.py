"""Circuit breakers between a claim and its call: who may call, who tries, who waits.

Theory of operation. A claim whose handler names a target asks for the breakers of its targets, in the claim's own
transaction: one statement, which locks nothing while all of them are closed. Of those that are not, the rows are locked in
order and read again; then each task calls, is the one that tries, or is given back as if it had never been claimed: no
attempt is counted, none stays on record. A breaker that closes makes its waiting tasks due under the same lock, so that a
task is either seen by it or sees that it is closed. Where nobody wakes it, a task looks by itself after `RELOOK`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import Connection

from common.breaker import (
    Admission,
    Breaker,
    BreakerKey,
    BreakerPolicy,
    Guarded,
    admits,
    canonical_target,
    probed,
)
from common.canonical import read
from common.commands.breakers import ENGINE
from common.db.now import read_now
from common.store import breakers as store
from common.store.breakers import HeldBack
from common.store.claims import TaskClaim
from task_runner.attempt import described
from task_runner.registry import Handler

log = structlog.get_logger("signalbox.task_runner")

RELOOK = timedelta(minutes=5)
"""How long after its breaker's next try a task that waits looks by itself, at the earliest; twice as long at the latest."""


@dataclass(frozen=True, slots=True)
class Breakers:
    """The breakers of a runner's handlers. `policy` None: there are none."""

    policy: BreakerPolicy | None

    def admit(
        self,
        tx: Connection,
        claims: Sequence[TaskClaim],
        find: Callable[[TaskClaim], Handler | None],
    ) -> Sequence[TaskClaim]:
        """Those of some claims of this transaction that may be called; the others wait for their breakers."""
        policy = self.policy
        if policy is None:
            return claims
        guarded = {}
        for claim in claims:
            key = key_of(claim, find(claim))
            if key is not None:
                guarded[claim.id] = Guarded(key, policy)
        if not guarded:
            return claims
        watched = [
            replace(claim, guarded=guarded[claim.id]) if claim.id in guarded else claim for claim in claims
        ]
        doubtful = store.find_not_closed(tx, {one.key for one in guarded.values()})
        if not doubtful:
            return watched
        return self._decide(tx, watched, doubtful)

    def _decide(
        self, tx: Connection, claims: Sequence[TaskClaim], doubtful: set[BreakerKey]
    ) -> list[TaskClaim]:
        locked = store.lock(tx, doubtful)
        now = read_now(tx)
        probing = store.find_probing(tx, locked.values())
        admitted: list[TaskClaim] = []
        held: list[HeldBack] = []
        tried: dict[BreakerKey, Breaker] = {}
        for claim in claims:
            breaker = None
            if claim.guarded is not None:
                key = claim.guarded.key
                breaker = tried.get(key, locked.get(key))
            if claim.guarded is None or breaker is None:
                admitted.append(claim)
                continue
            is_probed = key in tried or (breaker.probe_task_id, breaker.probe_token) in probing
            match admits(breaker, is_probed=is_probed, now=now):
                case Admission.CALL:
                    admitted.append(claim)
                case Admission.PROBE:
                    tried[key] = probed(breaker, claim.id, claim.token)
                    admitted.append(replace(claim, guarded=replace(claim.guarded, is_probe=True)))
                case Admission.WAIT:
                    held.append(_held_back(claim, key, breaker, now))
        store.save(tx, tried, by=ENGINE, now=now)
        store.hold_back(tx, held, now=now)
        for key in tried:
            log.info("breaker.half_open", tenant_id=key.tenant_id, type=key.type, target=key.target)
        return admitted


def key_of(claim: TaskClaim, handler: Handler | None) -> BreakerKey | None:
    """The breaker that watches a claim's call; None where none does."""
    if handler is None or handler.options.breaker is None or _is_unwatched(claim.options):
        return None
    try:
        named = handler.options.breaker(read(claim.input))
    except BaseException as error:  # noqa: BLE001 - the handler's own code
        why = described(error)
        log.warning("breaker.no_target", handler=handler.name, error=f"{why.code}: {why.message}"[:300])
        return None
    target = canonical_target(named) if isinstance(named, str) else None
    return None if target is None else BreakerKey(claim.tenant_id, handler.name, target)


def _is_unwatched(options: str | None) -> bool:
    written: Any = None if options is None else read(options)
    return isinstance(written, Mapping) and written.get("breaker") is False


def _held_back(claim: TaskClaim, key: BreakerKey, breaker: Breaker, now: datetime) -> HeldBack:
    from_then = max(now, breaker.retry_at or now)
    spread = random.random()  # noqa: S311 - so that not all of them look at once
    return HeldBack(claim.id, claim.token, key, from_then + RELOOK * (1 + spread), claim.attempt - 1)
