"""Limits of running tasks: who may run at once, how often one starts, and who is next."""

from datetime import timedelta
from typing import Any

from common.commands.limits import Runs, look
from common.db.now import read_now
from common.db.tables import Source
from common.lifecycle import InstanceStatus
from common.store import limits
from common.store.claims import TaskClaim
from common.store.limits import Figures, LimitKey, Rate
from common.task_error import TaskError
from orchestrator.sweep import expire_due_leases
from task_runner.call import ended
from tests.integration.engine.documents import one_task
from tests.support.engine import Engine
from tests.support.manual_clock import ManualClock

THREE = {"key": "crm", "maxRunning": 3}


def set_limit(engine: Engine, key: str, *, running: int | None = None, rate: Rate | None = None) -> None:
    with engine.database.transaction() as tx:
        name, figures = LimitKey(engine.tenant_id, key), Figures(running, rate)
        limits.put(tx, name, figures, source=Source.API, updated_by="test", now=read_now(tx))


def stored(engine: Engine) -> dict[str, tuple[str, Figures]]:
    with engine.database.reading() as tx:
        found = limits.list_limits(tx, engine.tenant_id, after=None, limit=10)
    return {one.key: (one.source.value, one.figures) for one in found}


def start(engine: Engine, count: int, kind: str = "work", *, document: Any = None, **task: Any) -> list[str]:
    """So many instances with a task each."""
    engine.handler(kind, lambda _input, _context: None)
    key = engine.apply(document or one_task(kind, **task))
    started = [str(engine.start(key)) for _ in range(count)]
    engine.advance()
    return started


def finish(engine: Engine, *claims: TaskClaim) -> None:
    engine.report(*[engine.succeeded(claim) for claim in claims])


def names(claims: list[TaskClaim]) -> list[str]:
    return sorted(claim.name for claim in claims)


# -- how many run -------------------------------------------------------------------------------------------------


def test_of_a_limited_type_no_more_run_than_its_limit(engine: Engine) -> None:
    set_limit(engine, "type:work", running=3)
    start(engine, 5)

    claimed = engine.claim()

    assert len(claimed) == 3
    assert engine.claim() == []
    finish(engine, claimed[0])
    assert len(engine.claim()) == 1
    assert engine.claim() == []


def test_the_ordinary_claim_leaves_limited_tasks_alone(engine: Engine) -> None:
    set_limit(engine, "type:work", running=3)
    start(engine, 1)
    start(engine, 1, "other", limit=THREE)
    start(engine, 1, "free")

    assert [claim.type for claim in engine.claim_unlimited()] == ["free"]


def test_tasks_of_a_definition_s_key_share_its_places(engine: Engine) -> None:
    key = {"key": "customer-${1 + 1}", "maxRunning": "${2}"}
    start(engine, 2, "work", limit=key)
    start(engine, 2, "other", limit=key)

    assert len(engine.claim()) == 2
    assert engine.claim() == []
    assert stored(engine) == {"key:customer-2": ("definition", Figures(2))}


def test_a_task_under_two_limits_fits_under_both(engine: Engine) -> None:
    set_limit(engine, "type:work", running=1)
    start(engine, 3, "work", limit=THREE)
    start(engine, 3, "other", limit=THREE)
    start(engine, 2, "work")

    claimed = engine.claim()

    assert sorted(claim.type for claim in claimed) == ["other", "other", "work"]
    assert engine.claim() == []


def test_who_does_not_fit_hides_nobody(engine: Engine) -> None:
    start(engine, 3, "work", limit={"key": "a", "maxRunning": 1}, priority=9)
    start(engine, 2, "work", limit={"key": "b", "maxRunning": 1})

    claimed = engine.claim()

    assert len(claimed) == 2
    finish(engine, *claimed)
    assert len(engine.claim(limit=1)) == 1
    assert len(engine.claim()) == 1


def test_inside_a_key_the_more_urgent_come_first(engine: Engine) -> None:
    for priority in (1, 5, 3):
        start(engine, 1, name=f"p{priority}", limit={"key": "crm", "maxRunning": 1}, priority=priority)

    order = []
    while claimed := engine.claim():
        order += names(claimed)
        finish(engine, *claimed)

    assert order == ["p5", "p3", "p1"]


def test_more_keys_than_one_look_goes_through_all_have_their_turn(engine: Engine, monkeypatch: Any) -> None:
    monkeypatch.setattr("common.commands.limits.KEYS_AT_ONCE", 2)
    for key in "abcde":
        start(engine, 1, limit={"key": key, "maxRunning": 1}, name=key)
    runs, after, seen = Runs(["work"], []), None, []
    for _ in range(3):
        with engine.database.reading() as tx:
            found = look(tx, runs, after=after)
        seen += [name.key for name in found.fitting]
        after = found.after

    assert seen == [f"key:{key}" for key in "abcde"]
    assert after is None


def test_the_items_of_a_map_share_the_places_of_their_key(engine: Engine) -> None:
    engine.handler("work", lambda _input, _context: None)
    each = {"type": "work", "limit": {"key": "m", "maxRunning": 2}}
    instance = engine.start(one_task("MAP", input={"items": [1, 2, 3, 4, 5], "task": each}))
    engine.advance()

    claimed = engine.claim()
    assert len(claimed) == 2
    assert engine.claim() == []
    finish(engine, *claimed)
    engine.settle()
    assert engine.status(instance) is InstanceStatus.COMPLETED


# -- giving back --------------------------------------------------------------------------------------------------


def test_a_cancelled_task_gives_its_place_back(engine: Engine) -> None:
    started = start(engine, 2, limit={"key": "crm", "maxRunning": 1})
    [claimed] = engine.claim()

    engine.control("cancel", claimed.instance_id)
    engine.advance()

    assert [claim.instance_id for claim in engine.claim()] == [
        one for one in started if one != claimed.instance_id
    ]


def test_a_task_that_waits_for_its_next_attempt_gives_its_place_back(engine: Engine) -> None:
    start(engine, 2, limit={"key": "crm", "maxRunning": 1}, retry={"interval": "1h"})
    [first] = engine.claim()
    engine.report(ended(first, error=TaskError("crm.busy", "not now")))

    [second] = engine.claim()

    assert second.instance_id != first.instance_id


def test_a_lost_lease_gives_its_place_back(engine: Engine, clock: ManualClock) -> None:
    start(engine, 2, limit={"key": "crm", "maxRunning": 1})
    [lost] = engine.claim()
    assert engine.claim() == []

    clock.advance(timedelta(seconds=9))
    expire_due_leases(engine.database)

    assert len(engine.claim()) == 1
    assert engine.claim() == []
    finish(engine, lost)  # late: it holds nothing, and gives nothing back
    assert engine.claim() == []


# -- rates --------------------------------------------------------------------------------------------------------


def test_no_more_start_than_there_are_tokens(engine: Engine, clock: ManualClock) -> None:
    set_limit(engine, "type:work", rate=Rate(count=10, per_ms=1_000, burst=2))
    start(engine, 9)

    first = engine.claim()
    assert len(first) == 2
    finish(engine, *first)
    assert engine.claim() == []  # a token is not given back

    clock.advance(timedelta(milliseconds=100))
    assert len(engine.claim()) == 1
    clock.advance(timedelta(seconds=60))
    assert len(engine.claim()) == 2


def test_a_look_tells_when_the_next_token_comes(engine: Engine, clock: ManualClock) -> None:
    start(engine, 2, limit={"key": "crm", "rate": {"count": 4, "per": "1s", "burst": 1}})
    engine.claim()
    clock.advance(timedelta(milliseconds=50))

    with engine.database.reading() as tx:
        seen = look(tx, Runs(["work"], []), after=None)

    assert seen.fitting == []
    assert seen.token_in == 0.2


def test_a_new_burst_keeps_the_tokens_and_a_new_rate_fills_the_bucket(
    engine: Engine, clock: ManualClock
) -> None:
    set_limit(engine, "type:work", rate=Rate(10, 1_000, 5))
    start(engine, 20)
    assert len(engine.claim()) == 5

    set_limit(engine, "type:work", rate=Rate(10, 1_000, 8))
    assert engine.claim() == []
    set_limit(engine, "type:work", rate=Rate(20, 1_000, 3))
    assert len(engine.claim()) == 3


# -- whose word counts --------------------------------------------------------------------------------------------


def test_an_operator_s_limit_wins_over_a_definition_s(engine: Engine) -> None:
    set_limit(engine, "key:crm", running=1)
    start(engine, 3, limit=THREE)

    assert stored(engine) == {"key:crm": ("api", Figures(1))}
    assert len(engine.claim()) == 1


def test_a_definition_that_says_otherwise_changes_its_limit(engine: Engine) -> None:
    start(engine, 1, limit=THREE)
    start(engine, 1, limit={"key": "crm", "rate": {"count": 2, "per": "1m"}})

    assert stored(engine) == {"key:crm": ("definition", Figures(None, Rate(2, 60_000, 2)))}


def test_without_its_row_a_task_is_not_limited(engine: Engine) -> None:
    start(engine, 5, limit=THREE)
    with engine.database.transaction() as tx:
        assert limits.delete_limit(tx, LimitKey(engine.tenant_id, "key:crm"))

    assert len(engine.claim()) == 5


def test_the_limits_of_another_tenant_do_not_count(engine: Engine) -> None:
    other = Engine.on(engine.database, "other")
    set_limit(other, "type:work", running=1)
    start(engine, 2)
    start(other, 2)

    claimed = engine.claim()

    assert sorted(claim.tenant_id for claim in claimed).count(engine.tenant_id) == 2
    assert len(claimed) == 3


def test_a_limit_that_makes_no_sense_when_it_is_computed_is_an_error_of_the_step(engine: Engine) -> None:
    document = one_task("work", limit={"key": "crm", "maxRunning": "${0}"})
    document["states"]["working"]["on"]["error.execution"] = "done"
    [instance] = start(engine, 1, document=document)

    assert engine.status(instance) is InstanceStatus.COMPLETED
    assert stored(engine) == {}
