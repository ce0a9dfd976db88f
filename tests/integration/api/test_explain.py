"""`explain`, by the API and the command: who is missing, what has failed and the commands that help."""

from collections.abc import Iterator
from datetime import timedelta

import pytest

from tests.integration.api.cli import Cli, served
from tests.integration.api.conftest import APPROVAL, Api
from tests.integration.api.test_handlers import arrive_with
from tests.integration.api.test_instances import CRASHING, crash
from tests.integration.engine.documents import ON_POSTGRESQL, ON_SQLITE, one_task
from tests.integration.engine.sagas import Ledger, trip
from tests.integration.store.test_holders import stranger

NO_ORCHESTRATOR = "no orchestrator is alive; start one: `signalbox worker orchestrator`"
NO_RUNNER = (
    'no living task runner takes "work"; start one: `signalbox worker task-runner`, '
    "with the module of its handler in SIGNALBOX_HANDLERS"
)


@pytest.fixture
def cli(api: Api, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cli]:
    with served(api) as url:
        yield Cli(api, url, monkeypatch)


def stepped(api: Api, document: dict[str, object]) -> str:
    """An instance of it that an orchestrator has started and no runner has worked for."""
    api.apply(document)
    instance_id = str((api.post("/instances", {"definitionKey": document["id"]}).json or {})["id"])
    api.engine.advance()
    return instance_id


def test_who_is_missing_is_told_with_the_command_that_starts_him(api: Api, cli: Cli) -> None:
    instance_id = stepped(api, one_task())
    arrive_with(api, duty="orchestrator", ago=timedelta(seconds=15))
    arrive_with(api, "work", ago=timedelta(seconds=15))

    assert api.get(f"/instances/{instance_id}/explain").json["unattended"] == [
        {"duty": "orchestrator", "type": None, "name": None, "reason": NO_ORCHESTRATOR},
        {"duty": "task-runner", "type": "work", "name": None, "reason": NO_RUNNER},
    ]
    told = cli.text("explain", instance_id).splitlines()
    assert f"  ! {NO_ORCHESTRATOR}" in told
    assert f"  ! {NO_RUNNER}" in told
    assert [line.split()[-3:] for line in cli.text("stats").splitlines() if " ago " in line] == [
        ["taken", "for", "dead"]
    ] * 2


def test_nobody_is_missing_where_living_workers_take_it(api: Api, cli: Cli) -> None:
    instance_id = stepped(api, one_task())
    arrive_with(api, duty="orchestrator")
    arrive_with(api, "work")

    assert api.get(f"/instances/{instance_id}/explain").json["unattended"] == []
    assert "nobody works" not in cli.text("explain", instance_id)
    assert "dead" not in cli.text("stats")


def test_a_function_is_missing_where_no_runner_offers_its_name(api: Api) -> None:
    instance_id = stepped(api, one_task(type="SYSTEM", name="price"))
    arrive_with(api, "other")
    arrive_with(api, duty="orchestrator")

    (missing,) = api.get(f"/instances/{instance_id}/explain").json["unattended"]
    assert missing["reason"].startswith('no living task runner takes SYSTEM tasks of the function "price"')

    arrive_with(api, "price")
    assert api.get(f"/instances/{instance_id}/explain").json["unattended"] == []


def test_nobody_is_missing_for_a_person_s_task_or_an_instance_that_has_ended(api: Api) -> None:
    person = stepped(api, {**one_task(type="HUMAN"), "id": "person"})
    arrive_with(api, duty="orchestrator")
    assert api.get(f"/instances/{person}/explain").json["unattended"] == []

    api.engine.control("cancel", person)
    api.engine.settle()
    api.engine.execute("DELETE FROM workers")
    assert api.get(f"/instances/{person}/explain").json["unattended"] == []


@ON_POSTGRESQL
def test_who_else_has_locked_it_is_named(api: Api, cli: Cli, database_url: str) -> None:
    instance_id, other = stepped(api, one_task()), api.start(APPROVAL)
    [task] = api.get(f"/instances/{instance_id}/tasks").json["items"]
    assert api.get(f"/instances/{instance_id}/explain").json["locked"] == []

    for statement, task_id, what in (
        ("SELECT FROM instances WHERE definition_key = 'one-work' FOR UPDATE", None, "this instance"),
        ("UPDATE tasks SET priority = 1", task["id"], f"task {task['id']}"),
    ):
        with stranger(database_url, statement) as pid:
            [locked] = api.get(f"/instances/{instance_id}/explain").json["locked"]
            reason = (
                f"session {pid} of PostgreSQL has locked {what}, which stands still until it lets go: `signalbox doctor` "
                f"tells whose it is; end its transaction there, or `SELECT pg_terminate_backend({pid})`"
            )
            assert locked == {
                "taskId": task_id,
                "pid": pid,
                "reason": reason,
            }
            assert f"! {reason}" in " ".join(cli.text("explain", instance_id).split())
            assert api.get(f"/instances/{other}/explain").json["locked"] == []

    with stranger(database_url, "SELECT FROM instances"):
        assert api.get(f"/instances/{instance_id}/explain").json["locked"] == [], (
            "who only reads holds nobody up"
        )


@ON_POSTGRESQL
def test_what_our_own_sessions_have_locked_is_their_work(api: Api, database_url: str) -> None:
    instance_id = stepped(api, one_task())
    with stranger(database_url, "SELECT FROM instances FOR UPDATE", name="signalbox-orchestrator"):
        assert api.get(f"/instances/{instance_id}/explain").json["locked"] == []


@ON_SQLITE
def test_on_sqlite_nobody_locks_a_row(api: Api) -> None:
    assert api.get(f"/instances/{api.start(APPROVAL)}/explain").json["locked"] == []


def ways_out(cli: Cli, instance_id: str) -> dict[str, str]:
    """The commands of the last section, by what they do."""
    lines = cli.text("explain", instance_id).partition("ways out\n")[2].splitlines()
    told = [line.strip().partition("  ") for line in lines]
    return {what: command.strip() for what, _, command in told}


def test_a_failed_instance_tells_its_cause_and_what_helps(api: Api, cli: Cli) -> None:
    is_mended: list[bool] = []
    api.engine.handler("CRASH", lambda given: None if is_mended else crash(given))
    instance_id = api.start(CRASHING)
    explained = api.get(f"/instances/{instance_id}/explain").json
    [incident] = explained["incidents"]
    assert [task["answers"] for task in explained["chart"]["tasks"]] == [[]]

    told = cli.text("explain", instance_id)

    assert '  RuntimeError: as the test wants it (task "crash" failed and no transition takes' in told
    assert "→ done" not in told, "it has failed for good"
    assert ways_out(cli, instance_id) == {
        "try again": f"signalbox retry {instance_id}",
        "answer for it": f"signalbox incidents resolve {incident['id']} --skip --output JSON --reason TEXT",
        "from a state": f"signalbox restart {instance_id} --state STATE --reason TEXT",
        "end it": f"signalbox cancel {instance_id} --reason TEXT",
    }
    is_mended.append(True)
    cli.run(*ways_out(cli, instance_id)["try again"].split()[1:])
    api.engine.settle()
    assert cli.json("show", instance_id)["status"] == "completed"


def test_a_compensation_that_failed_goes_on_when_it_is_passed_over(api: Api, cli: Cli) -> None:
    ledger = Ledger(api.engine)
    ledger.failing |= {"do.car", "undo.hotel"}
    instance_id = api.start(trip())

    told = cli.text("explain", instance_id)

    assert 'hotel.gone: undo.hotel is not possible ("undo.hotel", which undoes "do.hotel", failed)' in told
    assert "no active state takes it" not in told
    ways = ways_out(cli, instance_id)
    assert set(ways) == {"try again", "pass over it", "from a state", "end it"}
    assert ways["end it"] == f"signalbox cancel {instance_id} --without-compensation --reason TEXT"
    assert cli.run(*ways["pass over it"].split()[1:]).exit_code == 0
    api.engine.settle()

    ways = ways_out(cli, instance_id)
    assert set(ways) == {"from a state", "end it"}, "all is undone"
    assert cli.run(*ways["end it"].split()[1:]).exit_code == 0


def test_a_failed_one_names_who_holds_its_business_key_and_offers_only_what_is_legal(
    api: Api, cli: Cli
) -> None:
    api.engine.handler("CRASH", crash)
    first = api.start(CRASHING, businessKey="order-1")
    assert api.get(f"/instances/{first}/explain").json["heldKey"] is None
    second = str(
        api.post("/instances", {"definitionKey": CRASHING["id"], "businessKey": "order-1"}).json["id"]
    )

    explained = api.get(f"/instances/{first}/explain").json

    reason = (
        f'it cannot go on now: its business key "order-1" is held by instance {second}; '
        "wait until that has ended, or cancel one of the two"
    )
    assert explained["heldKey"] == {"businessKey": "order-1", "instanceId": second, "reason": reason}
    [incident] = explained["incidents"]
    assert (incident["keyHolder"], incident["waysOut"]) == (second, ["cancel"])
    assert api.get(f"/incidents/{incident['id']}").json["waysOut"] == ["cancel"]
    assert f"! {reason}" in " ".join(cli.text("explain", first).split())
    assert second in cli.text("incidents", "show", incident["id"])
    ways = ways_out(cli, first)
    assert ways == {
        "free its key": f"signalbox cancel {second} --reason TEXT",
        "end it": f"signalbox cancel {first} --reason TEXT",
    }
    assert api.get(f"/instances/{second}/explain").json["heldKey"] is None

    assert cli.run(*ways["free its key"].split()[1:]).exit_code == 0
    api.engine.settle()
    assert "try again" in ways_out(cli, first)
    [incident] = api.get("/incidents", instanceId=first).json["items"]
    assert (incident["keyHolder"], incident["waysOut"]) == (None, ["retry", "skip", "restart", "cancel"])


def test_a_business_key_of_another_definition_or_tenant_is_nobody_s_obstacle(api: Api) -> None:
    api.engine.handler("CRASH", crash)
    first = api.start(CRASHING, businessKey="order-1")
    api.start(APPROVAL, businessKey="order-1")
    api.start({**CRASHING}, businessKey="order-2")
    stranger = {"document": {**CRASHING, "states": APPROVAL["states"], "initial": "review"}}
    assert api.post("/definitions", stranger, key=api.other_key).status_code == 201
    started = {"definitionKey": CRASHING["id"], "businessKey": "order-1"}
    assert api.post("/instances", started, key=api.other_key).status_code == 201

    assert api.get(f"/instances/{first}/explain").json["heldKey"] is None
    assert ways_of(api, first) == ["retry", "skip", "restart", "cancel"]
    api.engine.settle()


def ways_of(api: Api, instance_id: str) -> list[str]:
    [incident] = api.get("/incidents", instanceId=instance_id).json["items"]
    return list(incident["waysOut"])


def test_nothing_is_offered_that_would_undo_under_a_key_that_another_holds(api: Api, cli: Cli) -> None:
    ledger = Ledger(api.engine)
    ledger.failing.add("do.car")
    document = trip(wait=True, compensation={"on": ["cancelled"]})
    instance_id = api.start(document, businessKey="trip-1")
    api.post(f"/instances/{instance_id}/events", {"type": "GO"})
    api.engine.settle()
    assert "undo and end it" in ways_out(cli, instance_id)
    other = api.start(document, businessKey="trip-1")

    ways = ways_out(cli, instance_id)

    assert ways == {
        "free its key": f"signalbox cancel {other} --reason TEXT",
        "end it": f"signalbox cancel {instance_id} --without-compensation --reason TEXT",
    }
    assert cli.run(*ways["end it"].split()[1:]).exit_code == 0
    api.engine.settle()
    assert cli.json("show", instance_id)["status"] == "cancelled"


def test_one_that_could_be_undone_says_how(api: Api, cli: Cli) -> None:
    ledger = Ledger(api.engine)
    ledger.failing.add("do.car")
    instance_id = api.start(trip(compensation={"on": ["cancelled"]}))

    assert cli.run(*ways_out(cli, instance_id)["undo and end it"].split()[1:]).exit_code == 0
    api.engine.settle()
    assert ledger.lines[-2:] == ["undo.hotel", "undo.flight"]


def test_an_event_that_broke_its_step_is_left_out(api: Api, cli: Cli) -> None:
    actions = [{"type": "assign", "path": "x", "value": "${1 / 0}"}]
    instance_id = api.start(
        {
            "id": "breaking",
            "initial": "a",
            "states": {"a": {"on": {"BREAK": {"actions": actions}, "GO": "b"}}, "b": {}},
        }
    )
    api.post(f"/instances/{instance_id}/events", {"type": "BREAK"})
    api.engine.settle()

    told = cli.text("explain", instance_id)
    assert "moves on, once a way out is taken" in told
    assert cli.run(*ways_out(cli, instance_id)["leave the event out"].split()[1:]).exit_code == 0
    api.engine.settle()
    assert cli.json("show", instance_id)["status"] == "waiting"


def test_of_one_that_is_stuck_only_what_helps_is_told(api: Api) -> None:
    states = {"a": {"on": {"GO": "lost"}}, "lost": {}}
    instance_id = api.start({"id": "dead-end", "initial": "a", "states": states})
    api.post(f"/instances/{instance_id}/events", {"type": "GO"})
    api.engine.settle()

    explained = api.get(f"/instances/{instance_id}/explain").json

    [incident] = explained["incidents"]
    assert (incident["code"], incident["waysOut"]) == ("instance.stuck", ["restart", "cancel"])
    assert incident["message"].startswith('nothing leaves "lost": ')
    assert api.get("/stats").json["stalled"] == 0
