"""`explain`, by the API and the command: who is missing."""

from collections.abc import Iterator
from datetime import timedelta

import pytest

from tests.integration.api.cli import Cli, served
from tests.integration.api.conftest import Api
from tests.integration.api.test_handlers import arrive_with
from tests.integration.engine.documents import one_task

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
