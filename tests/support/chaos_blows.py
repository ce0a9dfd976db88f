"""The driver of the chaos suite: it deals blows in the order and at the moments that a seed says, and watches the recovery.

A **blow** is one thing that is done to the site. Most are over at once; some last (a frozen process, an absent broker, an open
transaction, messages doubled or dropped) and end while others fall. To have a figure for each kind, a member is only hurt
while its twin works, and what a watch is allowed grows with what else fell meanwhile: with a database that is away by that
time, with another blow to that blow's own bound.
"""

from __future__ import annotations

import random
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import redis

from common.store.invariants import stalled_instances
from tests.support.chaos_callers import Callers
from tests.support.chaos_keeping import count_due
from tests.support.chaos_kinds import Amounts
from tests.support.chaos_recovery import Recovery, Touched, Watch, ask
from tests.support.chaos_site import Embedded, Inside, Production, Role, Site
from tests.support.slowdown import Slowdown
from tests.support.up import freeze_holder, runs
from tests.support.waiting import crowd, wait_until

COOL_DOWN_SECONDS = 1.0
"""Of circuit breakers in this suite."""
ENOUGH_REFUSED = 6
"""Calls that a target refuses while it is down: one more than open a breaker."""
LONGEST_DOWN_SECONDS = 90.0
"""How long a target stays down for them: on a crowded machine they come late."""
WAKE_SECONDS = 2.0
"""Promise 4: with a doorbell or the broker lost, work goes on within this time."""
LOCKS_LOST_SECONDS = 5.0
"""`idle_in_transaction_session_timeout` of the engine, and the patience of `signalbox up` with a frozen writer."""
START_SECONDS = 20.0
"""How long a member may take to be back: the longest pause of its supervisor, and its start."""
GIVE_UP_SECONDS = 90.0
SAMPLE_SECONDS = 1.0
TRIES = 4
"""So many cards are tried a turn: each costs a question or two."""
WITH_BROKER = ("absent broker", "doubled messages", "dropped messages")
"""Kinds of which one at a time is dealt."""
HARMLESS = ("doubled messages", "open transaction")
"""Kinds that delay nothing: what falls beside them counts as alone."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How long what lasts lasts, and the pause between two blows, all in seconds."""

    pause: tuple[float, float]
    outage: float
    transaction: float
    messages: float


SHORT = Pace(pause=(0.1, 0.6), outage=3.0, transaction=5.0, messages=3.0)
LONG = Pace(pause=(0.5, 3.0), outage=20.0, transaction=60.0, messages=15.0)


@dataclass
class Blow:
    """One blow that was dealt: `ended` is None while it lasts or its victim is not back yet."""

    kind: str
    bound: float
    began: float = field(default_factory=time.monotonic)
    ended: float | None = None

    def overlaps(self, since: float, until: float) -> bool:
        return self.began < until and (self.ended is None or self.ended > since)


@dataclass
class _Lasting:
    """A blow that lasts until an instant, and how it is ended."""

    blow: Blow
    until: float
    end: Callable[[], None]


@dataclass
class _Hurt:
    """A member that is being brought back, and what waits for it."""

    blow: Blow
    member: str
    watches: list[Watch]
    killed: int | None = None
    """The pid that must have gone; None where the same process goes on."""
    is_frozen: bool = False
    since: float = field(default_factory=time.monotonic)
    """The blow, or its end: from here on somebody could bring it back."""


class Driver(ABC):
    """Hurts a site for `seconds` while callers speak to it, then lets go of everything."""

    def __init__(
        self,
        site: Site,
        callers: Callers,
        target: Amounts,
        slowdown: Slowdown,
        *,
        seconds: float,
        seed: int,
        pace: Pace,
    ) -> None:
        self.site = site
        self.slowdown = slowdown
        self.target = target
        self.callers = callers
        self.seconds = seconds
        self.pace = pace
        self.chance = random.Random(seed)
        self.blows: list[Blow] = []
        self.recoveries: list[Recovery] = []
        self.stalled: set[str] = set()
        self.samples = 0
        self._watches: list[tuple[Blow, Watch]] = []
        self._lasting: list[_Lasting] = []
        self._hurt: list[_Hurt] = []
        self._away: list[tuple[float, float]] = []
        self._deck = list(self.certain)
        self._sampled = self._dealt = time.monotonic()
        self._pause = 0.0
        self._until = 0.0

    @property
    @abstractmethod
    def kinds(self) -> Mapping[str, Callable[[], bool]]:
        """What can be dealt: by name, a function that answers False where that is not possible now."""

    @property
    def certain(self) -> Mapping[str, str]:
        """Cards that are dealt before all others, and the kinds of blow that they are."""
        return {}

    def counts(self) -> dict[str, int]:
        """What else was counted."""
        return {"calls_refused": self.target.refused}

    # -- the run ---------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Let the callers begin, hurt the site until the time is over, wait for recovery and for the last story."""
        self._until = time.monotonic() + self.seconds
        self.callers.begin()
        bound = self.seconds + 2 * GIVE_UP_SECONDS + self.pace.transaction
        wait_until(self._turn, what="every blow to be got over and every story to be told", seconds=bound)

    def settle(self, *, seconds: float) -> None:
        """Wait until every instance is final or deleted; what is not by then, the judgement calls stuck."""
        began = time.monotonic()

        def settled() -> bool:
            self._look_after()
            unfinished = sum(
                number
                for status, number in (self._statuses() or {"unknown": 1}).items()
                if status not in ("completed", "cancelled")
            )
            due = ask(self.site.cluster.database, count_due) if not unfinished else None
            return due == 0 or time.monotonic() - began > seconds * crowd()

        wait_until(settled, what="every instance to be final or deleted", seconds=10 * seconds)

    def wait_for(self, condition: Callable[[], bool], *, what: str) -> None:
        """Wait for what others do, and keep the site up meanwhile."""

        def holds() -> bool:
            self._look_after()
            return condition()

        wait_until(holds, what=what, seconds=2 * GIVE_UP_SECONDS)

    def _statuses(self) -> dict[str, int] | None:
        query = "SELECT status, count(*) FROM instances GROUP BY status"
        rows = ask(self.site.cluster.database, lambda tx: list(tx.exec_driver_sql(query)))
        return None if rows is None else {row[0]: row[1] for row in rows}

    def _turn(self) -> bool:
        self._look_after()
        now = time.monotonic()
        if now < self._until:
            self._deal(now)
            return False
        for lasting in list(self._lasting):
            lasting.until = now
        return not (self._lasting or self._hurt or self._watches) and self.callers.are_done

    def _look_after(self) -> None:
        self.site.tick()
        self._end_what_is_over()
        self._bring_back()
        self._look()
        self._sample()
        if self.callers.errors:
            raise self.callers.errors[0]

    def _deal(self, now: float) -> None:
        """Deal the next card that can be played; cards that cannot go back into the deck."""
        if now - self._dealt < self._pause:
            return
        if (
            len(self._deck) <= len(self.kinds) // 2
        ):  # not only when it is empty: some cards wait for others to end
            self._deck += self.chance.sample(list(self.kinds), len(self.kinds))
        for card in self._deck[:TRIES]:
            self._deck.remove(card)
            if self.kinds[card]():
                self._dealt = time.monotonic()
                self._pause = self.chance.uniform(*self.pace.pause)
                return
            self._deck.append(card)

    # -- what every turn looks after ---------------------------------------------------------------------------------

    def _end_what_is_over(self) -> None:
        now = time.monotonic()
        for lasting in [one for one in self._lasting if one.until <= now]:
            self._lasting.remove(lasting)
            lasting.end()
            lasting.blow.ended = lasting.blow.ended or time.monotonic()

    def _bring_back(self) -> None:
        """Notice which victims work again: only from then on can they be hurt, and what waits for them be taken up."""
        for hurt in [one for one in self._hurt if not one.is_frozen]:
            process = self.site.process(hurt.member)
            if process is None or process.pid == hurt.killed or not self.site.is_ready(hurt.member):
                continue
            self._hurt.remove(hurt)
            hurt.blow.ended = now = time.monotonic()
            for watch in hurt.watches:
                watch.since = watch.since or now
            if self.site.roles[hurt.member] == "api":
                back = Watch(
                    hurt.blow.kind, Touched(), START_SECONDS, hurt.since, struck=hurt.since, ended=now
                )
                self._conclude(hurt.blow, back)

    def _look(self) -> None:
        for blow, watch in list(self._watches):
            is_over = watch.look(self.site.cluster.database)
            if not is_over and time.monotonic() - watch.struck > GIVE_UP_SECONDS:
                watch.since = watch.since or watch.struck
                watch.ended = time.monotonic()
                is_over = True
            if is_over:
                self._watches.remove((blow, watch))
                self._conclude(blow, watch)

    def _conclude(self, blow: Blow, watch: Watch) -> None:
        since, until = watch.struck, watch.ended or time.monotonic()
        others = [one for one in self.blows if one is not blow and one.kind not in HARMLESS]
        others = [one for one in others if one.overlaps(since, until)]
        away = sum(max(0.0, min(until, end) - max(since, begin)) for begin, end in self._away)
        bound = max([watch.bound, *(other.bound for other in others)]) + away
        among_others = bool(others)
        left = str(watch.touched) if watch.touched else ""
        self.recoveries.append(
            Recovery(
                blow.kind,
                watch.struck,
                watch.seconds,
                watch.cleared,
                bound * self.slowdown.between(since, until),
                among_others,
                left,
            )
        )

    def _sample(self) -> None:
        """Promise 6, at any moment: nobody waits for nothing."""
        now = time.monotonic()
        if now - self._sampled < SAMPLE_SECONDS:
            return
        self._sampled = now
        found = ask(self.site.cluster.database, stalled_instances)
        if found is not None:
            self.samples += 1
            self.stalled |= set(found)

    # -- parts of blows ------------------------------------------------------------------------------------------------

    def begin(self, kind: str, bound: float) -> Blow:
        blow = Blow(kind, bound)
        self.blows.append(blow)
        return blow

    def watch(self, blow: Blow, touched: Touched | None, *, since: float | None) -> Watch | None:
        """Watch what a blow touched, if that was anything."""
        if not touched:
            return None
        watch = Watch(blow.kind, touched, blow.bound, since)
        self._watches.append((blow, watch))
        return watch

    def touched(self, question: Callable[..., Touched], *about: object) -> Touched | None:
        return ask(self.site.cluster.database, lambda tx: question(tx, *about))

    def last(self, blow: Blow, seconds: float, end: Callable[[], None]) -> None:
        self._lasting.append(_Lasting(blow, time.monotonic() + seconds, end))

    def is_lasting(self, *kinds: str) -> bool:
        return any(one.blow.kind in kinds for one in self._lasting)

    def pick(self, role: Role) -> str | None:
        """A member that may be hurt: none of its role is hurt already."""
        members = self.site.members(role)
        if any(one.member in members for one in self._hurt):
            return None
        ready = [member for member in members if self.site.is_ready(member)]
        return self.chance.choice(ready) if len(ready) == len(members) else None

    def kill(self, role: Role) -> bool:
        """SIGKILL to one process of a role."""
        member = self.pick(role)
        family = self.site.family(member) if member else []
        if member is None or not family or not self._is_busy(role, family[0].pid):
            return False
        has_twin = len(self.site.members(role)) > 1
        blow = self.begin(f"killed {role}", self.site.lease + WAKE_SECONDS)
        # Of the API the server or the one behind it; of a worker the one that its row names.
        victim = self.chance.choice(family) if role == "api" else family[0]
        victim.kill()
        watch = self.watch(
            blow, self._touched_by(role, family[0].pid), since=time.monotonic() if has_twin else None
        )
        wait_until(lambda: not runs(victim), what=f"{victim} to be gone", seconds=10)
        killed = victim.pid if victim == family[0] else None
        self._hurt.append(_Hurt(blow, member, [watch] if watch else [], killed))
        return True

    def restart(self, role: Role) -> bool:
        """SIGTERM to a member, which its supervisor starts again: what a deployment does. No worse than a kill."""
        member = self.pick(role)
        process = self.site.process(member) if member else None
        if member is None or process is None or not self._is_busy(role, process.pid):
            return False
        has_twin = len(self.site.members(role)) > 1
        blow = self.begin(f"restarted {role}", self.site.lease + WAKE_SECONDS)
        self.site.told.add(process.pid)
        process.terminate()
        watch = self.watch(
            blow, self._touched_by(role, process.pid), since=time.monotonic() if has_twin else None
        )
        self._hurt.append(_Hurt(blow, member, [watch] if watch else [], process.pid))
        return True

    def freeze(self, role: Role) -> bool:
        """SIGSTOP to a member until its lease is over, then SIGCONT."""
        member = self.pick(role)
        family = self.site.family(member) if member else []
        if member is None or not family or not self._is_busy(role, family[0].pid):
            return False
        has_twin = len(self.site.members(role)) > 1
        blow = self.begin(f"frozen {role}", self.site.lease + WAKE_SECONDS)
        for process in family:
            process.suspend()
        seconds = self.site.lease + self.chance.uniform(0.5, 1.5)
        match self.what_it_stands_in(member):
            case "idle transaction":
                blow.bound = max(self.site.lease, LOCKS_LOST_SECONDS) + WAKE_SECONDS
            case "unfinished sending":  # its locks last until it thaws, or for 30 s
                blow.bound = seconds + WAKE_SECONDS
        watch = self.watch(
            blow, self._touched_by(role, family[0].pid), since=time.monotonic() if has_twin else None
        )
        hurt = _Hurt(blow, member, [watch] if watch else [], is_frozen=True)
        self._hurt.append(hurt)

        def thaw() -> None:
            for process in family:
                if runs(process):
                    process.resume()
            hurt.is_frozen = False
            hurt.since = time.monotonic()

        self.last(blow, seconds, thaw)
        return True

    def what_it_stands_in(self, member: str) -> Inside | None:
        """What a frozen member was in the middle of, with locks that others may wait for."""
        return None

    def _touched_by(self, role: Role, pid: int) -> Touched | None:
        match role:
            case "orchestrator":
                return self.touched(Touched.by_orchestrator)
            case "task-runner":
                return self.touched(Touched.by_task_runner, pid)
            case _:
                return None

    def _is_busy(self, role: Role, pid: int) -> bool:
        """Whether a blow would hit anything: one that hits an idle worker says nothing."""
        return role in ("api", "broker") or bool(self._touched_by(role, pid))

    def is_anything_waiting(self) -> bool:
        return bool(self.touched(Touched.by_lost_wake_ups))

    def hold_transaction(self) -> bool:
        """A stranger reads in a transaction and does not end it."""
        if self.is_lasting("open transaction") or not self.is_anything_waiting():
            return False
        blow = self.begin("open transaction", WAKE_SECONDS)
        held = self.site.hold_transaction()
        self.watch(blow, self.touched(Touched.by_lost_wake_ups), since=time.monotonic())
        self.last(blow, self.pace.transaction, held.close)
        return True

    def take_target_down(self) -> bool:
        """What HTTP tasks call refuses every call for a while; afterwards those go on that waited."""
        if self.target.is_down:
            return False
        before = self.target.refused
        # Tasks that others touch may have to wait for all of it.
        blow = self.begin("target down", self.pace.outage + COOL_DOWN_SECONDS + WAKE_SECONDS)
        self.target.is_down = True

        def end() -> None:
            now = time.monotonic()
            if self.target.refused - before < ENOUGH_REFUSED and now - blow.began < LONGEST_DOWN_SECONDS:
                self.last(blow, 0.5, end)
                return
            self.target.is_down = False
            blow.ended = now
            watch = self.watch(blow, self.touched(Touched.by_target), since=time.monotonic())
            if watch is not None:
                watch.bound = COOL_DOWN_SECONDS + WAKE_SECONDS

        self.last(blow, self.pace.outage, end)
        return True

    def be_away(self, began: float) -> None:
        """Note that the database, or everything, was away from `began` until now, with a second for the workers' rest."""
        self._away.append((began, time.monotonic() + 1.0))


class ProductionDriver(Driver):
    """What can be done to `Production`."""

    site: Production

    @property
    def kinds(self) -> Mapping[str, Callable[[], bool]]:
        return {
            "kill api": lambda: self.kill("api"),
            "kill orchestrator": lambda: self.kill("orchestrator"),
            "kill task-runner": lambda: self.kill("task-runner"),
            "restart api": lambda: self.restart("api"),
            "restart orchestrator": lambda: self.restart("orchestrator"),
            "restart task-runner": lambda: self.restart("task-runner"),
            "freeze api": lambda: self.freeze("api"),
            "freeze orchestrator": lambda: self.freeze("orchestrator"),
            "freeze task-runner": lambda: self.freeze("task-runner"),
            "flush broker": self._flush,
            "stop broker": self._stop_broker,
            "restart database": self._restart_database,
            "double messages": lambda: self._change_messages("doubled messages"),
            "drop messages": lambda: self._change_messages("dropped messages"),
            "hold transaction": self.hold_transaction,
            "take target down": self.take_target_down,
        }

    def counts(self) -> dict[str, int]:
        relayed = self.site.relay.counts
        return super().counts() | {
            "messages_doubled": relayed.doubled,
            "messages_dropped": relayed.dropped,
            "messages_passed": relayed.passed,
            "calls_dropped": relayed.dropped_calls,
        }

    def what_it_stands_in(self, member: str) -> Inside | None:
        return self.site.what_it_stands_in(member)

    def _flush(self) -> bool:
        if self.is_lasting("absent broker") or not self.is_anything_waiting():
            return False
        blow = self.begin("flushed broker", WAKE_SECONDS)
        touched = self.touched(Touched.by_lost_wake_ups)
        self.site.valkey.flush()
        self.watch(blow, touched, since=time.monotonic())
        blow.ended = time.monotonic()
        return True

    def _stop_broker(self) -> bool:
        if self.is_lasting(*WITH_BROKER) or not self.is_anything_waiting():
            return False
        blow = self.begin("absent broker", WAKE_SECONDS)
        stop = self.chance.choice([self.site.valkey.stop, self.site.valkey.kill])
        stop()
        self.watch(blow, self.touched(Touched.by_lost_wake_ups), since=time.monotonic())
        self.last(blow, self.pace.outage, self.site.valkey.start)
        return True

    def _restart_database(self) -> bool:
        if not self.is_anything_waiting():
            return False
        blow = self.begin("restarted database", self.site.lease + WAKE_SECONDS)
        touched = self.touched(Touched.by_lost_wake_ups)
        self.site.restart_postgres()
        self.be_away(blow.began)
        for lasting in self._lasting:
            if lasting.blow.kind == "open transaction":  # this has ended it
                lasting.until = lasting.blow.ended = time.monotonic()
        self.watch(blow, touched, since=time.monotonic())
        blow.ended = time.monotonic()
        return True

    def _change_messages(self, kind: str) -> bool:
        if self.is_lasting(*WITH_BROKER) or not self.is_anything_waiting():
            return False
        blow = self.begin(kind, WAKE_SECONDS)
        self.site.relay.mode = "double" if kind == "doubled messages" else "drop"
        self.watch(blow, self.touched(Touched.by_lost_wake_ups), since=time.monotonic())

        def end() -> None:
            self.site.relay.mode = "pass"

        self.last(blow, self.pace.messages, end)
        return True


class EmbeddedDriver(Driver):
    """What can be done to `signalbox up`. There is one process for each role, so blows fall one after the other."""

    site: Embedded

    @property
    def kinds(self) -> Mapping[str, Callable[[], bool]]:
        alone: Mapping[str, Callable[[], bool]] = {
            "kill api": lambda: self.kill("api"),
            "kill orchestrator": lambda: self.kill("orchestrator"),
            "kill task-runner": lambda: self.kill("task-runner"),
            "kill broker": self._kill_broker,
            "kill up": self._kill_up,
            "restart up": self._restart_up,
            "restart api": lambda: self.restart("api"),
            "restart orchestrator": lambda: self.restart("orchestrator"),
            "restart task-runner": lambda: self.restart("task-runner"),
            "freeze api": lambda: self.freeze("api"),
            "freeze orchestrator": lambda: self.freeze("orchestrator"),
            "freeze task-runner": lambda: self.freeze("task-runner"),
            "freeze writer": self._freeze_writer,
            "flush broker": self._flush,
        }
        one_by_one = {kind: self._when_calm(deal) for kind, deal in alone.items()}
        return {
            **one_by_one,
            "hold transaction": self.hold_transaction,
            "take target down": self.take_target_down,
        }

    @property
    def certain(self) -> Mapping[str, str]:
        """In the long form both ends of `up`: each takes the time of several others, and would often not have its turn."""
        return {"restart up": "restarted up", "kill up": "killed up"} if self.pace == LONG else {}

    def _when_calm(self, deal: Callable[[], bool]) -> Callable[[], bool]:
        return lambda: not (self._hurt or self._watches) and deal()

    def _flush(self) -> bool:
        if not (self.site.is_ready("broker") and self.is_anything_waiting()):
            return False
        blow = self.begin("flushed broker", WAKE_SECONDS)
        touched = self.touched(Touched.by_lost_wake_ups)
        with redis.Redis.from_url(self.site.broker_url) as client:
            client.flushall()
        self.watch(blow, touched, since=time.monotonic())
        blow.ended = time.monotonic()
        return True

    def _kill_broker(self) -> bool:
        process = self.site.process("broker")
        if process is None:
            return False
        blow = self.begin("killed broker", WAKE_SECONDS)
        process.kill()
        self.watch(blow, self.touched(Touched.by_lost_wake_ups), since=time.monotonic())
        self._hurt.append(_Hurt(blow, "broker", [], process.pid))
        return True

    def _kill_up(self) -> bool:
        return self._begin_anew("killed up", self.site.kill_up)

    def _restart_up(self) -> bool:
        return self._begin_anew("restarted up", self.site.restart_up)

    def _begin_anew(self, kind: str, end_and_start: Callable[[], None]) -> bool:
        """End everything, one way or the other, and start it again."""
        if any(not self.site.is_ready(member) for member in self.site.roles):
            return False
        blow = self.begin(kind, self.site.lease + WAKE_SECONDS)
        touched = self.touched(Touched.by_lost_wake_ups)
        end_and_start()
        self.be_away(blow.began)
        self.watch(blow, touched, since=time.monotonic())
        blow.ended = time.monotonic()
        return True

    def _freeze_writer(self) -> bool:
        """Freeze whoever holds SQLite's write lock: nobody else can write, until `up` kills it."""
        roles: Sequence[Role] = ("orchestrator", "task-runner")
        members = {member: self.site.process(member) for role in roles for member in self.site.members(role)}
        pids = {process.pid: member for member, process in members.items() if process is not None}
        frozen = freeze_holder(self.site.database_path, list(pids))
        if frozen is None:
            return False
        blow = self.begin("frozen writer", LOCKS_LOST_SECONDS + self.site.lease + WAKE_SECONDS)
        watch = self.watch(blow, self.touched(Touched.by_lost_wake_ups), since=None)
        self._hurt.append(_Hurt(blow, pids[frozen], [watch] if watch else [], frozen))
        return True


def tally(blows: Sequence[Blow]) -> dict[str, int]:
    """How many blows of each kind fell."""
    return dict(Counter(blow.kind for blow in blows))
