"""Limits: claiming the tasks that they hold for, and setting, declaring and explaining them.

The claim is two transactions. `look` only reads, and finds which limits have room and who is due under them; while all are
full, as they mostly are, it is all there is. `claim_limited` then locks those limits and counts again (theory of operation:
common/store/limits.py). It calls no handler: a light one that reports inside the claim would wait for a MAP behind
the lock of a limit, which is out of the order of locks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from math import floor

from sqlalchemy import Connection

from common.clock import read_now
from common.db.tables import Source
from common.ids import LeaseToken, TaskId, WorkerId
from common.store import limits, tasks
from common.store.limits import TYPE_PREFIX, Figures, Limit, LimitKey
from common.store.tasks import TaskClaim

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
        """Places of one limit; None where it does not bound them."""
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
    fitting = [one.name for one in waiting if one.mine and one.name in standing and room.has(one.name)]
    others = any(one.others and one.name in standing and room.has(one.name) for one in waiting)
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
        if name in standing and room.has(name):
            if len(claims) >= limit:
                more = True
                break
            ids = _choose(tx, name, runs, room, limit=limit - len(claims))
            claims += tasks.claim_locked(tx, ids, worker=worker, token=token, lease=lease, now=room.now)
    limits.spend(tx, [(name, room.tokens[name]) for name in sorted(room.spent)], now=room.now)
    waits = [room.token_in(name) for name in standing if name in room.spent]
    more = more or (len(claims) >= limit and any(room.has(name) for name in fitting if name in standing))
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


def declare(tx: Connection, wanted: Mapping[LimitKey, tuple[Figures, str]], *, now: datetime) -> None:
    """Let the limits stand that new tasks ask for: (figures, who asked) by name, in the transaction that creates the tasks.

    A row with these figures is only held on to. Others are written in the order of tenant and key, last of what this
    transaction locks. An operator's row of the same key stays as it is.
    """
    standing = limits.hold(tx, wanted)
    for name in sorted(wanted):
        figures, by = wanted[name]
        found = standing.get(name)
        if found is None or (found.source is Source.DEFINITION and found.figures != figures):
            limits.put(tx, name, figures, source=Source.DEFINITION, updated_by=by, now=now)
