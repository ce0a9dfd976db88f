"""Limits: claiming the tasks that they hold for, and setting, declaring and explaining them.

The claim is two transactions. `look` only reads, and finds which limits have room and who is due under them; while all are
full, as they mostly are, it is all there is. `claim_limited` then locks those limits and counts again (theory of operation:
common/store/limits.py). It calls no handler: a light one that reports inside the claim would wait for a MAP behind
the lock of a limit, which is out of the order of locks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from math import floor

from sqlalchemy import Connection

from common.canonical import read
from common.db import TASK_RUNNER_QUEUE, note_bell
from common.db.now import read_now
from common.db.tables import Source
from common.errors import Invalid, NotFound
from common.ids import LeaseToken, TaskId, TenantId, WorkerId
from common.store import limits
from common.store.claims import TaskClaim, claim_locked
from common.store.limits import KEY_PREFIX, TYPE_PREFIX, Figures, Limit, LimitKey, Rate
from statechart.limits import TaskLimit, read_limit

KEYS_AT_ONCE = 64
"""Keys that one look goes through; the next one goes on behind them, so that none is hidden by others."""


@dataclass(frozen=True, slots=True)
class Runs:
    """What a process can run: task types, and functions of SYSTEM."""

    types: Sequence[str]
    functions: Sequence[str]


@dataclass(frozen=True, slots=True)
class Look:
    """Limits that have room for due tasks of a process. `token_in`: seconds until one that has none gets a token.

    `others` tells that a key has room for tasks that only other processes can run. `after`: where to look from next.
    """

    fitting: Sequence[LimitKey] = ()
    others: bool = False
    token_in: float | None = None
    after: LimitKey | None = None


@dataclass
class Room:
    """How many more tasks some limits let run at the instant `now`. Taking one is noted, never assumed."""

    now: datetime
    limits: Mapping[LimitKey, Limit]
    running: dict[LimitKey, int]
    tokens: dict[LimitKey, float] = field(default_factory=dict)
    spent: set[LimitKey] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.tokens = {
            name: limit.bucket.at(self.now) for name, limit in self.limits.items() if limit.bucket is not None
        }

    def of(self, name: LimitKey) -> int | None:
        """Places of one limit; None where it does not bound them, or does not stand."""
        limit = self.limits.get(name)
        if limit is None:
            return None
        places = []
        if limit.max_running is not None:
            places.append(limit.max_running - self.running.get(name, 0))
        if name in self.tokens:
            places.append(floor(self.tokens[name]))
        return max(min(places), 0) if places else None

    def has(self, name: LimitKey) -> bool:
        return self.of(name) != 0

    def take(self, name: LimitKey) -> None:
        if name in self.limits:
            self.running[name] = self.running.get(name, 0) + 1
        if name in self.tokens:
            self.tokens[name] -= 1
            self.spent.add(name)

    def token_in(self, name: LimitKey) -> float | None:
        """Seconds until a token that alone is missing; None where something else is, or nothing."""
        limit = self.limits.get(name)
        if limit is None or limit.bucket is None or self.tokens[name] >= 1:
            return None
        if limit.max_running is not None and self.running.get(name, 0) >= limit.max_running:
            return None
        rate = limit.bucket.rate
        return (1 - self.tokens[name]) * rate.per_ms / rate.count / 1000


# -- claiming -----------------------------------------------------------------------------------------------------


def look(tx: Connection, runs: Runs, *, after: LimitKey | None) -> Look:
    """Find the limits that have room for due tasks, without a lock: what it tells may be over already."""
    now = read_now(tx)
    waiting, goes_on = limits.find_waiting(
        tx, types=runs.types, functions=runs.functions, after=after, most=KEYS_AT_ONCE, now=now
    )
    if not waiting:
        return Look(after=goes_on)
    names = [one.name for one in waiting]
    standing = limits.read(tx, names)
    room = Room(now, standing, limits.count_running(tx, names))
    fitting = [one.name for one in waiting if one.mine and room.has(one.name)]
    others = any(one.others and room.has(one.name) for one in waiting)
    tokens = [room.token_in(one.name) for one in waiting if one.mine]
    return Look(fitting, others, min((one for one in tokens if one is not None), default=None), goes_on)


@dataclass(frozen=True, slots=True)
class LimitedClaims:
    """What `claim_limited` took. `token_in`: as in `Look`, for the limits that it emptied. `more`: it took all it may, not all that fits."""

    claims: Sequence[TaskClaim] = ()
    token_in: float | None = None
    more: bool = False


def claim_limited(
    tx: Connection,
    fitting: Sequence[LimitKey],
    runs: Runs,
    *,
    worker: WorkerId,
    token: LeaseToken,
    limit: int,
    lease: timedelta,
) -> LimitedClaims:
    """Claim up to `limit` due tasks under the limits `fitting`, in their order, none beyond what any of them allows.

    A task runs under the limit of its key and that of its type, where there are both. One that does not fit hides
    nobody: its type is left out, and the next of the same key has its turn.
    """
    names = {
        *fitting,
        *(LimitKey(one.tenant_id, TYPE_PREFIX + type) for one in fitting for type in runs.types),
    }
    standing = limits.lock(tx, names)
    running = limits.count_running(tx, standing) if standing else {}
    # Asked behind the locks: whoever had these places before ended before this instant, on record too.
    room = Room(read_now(tx), standing, running)
    claims: list[TaskClaim] = []
    more = False
    for name in fitting:
        if room.has(name):
            if len(claims) >= limit:
                more = True
                break
            ids = _choose(tx, name, runs, room, limit=limit - len(claims))
            claims += claim_locked(tx, ids, worker=worker, token=token, lease=lease, now=room.now)
    limits.spend(tx, [(name, room.tokens[name]) for name in sorted(room.spent)], now=room.now)
    waits = [room.token_in(name) for name in standing if name in room.spent]
    more = more or (len(claims) >= limit and any(map(room.has, fitting)))
    return LimitedClaims(claims, min((one for one in waits if one is not None), default=None), more)


def _choose(tx: Connection, name: LimitKey, runs: Runs, room: Room, *, limit: int) -> list[TaskId]:
    """Lock and note the next tasks under one limit, as many as fit everywhere."""
    chosen: list[TaskId] = []
    while len(chosen) < limit:
        places = room.of(name)
        wanted = limit - len(chosen) if places is None else min(limit - len(chosen), places)
        types = [type for type in runs.types if room.has(LimitKey(name.tenant_id, TYPE_PREFIX + type))]
        if wanted <= 0 or not types:
            break
        found = limits.lock_next(
            tx, name, types=types, functions=runs.functions, taken=chosen, limit=wanted, now=room.now
        )
        before = len(chosen)
        for task_id, type in found:
            of_type = LimitKey(name.tenant_id, TYPE_PREFIX + type)
            if room.has(of_type):
                room.take(of_type)
                if of_type != name:
                    room.take(name)
                chosen.append(task_id)
        if len(found) < wanted or len(chosen) == before:
            break
    return chosen


# -- what definitions ask for -------------------------------------------------------------------------------------


Wanted = Mapping[LimitKey, tuple[Figures, str]]
"""Limits that definitions ask for by name: (figures, who asked)."""


def declare(tx: Connection, wanted: Wanted, *, again: Wanted, now: datetime) -> None:
    """Let the limits stand that new tasks ask for, in the transaction that creates the tasks; and those of tasks that run `again`.

    A row with these figures is only held on to, and so is any that stands for tasks that run again. Others are written in the
    order of tenant and key, last of what this transaction locks. An operator's row of the same key stays as it is.
    """
    asked = {**again, **wanted}
    standing = limits.hold(tx, asked)
    for name in sorted(asked):
        figures, by = asked[name]
        found = standing.get(name)
        is_changed = found is not None and found.source is Source.DEFINITION and found.figures != figures
        if found is None or (is_changed and name in wanted):
            limits.put(tx, name, figures, source=Source.DEFINITION, updated_by=by, now=now)


def asked_again(tx: Connection, ids: Sequence[TaskId]) -> Wanted:
    """What those of some tasks ask for that are open, having failed before or come from elsewhere: their limits may not stand any more."""
    wanted = {}
    for asking in limits.read_asking(tx, ids):
        asked = read_limit(asking.type, read(asking.options)["limit"])
        name = LimitKey(asking.tenant_id, KEY_PREFIX + asked.key)
        wanted[name] = (figures_of(asked), f"definition:{asking.definition_key}")
    return wanted


def figures_of(asked: TaskLimit) -> Figures:
    """What a row of `limits` says of the limit that a definition asks for."""
    rate = None if asked.rate is None else Rate(asked.rate.count, asked.rate.per_ms, asked.rate.burst)
    return Figures(asked.max_running, rate)


# -- what operators say -------------------------------------------------------------------------------------------

MAX_FIGURE = 1_000_000
MAX_LIMIT_KEY = 210
_KEY = re.compile(r"(type|key):[^\x00-\x1f\x7f]+")


@dataclass(frozen=True, slots=True)
class LimitState:
    """A limit and what it does at this instant: tasks that run and that are due under it, and its tokens."""

    limit: Limit
    running: int
    waiting: int
    tokens: float | None


def set_limit(
    tx: Connection, tenant_id: TenantId, key: str, *, max_running: int | None, rate: Rate | None, actor: str
) -> tuple[LimitState, bool]:
    """Set a tenant's limit, which counts more than a definition's from now on. Also tells whether it is new.

    Rings the task runners: more may have room. Raises `Invalid` (`limit.key_invalid`, `limit.invalid`).
    """
    if not _KEY.fullmatch(key) or len(key) > MAX_LIMIT_KEY:
        raise Invalid(
            f'"{key[:100]}" is no key of a limit: expected type:TYPE or key:TEXT, without control '
            f"characters, at most {MAX_LIMIT_KEY} in all",
            code="limit.key_invalid",
        )
    if max_running is None and rate is None:
        raise Invalid("expected maxRunning, rate or both, found neither", code="limit.invalid")
    now = read_now(tx)
    name, figures = LimitKey(tenant_id, key), Figures(max_running, rate)
    stored = limits.put(tx, name, figures, source=Source.API, updated_by=actor, now=now)
    assert stored is not None, "an operator's word always counts"  # noqa: S101
    note_bell(tx, TASK_RUNNER_QUEUE)
    [state] = read_states(tx, tenant_id, [stored])
    return state, stored.created_at == now


def delete_limit(tx: Connection, tenant_id: TenantId, key: str) -> None:
    """Delete a tenant's limit, whoever set it. Rings the task runners. Raises `NotFound` (`limit.not_found`).

    A definition's stands again with the next task that asks for it.
    """
    if not limits.delete_limit(tx, LimitKey(tenant_id, key)):
        raise _not_found(key)
    note_bell(tx, TASK_RUNNER_QUEUE)


def get_limit(tx: Connection, tenant_id: TenantId, key: str) -> LimitState:
    """One limit. Raises `NotFound` (`limit.not_found`)."""
    name = LimitKey(tenant_id, key)
    found = limits.read(tx, [name]).get(name)
    if found is None:
        raise _not_found(key)
    [state] = read_states(tx, tenant_id, [found])
    return state


def read_states(tx: Connection, tenant_id: TenantId, found: Sequence[Limit]) -> list[LimitState]:
    """What some limits of a tenant do at this instant."""
    if not found:
        return []
    now = read_now(tx)
    running = limits.count_running(tx, [one.name for one in found])
    waiting = limits.count_waiting(tx, tenant_id, [one.key for one in found], now=now)
    return [
        LimitState(
            one,
            running.get(one.name, 0),
            waiting.get(one.key, 0),
            None if one.bucket is None else one.bucket.at(now),
        )
        for one in found
    ]


def _not_found(key: str) -> NotFound:
    return NotFound(f'no limit "{key[:210]}"; see `signalbox limits list`', code="limit.not_found")


# -- explaining ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wait:
    """Why a due task does not run: a limit without room. `next_token_at`: when it has a token, where one is missing."""

    key: str
    max_running: int | None
    running: int
    next_token_at: datetime | None


def explain_waits(
    tx: Connection, tenant_id: TenantId, due: Mapping[TaskId, tuple[str, str | None]]
) -> dict[TaskId, list[Wait]]:
    """Which limits keep some due tasks, (type, limit key) each, from running; those that none does are left out."""
    keys = {task: [TYPE_PREFIX + type, *([] if key is None else [key])] for task, (type, key) in due.items()}
    names = [LimitKey(tenant_id, key) for wanted in keys.values() for key in wanted]
    standing = limits.read(tx, names)
    if not standing:
        return {}
    room = Room(read_now(tx), standing, limits.count_running(tx, standing))
    waits = {}
    for task, wanted in keys.items():
        full = [name for name in (LimitKey(tenant_id, key) for key in wanted) if not room.has(name)]
        if full:
            waits[task] = [_wait(room, name) for name in full]
    return waits


def _wait(room: Room, name: LimitKey) -> Wait:
    seconds = room.token_in(name)
    at = None if seconds is None else room.now + timedelta(seconds=seconds)
    return Wait(name.key, room.limits[name].max_running, room.running.get(name, 0), at)
