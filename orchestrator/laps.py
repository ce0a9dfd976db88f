"""The way through the inbox: whose turn it is, of the tenants one after the other, and when everybody has had his.

A `Sweep` goes through each tenant's rows by itself, page by page; of each page it chooses who is stepped now. It asks no database:
`advance.py` reads the pages and steps who is chosen.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from itertools import groupby

from common.courtesy import Courtesy, Portions, Volumes
from common.ids import InstanceId, TenantId
from common.store.inbox import LONG_PAGE, SHORT_PAGE, Page, PageRoom, ReadyRow
from common.store.turns import FROM_THE_FIRST
from statechart.record import record

BATCH = Portions(100, 32, 3)
"""Instances that are stepped in one go."""
SHARED_SECONDS = 5.0
"""For so long after a tenant was seen that has few events, beside one that floods, batches are those of who is beside a flood."""
JUDGED_SECONDS = 0.02
"""For so long it is not asked again who is quiet beside whom, unless somebody new is here: there may be thousands."""
LONG_QUEUE = 20
"""Rows of one page that are a flood's, whatever was done of it so far."""
CROWD = 50
"""Instances beyond a whole batch that are worth another process's batch."""
LONG_LAP = 1_000
"""Instances that had their turn, after which a tenant's lap begins anew, once it has also taken `LAP_SECONDS`."""
LAP_SECONDS = 3.0
"""Where more comes than is stepped, a lap would go on for as long as the flood does, and what comes for those who had their turn would wait for
that. Not after so many instances alone: a giant inbox at the front is gone through anew by each lap."""
SHARED_PAGE = PageRoom(100, 100)
"""Beside a flood a batch is of a few, but nobody's rows are hidden by those of his that others hold."""


@dataclass
class Lap:
    """A tenant's way through its part of the inbox: the row to go on after, the instances that had their turn."""

    after: int = 0
    seen: set[InstanceId] = field(default_factory=set)
    found: bool = False
    began_at: float = field(default_factory=time.monotonic)

    @property
    def is_long(self) -> bool:
        """Is it time to begin anew, although its rows do not end here? Not where nothing was to be had: who begins anew for that would never rest."""
        is_late = time.monotonic() - self.began_at >= LAP_SECONDS
        return self.found and is_late and len(self.seen) >= LONG_LAP


@dataclass
class Sweep:
    """The way through the inbox, of each tenant by itself: a lap ends where its rows do, whatever others still have waiting,
    or once it has gone on for long.

    A sweep may outlast a drain: who keeps it goes on where it stopped, so that those behind get their turn too.
    With more tenants than a page has room for they come in rounds; `found`: something was, in this round.
    """

    laps: dict[TenantId, Lap] = field(default_factory=dict)
    turn_after: TenantId = FROM_THE_FIRST
    found: bool = False
    is_shared: bool = False
    crowded_until: float = 0.0
    is_for_few: bool = False
    """The batch before was of those alone who have few."""
    looks_first: bool = False
    """The pass before stepped so few that there is hardly more: a look costs less than a lock that finds nothing."""
    was_short: bool = False
    """Had the page before too few rows to find a batch in: because of an inbox that is a giant's, or those that others hold?"""
    judged_at: float = 0.0
    seen: dict[TenantId, float] = field(default_factory=dict)
    """Tenants that were here of late, and when (monotonic seconds)."""
    answering: frozenset[TenantId] = frozenset()
    """Tenants whose tasks were told of since the batch before, which is stepped beside what is chosen."""
    courtesy: Courtesy | None = None
    """By which a flood rests, for who keeps this sweep and comes back in time."""
    volumes: Volumes = field(default_factory=Volumes)

    def begun_before(self) -> None:
        """What was passed by may have changed since: let no lap that has begun be the one that finds nothing."""
        self.found |= self.turn_after != FROM_THE_FIRST
        for lap in self.laps.values():
            lap.found = True

    def note_answers(self, tenants: Counter[TenantId]) -> None:
        """Take note of whose answers are stepped beside what is chosen next, how many of each tenant."""
        self.answering = frozenset(tenants)
        self.volumes.note(tenants)
        self._note_served(tenants)

    def note_all(self, tenants: Counter[TenantId]) -> None:
        """Take note of whose instances are stepped without a choice, how many of each tenant."""
        self.volumes.note(tenants)
        self._note_seen(tenants, queues=())
        if self.is_shared:
            self._note_served(tenants)

    def _note_served(self, tenants: Iterable[TenantId]) -> None:
        """These are served now: for whom of them a flood rests."""
        if self.courtesy is not None and any(not self.volumes.is_flood(one) for one in tenants):
            self.courtesy.note()

    @property
    def is_over_few(self) -> bool:
        """Is it likely that one look takes in all that is ready?"""
        now = time.monotonic()
        is_on_its_way = bool(self.laps) or self.turn_after != FROM_THE_FIRST
        return not is_on_its_way and now >= self.crowded_until and not self.is_shared

    def portion(self, portions: Portions) -> int:
        """How much of something to take in one go."""
        return portions.now(self.volumes, is_beside=self.is_shared)

    @property
    def page_room(self) -> PageRoom:
        """How much to read of the inbox, to choose a batch from."""
        if self.is_shared:
            return SHARED_PAGE
        return LONG_PAGE if self.was_short else SHORT_PAGE

    @property
    def passed(self) -> dict[TenantId, int]:
        return {tenant: lap.after for tenant, lap in self.laps.items() if lap.after}

    def choose(self, page: Page) -> Chosen:
        """Take up to a batch of distinct instances of a page that have not had their turn, one of each tenant in turn.

        Nobody, where there is a flood only, and it rests for a moment.
        """
        of_tenants = {
            tenant: list(rows) for tenant, rows in groupby(page.rows, key=lambda row: row.tenant_id)
        }
        ways = [_Way(tenant, rows, self._seen(tenant)) for tenant, rows in of_tenants.items()]
        queues = [tenant for tenant, rows in of_tenants.items() if len(rows) > LONG_QUEUE]
        self._note_seen(of_tenants, queues=queues)
        # Where tenants come in rounds, others may wait outside of this page, who have to be got at first.
        is_everybody = page.last_tenant is None and self.turn_after == FROM_THE_FIRST
        going, rest = self._first(ways, may_rest=is_everybody)
        if rest:
            return Chosen(rest=rest)
        room = max(self.portion(BATCH), len(going))  # everybody has a turn
        while going and room:
            going = [way for way in going[:room] if way.take()]
            room -= len(going)
        self.was_short = room > 0 and any(len(way.rows) >= page.size for way in ways)
        ends = {way.tenant_id: way.end(page.size) for way in ways}
        taken = {instance_id: way.tenant_id for way in ways for instance_id in way.taken}
        is_crowd = room == 0 and len(taken) == BATCH.alone and sum(way.left for way in ways) >= CROWD
        return Chosen(taken, ends, page.last_tenant, is_crowd=is_crowd)

    def _note_seen(self, tenants: Iterable[TenantId], *, queues: Collection[TenantId]) -> None:
        """Take note of whose rows and answers are here, who has long `queues`, and of whether somebody is to be protected of another's."""
        now = time.monotonic()
        here = self.answering.union(tenants)
        is_news = not here <= self.seen.keys()
        self.seen.update(dict.fromkeys(here, now))
        if not is_news and now - self.judged_at < JUDGED_SECONDS:
            return
        self.judged_at = now
        self.seen = {one: at for one, at in self.seen.items() if at > now - SHARED_SECONDS}
        quiet = [one for one in self.seen if one not in queues and self.volumes.is_quiet(one)]
        is_flood = bool(queues) or any(map(self.volumes.is_flood, self.seen))
        self.is_shared = is_flood and bool(quiet)

    def _first(self, ways: list[_Way], *, may_rest: bool) -> tuple[list[_Way], float]:
        """Whose turn it is, and how long to rest first: in every other batch whoever has few, where others flood the inbox."""
        few = [way for way in ways if not self.volumes.is_flood(way.tenant_id)]
        is_flood = len(few) < len(ways)
        self.is_for_few = not self.is_for_few and is_flood and bool(few)
        if self.courtesy is not None:
            if few and (is_flood or self.is_shared):
                self.courtesy.note()
            elif is_flood and may_rest:
                return ways, self.courtesy.rest()
        return few if self.is_for_few else ways, 0.0

    def _seen(self, tenant_id: TenantId) -> Set[InstanceId]:
        lap = self.laps.get(tenant_id)
        return lap.seen if lap else frozenset()

    def note(self, chosen: Chosen, *, found: bool, left: Collection[InstanceId] = ()) -> bool:
        """Take note of what a pass did; must another follow? Not after a round that began anew and found nothing to lock."""
        self.volumes.note(Counter(chosen.tenants.values()))
        for tenant_id, end in chosen.ends.items():
            lap = self.laps.setdefault(tenant_id, Lap())
            lap.found |= found
            lap.seen.update(one for one, of in chosen.tenants.items() if of == tenant_id and one not in left)
            has_left = any(chosen.tenants.get(one) == tenant_id for one in left)
            if lap.is_long or (end is None and not has_left):
                self._end(tenant_id)
            elif end is not None and not has_left:
                lap.after = end
        for tenant_id in [
            one for one in self.laps if one not in chosen.ends and chosen.has_visited(one, self.turn_after)
        ]:
            self._end(tenant_id)  # it has nothing left behind where it was
        self.turn_after = chosen.last_tenant or FROM_THE_FIRST
        if chosen.last_tenant is not None:
            return True
        more = self.found or bool(self.laps)
        self.found = False
        return more

    def _end(self, tenant_id: TenantId) -> None:
        self.found |= self.laps.pop(tenant_id).found


@dataclass
class _Way:
    """A tenant's rows of a page, and the instances of them that are taken."""

    tenant_id: TenantId
    rows: Sequence[ReadyRow]
    seen: Set[InstanceId]
    taken: dict[InstanceId, None] = field(default_factory=dict)
    at: int = 0

    def take(self) -> bool:
        """Take the next instance that has not had its turn; False where there is none."""
        while self.at < len(self.rows):
            instance_id = self.rows[self.at].instance_id
            self.at += 1
            if instance_id not in self.seen and instance_id not in self.taken:
                self.taken[instance_id] = None
                return True
        return False

    @property
    def left(self) -> int:
        """How many more instances there are, of these rows, who have not had their turn."""
        return len({row.instance_id for row in self.rows[self.at :]} - self.seen - self.taken.keys())

    def end(self, size: int) -> int | None:
        """The id to go on after; None where the tenant's rows end with those that were looked at."""
        if self.at < len(self.rows):
            return self.rows[self.at - 1].id if self.at else self.rows[0].id - 1
        return self.rows[-1].id if len(self.rows) >= size else None


@record
class Chosen:
    """The instances to step now, with their tenants, and where each tenant's lap goes on (None: it ends).

    With a `rest` nobody's turn has come yet: they are chosen after so many seconds. `is_crowd`: they are a whole batch, and half another one is
    left at once, of nobody who is quiet.
    """

    tenants: Mapping[InstanceId, TenantId] = field(default_factory=dict)
    ends: Mapping[TenantId, int | None] = field(default_factory=dict)
    last_tenant: TenantId | None = None
    rest: float = 0.0
    is_crowd: bool = False

    @property
    def ids(self) -> list[InstanceId]:
        return list(self.tenants)

    def has_visited(self, tenant_id: TenantId, turn_after: TenantId) -> bool:
        """Did the page that began behind `turn_after` have room for this tenant's rows?"""
        return tenant_id > turn_after and (self.last_tenant is None or tenant_id <= self.last_tenant)
