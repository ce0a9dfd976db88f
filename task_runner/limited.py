"""The tasks that limits hold for: a process's share in them, beside the ordinary claim.

Their claim comes before the ordinary one with half of the free slots, and behind it with what is left: neither may starve
the other. Whoever ends a limited task claims the next one itself, with all its slots, so that no place stays empty until
somebody looks; it rings the others where only they can run who is next. When a token is what is missing, the dispatcher
is told when there will be one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TypeVar

from sqlalchemy import Connection

from common import faults
from common.commands.limits import LimitedClaims, Look, Runs, claim_limited, look
from common.db import TASK_RUNNER_QUEUE, Database, note_bell
from common.ids import WorkerId, new_token
from common.store.claims import TaskClaim
from common.store.limits import LimitKey

P = TypeVar("P")
TICK = 0.001
"""Seconds that a token is waited for beyond its instant: a look before it would find it missing by a rounding."""
LOOKS = 16
"""Times that one claim goes on behind the keys that it has looked at."""


class LimitedTasks:
    """One process's claims of limited tasks. `ring_in` is told in how many seconds a token comes that is waited for."""

    def __init__(
        self,
        database: Database,
        runs: Runs,
        *,
        worker: WorkerId,
        lease: timedelta,
        ring_in: Callable[[float], None],
    ) -> None:
        self.database = database
        self.runs = runs
        self.worker = worker
        self.lease = lease
        self.ring_in = ring_in
        self.are_any = False
        """Is there any limit? Told by the ordinary claim, which asks for the time anyway."""
        self.is_leaving = False
        """Does this process claim nothing any more? Then places that it gives back are for others."""
        self._freed = 0
        self._is_odd = False
        self._after: LimitKey | None = None

    def note_ended(self, number: int) -> None:
        """Limited tasks of this process have ended, and that is committed: their places are to be taken at once."""
        self._freed += number
        if self.is_leaving:
            self._ring_others()

    @property
    def has_freed(self) -> bool:
        """Are there places of tasks that ended here, which nobody has taken or seen to be of no use here?"""
        return self._freed > 0

    def share(self, room: int) -> int:
        """How many slots of `room` limited tasks may take before the ordinary ones are asked."""
        if not self.are_any:
            return 0
        if self._freed:
            return room
        self._is_odd = not self._is_odd
        return (room + self._is_odd) // 2

    def claim(
        self, limit: int, prepare: Callable[[Connection, Sequence[TaskClaim]], P]
    ) -> tuple[Sequence[TaskClaim], P | None]:
        """Claim up to `limit` tasks that fit under their limits, and `prepare` them in the transaction that claims them."""
        freed, self._freed = self._freed, 0
        for _ in range(LOOKS):
            with self.database.looking() as tx:
                seen = look(tx, self.runs, after=self._after)
            began_anew, self._after = seen.after is None, seen.after
            if seen.token_in is not None:
                self.ring_in(seen.token_in + TICK)
            if seen.others and freed:
                self._ring_others()
            if seen.fitting:
                taken, prepared = self._take(seen, limit, prepare)
                if taken.claims or taken.more:
                    # Of places that it leaves it shall look once more: only others may be able to take those.
                    self._freed += max(freed - len(taken.claims), 0) if len(taken.claims) < limit else 0
                    return taken.claims, prepared
            if began_anew:
                break
        return (), None

    def _take(
        self, seen: Look, limit: int, prepare: Callable[[Connection, Sequence[TaskClaim]], P]
    ) -> tuple[LimitedClaims, P | None]:
        def use_case(tx: Connection) -> tuple[LimitedClaims, P | None]:
            taken = claim_limited(
                tx,
                seen.fitting,
                self.runs,
                worker=self.worker,
                token=new_token(),
                limit=limit,
                lease=self.lease,
            )
            if taken.more:  # there is room for more than fits here: let others join in
                note_bell(tx, TASK_RUNNER_QUEUE)
            return taken, prepare(tx, taken.claims) if taken.claims else None

        taken, prepared = self.database.run(use_case)
        if taken.token_in is not None:
            self.ring_in(taken.token_in + TICK)
        if taken.claims:
            faults.hit("after_claim")
        return taken, prepared

    def _ring_others(self) -> None:
        with self.database.transaction() as tx:
            note_bell(tx, TASK_RUNNER_QUEUE)
