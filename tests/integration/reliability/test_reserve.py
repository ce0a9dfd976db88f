"""An orchestrator in reserve: called amid a crowd alone, it steps beside the first, hands back, and takes over from one that is gone."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from common import faults
from common.commands.start import Start, start_instance
from common.config import Limits, Settings
from common.db import Database
from common.ids import InstanceId
from common.lifecycle import InstanceStatus
from common.queues import doorbell
from orchestrator import duty
from orchestrator import reserve as reserve_module
from orchestrator.advance import advance_ready
from orchestrator.advancing import Advancing
from orchestrator.duty import Orchestrator
from orchestrator.laps import BATCH, Sweep
from orchestrator.passed import Pass
from orchestrator.reserve import RELIEF
from tests.integration.engine.documents import COUNTER
from tests.support.engine import Engine
from tests.support.waiting import wait_until

MANY = 6 * BATCH.alone
TIMED = {
    "id": "timed",
    "initial": "waits",
    "states": {"waits": {"after": {"400": "over"}}, "over": {"type": "final"}},
}
"""It waits longer than a call to who is in reserve is good for."""
NEVER, SELDOM, SOON = 0.0, 60.0, 0.2
"""Seconds between the looks of an orchestrator by itself."""


class Site:
    """Orchestrators of one database and one broker, in this process; how many instances each has stepped."""

    def __init__(self, url: str, broker: str, ending: ExitStack) -> None:
        self._url, self._broker, self._ending = url, broker, ending
        self.stepped: Counter[str] = Counter()
        self._names: dict[int, str] = {}
        database = Database.open(url)
        ending.callback(database.dispose)
        self.engine = Engine.on(database)
        self.key = self.engine.apply(COUNTER)
        bells = doorbell.attach(database, self._settings(NEVER))
        assert bells is not None
        ending.callback(bells.close)

    def _settings(self, look_seconds: float, *, reserve: bool = False) -> Settings:
        return Settings.load(
            database_url=self._url, redis_url=self._broker, look_seconds=look_seconds, reserve=reserve
        )

    def begin(self, name: str, look_seconds: float, *, reserve: bool = False) -> Orchestrator:
        """Start one, and end it after the test."""
        one = Orchestrator(self._settings(look_seconds, reserve=reserve))
        self._names[id(one.advancing)] = name
        one.start()
        for end in (one.database.dispose, one.drain, one.begin_drain):
            self._ending.callback(end)
        return one

    def drain(self, advancing: Advancing, *, until: float, sweep: Sweep | None = None) -> Pass:
        """What `advance_ready` does, noted."""
        done = advance_ready(advancing, until=until, sweep=sweep)
        self.stepped[self._names[id(advancing)]] += done.instances
        return done

    def start_together(self, count: int) -> None:
        """So many at once, by one commit and one ring."""
        engine = self.engine
        with engine.database.transaction() as tx:
            for _ in range(count):
                start_instance(
                    tx, engine.tenant_id, Start(definition_key=self.key), actor="test", limits=Limits()
                )

    def await_started(self, count: int) -> None:
        """Until so many have taken their first step."""
        status = InstanceStatus.WAITING.value

        def started() -> int:
            return int(self.engine.execute(f"SELECT count(*) FROM instances WHERE status = '{status}'")[0][0])

        wait_until(lambda: started() == count, what=f"{count} instances to be stepped", seconds=60)

    def await_seen(self, instance_id: InstanceId, seen: list[int]) -> None:
        wait_until(
            lambda: self.engine.snapshot(instance_id).get("context", {}).get("seen") == seen,
            what="an event to be stepped",
            seconds=20,
        )


@pytest.fixture
def site(postgres_url: str, valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with ExitStack() as ending:
        one = Site(postgres_url, valkey_url, ending)
        monkeypatch.setattr(duty, "advance_ready", one.drain)
        ending.callback(faults.disarm)
        yield one


def test_amid_a_crowd_it_steps_beside_the_first(site: Site) -> None:
    site.begin("first", SELDOM)
    site.begin("reserve", NEVER, reserve=True)
    faults.arm("in_step", lambda: time.sleep(0.001))

    site.start_together(MANY)

    site.await_started(MANY)
    wait_until(lambda: site.stepped["first"] and site.stepped["reserve"], what="both to have stepped some")
    assert site.engine.execute("SELECT count(*) FROM history")[0][0] == MANY, "each once"


def test_what_one_can_do_is_the_first_ones_alone(site: Site) -> None:
    site.begin("first", SELDOM)
    site.begin("reserve", NEVER, reserve=True)

    site.start_together(BATCH.alone)
    for _ in range(20):
        site.engine.start(site.key)

    site.await_started(BATCH.alone + 20)
    assert site.stepped["reserve"] == 0


def test_where_the_first_is_gone_it_finds_everything_by_itself(site: Site) -> None:
    site.begin("reserve", SOON, reserve=True)

    site.start_together(MANY)
    site.await_started(MANY)


def test_a_crowd_is_stepped_to_its_end_however_long_a_batch_takes(site: Site) -> None:
    """Nobody else is there, and it looks by itself once."""
    reserve = site.begin("reserve", NEVER, reserve=True)
    faults.arm("before_commit", lambda: time.sleep(2 * RELIEF))
    site.start_together(MANY)

    reserve._relieve()

    site.await_started(MANY)


def test_what_came_for_those_that_it_held_is_not_left_lying(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first passed them by, because they were locked, and sleeps: nobody else would look for a minute."""
    monkeypatch.setattr(reserve_module, "DRAINS", 1)
    held, go_on, is_in_reserve = threading.Event(), threading.Event(), threading.Event()

    def step() -> None:
        if not is_in_reserve.is_set():
            is_in_reserve.set()
            held.set()
            assert go_on.wait(30)

    reserve = site.begin("reserve", NEVER, reserve=True)
    instance_id = site.engine.start(site.key)
    faults.arm("in_step", step)
    reserve._relieve()
    assert held.wait(20)
    site.begin("first", SELDOM)

    site.engine.send(instance_id, "ADD", n=7)
    time.sleep(2 * RELIEF)  # its call is over, and the first has looked
    go_on.set()

    site.await_seen(instance_id, [7])
    wait_until(lambda: site.stepped["first"] > 0, what="the first to have stepped it")


def test_a_process_that_ends_saves_what_it_has_stepped(site: Site) -> None:
    """A drain that is to go on leaves its last batch to be saved; the end of the process waits for it."""
    reserve = site.begin("reserve", NEVER, reserve=True)
    site.start_together(MANY)
    is_saving, go_on = threading.Event(), threading.Event()

    def save() -> None:
        if threading.current_thread().name == "behind":
            is_saving.set()
            assert go_on.wait(30)

    faults.arm("before_commit", save)
    reserve._relieve()
    assert is_saving.wait(20)
    reserve.begin_drain()
    threading.Timer(1.0, go_on.set).start()

    reserve.drain()

    assert go_on.is_set(), "it has waited"
    stepped = site.engine.execute("SELECT count(*) FROM history")[0][0]
    assert stepped >= BATCH.alone
    assert stepped == MANY - site.engine.execute("SELECT count(*) FROM inbox")[0][0]


def test_what_it_has_made_ready_itself_waits_for_nobody(site: Site) -> None:
    """A timer that its step has armed is fired by it at the instant, and nobody else is rung for that."""
    key = site.engine.apply(TIMED)
    reserve = site.begin("reserve", NEVER, reserve=True)
    instance_id = site.engine.start(key)

    reserve._relieve()

    wait_until(
        lambda: site.engine.status(instance_id) is InstanceStatus.COMPLETED,
        what="the timer's event to be stepped",
        seconds=20,
    )


def test_a_doorbell_that_it_takes_is_answered(site: Site) -> None:
    """Its queue is one of its own, but who starts it may forget to name that."""
    reserve = site.begin("reserve", NEVER, reserve=True)
    site.engine.start(site.key)

    reserve.answer()

    site.await_started(1)


def test_a_place_that_it_has_given_back_is_taken_by_the_next(site: Site) -> None:
    key = site.engine.apply({**TIMED, "id": "one-at-a-time", "concurrency": {"max": 1}})
    reserve = site.begin("reserve", NEVER, reserve=True)
    started = [site.engine.start(key) for _ in range(3)]

    reserve._relieve()

    wait_until(
        lambda: all(site.engine.status(one) is InstanceStatus.COMPLETED for one in started),
        what="one after the other to end",
        seconds=30,
    )


def test_a_drain_that_fails_leaves_a_look_to_be_taken(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    reserve = site.begin("reserve", NEVER, reserve=True)

    def fail(*_: object, **__: object) -> Pass:
        raise ConnectionError("the database is away")

    monkeypatch.setattr(duty, "advance_ready", fail)
    reserve.relief.begin()
    with pytest.raises(ConnectionError):
        reserve._work(time.monotonic() + 1)

    assert reserve.relief.owes_look
