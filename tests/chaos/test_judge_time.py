"""The judges of schedules and of keeping find what they are there to find: books that do not agree with the database."""

import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from common.commands.erase import erase_instance
from common.commands.schedules import ScheduleRequest, create_schedule, pause_schedule
from common.retention import Keeping
from common.schedule import CatchUp, Overlap, ScheduleKind
from orchestrator.retention import sweep
from tests.support import chaos_handlers, chaos_keeping, chaos_ticks
from tests.support.chaos_keeping import Deed, Guest, judge_keeping
from tests.support.chaos_ticks import Ticks, judge_ticks
from tests.support.cluster import Cluster
from tests.support.engine import LIMITS
from tests.support.manual_clock import ManualClock
from tests.support.processes import Processes
from tests.support.waiting import wait_until

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
ENOUGH = timedelta(seconds=5)
NOBODY = "00000000-0000-7000-8000-000000000000"


@pytest.fixture
def cluster(tmp_path: Path, sqlite_url: str) -> Iterator[Cluster]:
    """No process is started: the engine takes its turns in this one."""
    with Cluster(Processes(tmp_path), sqlite_url) as cluster:
        cluster.engine.handler("brief.work", chaos_handlers.brief)
        for document in (chaos_ticks.CHART, chaos_keeping.CHILD, chaos_keeping.CHART):
            cluster.engine.apply(document)
        yield cluster


@pytest.fixture
def clock(cluster: Cluster) -> Iterator[ManualClock]:
    clock = ManualClock(cluster.database, NOON)
    yield clock
    clock.release()


def forge(cluster: Cluster, *statements: str) -> None:
    """Write what the engine never would: foreign keys are not looked at."""
    path = make_url(cluster.database_url).database
    assert path is not None
    with sqlite3.connect(path) as connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


# -- keeping -------------------------------------------------------------------------------------------------------


def invite(cluster: Cluster, clock: ManualClock, deed: Deed = "nothing") -> Guest:
    """Let a guest live to its end, whatever is done to it."""
    engine = cluster.engine
    guest = Guest(0, deed, 0.0, str(engine.start(chaos_keeping.KEY)))
    if deed == "cancel":
        engine.control("cancel", guest.instance_id)
        guest.answer = 202
    if deed == "erase":
        with cluster.database.transaction() as tx:
            erase_instance(
                tx, engine.tenant_id, guest.instance_id, reason=None, cancel=True, children=True, actor="test"
            )
        guest.answer = 202

    def has_ended() -> bool:
        clock.advance(timedelta(milliseconds=50))
        engine.settle()
        return engine.status(guest.instance_id) in ("completed", "cancelled")

    wait_until(has_ended, what=f"the end of {guest}")
    return guest


def expire(cluster: Cluster, clock: ManualClock) -> None:
    clock.advance(chaos_keeping.KEPT)
    sweep(cluster.database, Keeping(), rest=lambda _: False)


def faults(cluster: Cluster, *guests: Guest) -> set[str]:
    return {fault for fault, _ in judge_keeping(cluster, guests)}


def test_guests_that_went_and_guests_that_stayed_are_clean(cluster: Cluster, clock: ManualClock) -> None:
    guests = [invite(cluster, clock, deed) for deed in ("nothing", "cancel", "erase")]
    expire(cluster, clock)

    assert list(judge_keeping(cluster, guests)) == []
    assert chaos_keeping.tally(cluster) == {"deleted": 2, "erased": 1, "erased_and_deleted": 0}


def test_a_guest_whose_time_is_over_and_who_is_there_is_stuck(cluster: Cluster, clock: ManualClock) -> None:
    assert faults(cluster, invite(cluster, clock)) == {"stuck"}


def test_a_guest_who_is_nowhere_is_lost(cluster: Cluster, clock: ManualClock) -> None:
    assert faults(cluster, Guest(0, "nothing", 0.0, NOBODY)) == {"lost"}


def test_a_deletion_that_nobody_expected_is_wrong(cluster: Cluster, clock: ManualClock) -> None:
    invite(cluster, clock)
    expire(cluster, clock)

    assert faults(cluster) == {"wrong"}


def test_a_child_that_went_without_its_tombstone_is_lost(cluster: Cluster, clock: ManualClock) -> None:
    guest = invite(cluster, clock)
    expire(cluster, clock)
    forge(
        cluster, "DROP TRIGGER tombstones_refuse_delete", "DELETE FROM tombstones WHERE parent_id IS NOT NULL"
    )

    assert faults(cluster, guest) == {"lost"}


def test_who_is_there_and_buried_is_doubled(cluster: Cluster, clock: ManualClock) -> None:
    guest = invite(cluster, clock, "cancel")
    kept = "definition_key, definition_version, status, created_at, finished_at, sequence, head_hash"
    forge(
        cluster,
        f"INSERT INTO tombstones (instance_id, tenant_id, {kept}, deleted_at, reason)"
        f" SELECT id, tenant_id, {kept}, finished_at, 'forged' FROM instances",
    )

    # ... and of one that was to be kept
    assert faults(cluster, guest) == {"doubled", "wrong"}


def test_a_row_of_who_has_gone_is_wrong(cluster: Cluster, clock: ManualClock) -> None:
    gone = invite(cluster, clock)
    expire(cluster, clock)
    guest = invite(cluster, clock)
    forge(cluster, f"UPDATE timers SET instance_id = '{gone.instance_id}'")

    findings = list(judge_keeping(cluster, [gone, guest]))

    assert ("wrong", "1 rows of timers belong to nobody") in findings


def test_an_erasure_that_was_acknowledged_and_not_made_is_lost(cluster: Cluster, clock: ManualClock) -> None:
    guest = invite(cluster, clock, "cancel")
    guest.deed = "erase"

    assert faults(cluster, guest) == {"lost"}


# -- schedules -----------------------------------------------------------------------------------------------------


@pytest.fixture
def ticked(cluster: Cluster, clock: ManualClock) -> Cluster:
    """Every schedule of the suite has run for ten seconds, and is paused."""
    engine = cluster.engine
    ids = []
    with cluster.database.transaction() as tx:
        for ticker in chaos_ticks.TICKERS:
            kind = "every" if "every" in ticker.when else "cron"
            request = ScheduleRequest(
                chaos_ticks.KEY,
                ScheduleKind(kind),
                ticker.when[kind],
                name=ticker.name,
                overlap=Overlap.ALLOW,
                catch_up=CatchUp.ALL,
                jitter=ticker.body["jitter"],
            )
            ids.append(create_schedule(tx, engine.tenant_id, request, actor="test", limits=LIMITS).id)
    for _ in range(10):
        clock.advance(timedelta(seconds=1))
        engine.settle()
    with cluster.database.transaction() as tx:
        for schedule_id in ids:
            pause_schedule(tx, engine.tenant_id, schedule_id, actor="test")
    clock.advance(timedelta(seconds=1))
    engine.settle()
    return cluster


def judged(cluster: Cluster) -> Ticks:
    return judge_ticks(cluster, lateness=ENOUGH)


def found(cluster: Cluster) -> set[str]:
    return {fault for fault, _ in judged(cluster).findings}


def test_schedules_that_fired_for_each_of_their_instants_are_clean(ticked: Cluster) -> None:
    ticks = judged(ticked)

    assert list(ticks.findings) == []
    assert ticks.number >= 10 + 5 + 2
    assert timedelta(seconds=1) <= ticks.latest < timedelta(seconds=4)


def test_an_instant_that_did_not_fire_is_lost(ticked: Cluster) -> None:
    forge(ticked, "UPDATE instances SET definition_key = 'hidden' WHERE scheduled_at LIKE '%12:00:05%'")

    assert "lost" in found(ticked)


def test_an_instant_that_fired_twice_is_doubled(ticked: Cluster) -> None:
    forge(
        ticked,
        "DROP INDEX uq_instances_schedule",
        "UPDATE instances SET scheduled_at = (SELECT max(scheduled_at) FROM instances) "
        "WHERE schedule_id = (SELECT id FROM schedules WHERE name = 'every-second')",
    )

    assert "doubled" in found(ticked)


def test_a_run_for_no_instant_is_wrong(ticked: Cluster) -> None:
    forge(ticked, "UPDATE schedules SET anchor_at = (SELECT max(scheduled_at) FROM schedules)")

    assert "wrong" in found(ticked)


def test_a_schedule_that_stopped_is_stuck(ticked: Cluster) -> None:
    assert {fault for fault, _ in judge_ticks(ticked, lateness=-ENOUGH).findings} == {"stuck"}


def test_a_run_that_does_not_end_is_stuck(ticked: Cluster) -> None:
    forge(ticked, "UPDATE instances SET status = 'running', finished_at = NULL WHERE sequence > 0")

    assert found(ticked) == {"stuck"}
