"""Offers: a task runner tells what it would take at once, and the steps that create such tasks lease them to it themselves.

A task that nobody waits before is so begun by the transaction that creates it: no claim, one commit less for each task. Offers
and what is handed over travel as calls, so both are hints. An offer that is lost, late or doubled costs a claim or a
task that is given back; ids that are lost are found by the runner's own look for what is leased to it, and what is leased to a
runner that has died expires as any lease does.

An offer is not for the tenants of whom something is left to claim, so that nobody's new task passes what waits of his; and what may be
under a limit or a circuit breaker is never leased like this.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

import orjson
import structlog

from common.ids import TenantId, WorkerId, is_id

OFFERS = "offers"
"""Whom runners call with their offers: the orchestrators."""
KEPT_SECONDS = 2.5
"""An offer is renewed each second, each other one by who has nothing to do; whoever does not, or says good-bye, is leased nothing any more."""
KNOWN_MAX = 1_000
"""Runners of which it is remembered that they live; each that is started has an id of its own."""
CREDIT_MAX = 1_000
ATTEMPTS_MAX = 1_000_000
LONGEST = 1_000_000
"""Bytes of one call that are read."""
SYSTEM = "SYSTEM"
log = structlog.get_logger("signalbox.offers")


@dataclass(frozen=True, slots=True)
class Offer:
    """`worker` takes `credit` more tasks at once, of `types`, and SYSTEM tasks of `functions`; with 0 it takes back what it said.

    Of tenants that are not in `not_for`. By each name the attempts that its handler allows where the task has no policy, None for the default's.
    Those of the names in `light` it calls for a step that waits (`common.queues.light_calls`), however much else it holds.
    By its `number` the runner knows it again, from 1; 0 of runners that do not count.
    """

    worker: WorkerId
    lease: timedelta
    types: Mapping[str, int | None]
    functions: Mapping[str, int | None]
    credit: int
    not_for: frozenset[TenantId] = frozenset()
    light: frozenset[str] = frozenset()
    number: int = 0

    def takes(self, tenant_id: TenantId, type: str, name: str) -> bool:
        """Is a task of this tenant, type and name among what is offered?"""
        is_named = name in self.functions if type == SYSTEM else type in self.types
        return is_named and tenant_id not in self.not_for

    def calls(self, type: str, name: str) -> bool:
        """Is the handler of such a task one that a step may wait for?"""
        known, asked = (self.functions, name) if type == SYSTEM else (self.types, type)
        return asked in self.light and asked in known

    def max_attempts(self, type: str, name: str) -> int | None:
        """The attempts that the handler of such a task allows; None: as many as the default."""
        return self.functions[name] if type == SYSTEM else self.types[type]

    def to_bytes(self) -> bytes:
        return orjson.dumps(
            {
                "worker": self.worker,
                "leaseMs": self.lease // timedelta(milliseconds=1),
                "types": self.types,
                "functions": self.functions,
                "credit": self.credit,
                "notFor": sorted(self.not_for),
                "light": sorted(self.light),
                "number": self.number,
            }
        )

    @classmethod
    def read(cls, said: bytes) -> Offer:
        """Read what another process published. Raises `ValueError` for anything else than an offer."""
        if len(said) > LONGEST:
            raise ValueError(f"not an offer: {len(said):,} bytes, where {LONGEST:,} are read")
        try:
            told = orjson.loads(said)
            worker, lease_ms, credit = told["worker"], told["leaseMs"], told["credit"]
            types, functions = dict(told["types"]), dict(told["functions"])
            not_for = frozenset(map(TenantId, told["notFor"]))
            # Runners of before say nothing of these.
            light, number = frozenset(map(str, told.get("light", ()))), told.get("number", 0)
        except (TypeError, KeyError) as error:
            raise ValueError(f"not an offer: {error}") from None
        numbers = all(type(one) is int for one in (lease_ms, credit, number))
        if not (numbers and isinstance(worker, str) and is_id(worker)):
            raise ValueError("not an offer")
        if not all(one is None or _is_allowed(one) for one in (*types.values(), *functions.values())):
            raise ValueError("not an offer: attempts are numbers")
        if not (0 < lease_ms <= 3_600_000 and 0 <= credit <= CREDIT_MAX):
            raise ValueError("not an offer: its figures are out of bounds")
        return cls(
            WorkerId(worker),
            timedelta(milliseconds=lease_ms),
            types,
            functions,
            credit,
            not_for,
            light,
            number,
        )


def name_of(worker: WorkerId) -> str:
    """Whom to call with the ids of what was leased to a worker."""
    return f"worker:{worker}"


@dataclass(slots=True)
class _Standing:
    offer: Offer
    left: int
    until: float
    is_silent: bool = False


class Offers:
    """What runners have offered to this process, of late. Safe to use from any thread.

    `is_runner` tells, when a worker's first offer comes, whether it is one that lives: whoever reaches the broker could say so.
    """

    def __init__(self, is_runner: Callable[[WorkerId], bool] = lambda _worker: True) -> None:
        self._is_runner = is_runner
        self._known: set[WorkerId] = set()
        self._standing: dict[WorkerId, _Standing] = {}
        self._turn = threading.Lock()
        self._are_light = False  # has anybody ever offered to call a light handler?

    def __bool__(self) -> bool:
        return bool(self._standing)

    def hear(self, hints: Sequence[bytes]) -> None:
        """Take note of offers; each replaces the one before of the same worker."""
        for said in hints:
            try:
                offer = Offer.read(said)
            except ValueError as error:
                log.warning("offer.unreadable", error=str(error)[:200])
                continue
            if offer.worker not in self._known:
                if not self._is_runner(offer.worker):
                    log.warning("offer.of_nobody", worker_id=offer.worker)
                    continue
                if len(self._known) >= KNOWN_MAX:
                    self._known.clear()
                self._known.add(offer.worker)
            with self._turn:
                now = time.monotonic()
                for gone in [one for one, standing in self._standing.items() if standing.until < now]:
                    del self._standing[gone]  # steps that ask for light handlers alone take none up
                if offer.credit:
                    # No longer than a lease: who has lost one is dead or frozen, and its offers are all from before that.
                    until = now + min(KEPT_SECONDS, offer.lease.total_seconds())
                    self._standing[offer.worker] = _Standing(offer, offer.credit, until)
                    self._are_light |= bool(offer.light)
                else:
                    self._standing.pop(offer.worker, None)

    def caller_of(self, type: str, name: str) -> Offer | None:
        """The offer of a runner that calls such a task's handler for a step that waits; nothing of it is used up. None where nobody does."""
        if not self._are_light:
            return None
        with self._turn:
            now = time.monotonic()
            calling = [
                one.offer
                for one in self._standing.values()
                if one.until >= now and not one.is_silent and one.offer.calls(type, name)
            ]
        return random.choice(calling) if calling else None  # noqa: S311 - who is asked, not a secret

    def note_silent(self, worker: WorkerId) -> None:
        """A runner did not answer in time: have it call nothing until it offers anew."""
        with self._turn:
            if worker in self._standing:
                self._standing[worker].is_silent = True

    def take(self, tenant_id: TenantId, type: str, name: str) -> Offer | None:
        """The offer of the runner that would take most, one task of which is hereby used; None where nobody takes such a task."""
        with self._turn:
            now = time.monotonic()
            best: _Standing | None = None
            for one in list(self._standing.values()):
                if one.until < now:
                    del self._standing[one.offer.worker]
                elif (
                    one.left
                    and one.offer.takes(tenant_id, type, name)
                    and (best is None or one.left > best.left)
                ):
                    best = one
            if best is None:
                return None
            best.left -= 1
            return best.offer

    def forget(self, whom: str) -> None:
        """Nobody heard what a worker was called with: lease it nothing until it offers anew."""
        with self._turn:
            for worker in [one for one in self._standing if name_of(one) == whom]:
                del self._standing[worker]


def _is_allowed(attempts: object) -> bool:
    return type(attempts) is int and 1 <= attempts <= ATTEMPTS_MAX
