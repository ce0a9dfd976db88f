"""Places over HTTP and by the CLI: what is refused at the door, what is shown of who waits."""

import json
from typing import Any

import pytest

from tests.integration.api.cli import Cli, served
from tests.integration.api.conftest import Api, problem_of
from tests.integration.api.test_instances import CRASHING, crash
from tests.integration.engine.children import parent
from tests.integration.engine.documents import ON_SQLITE
from tests.integration.engine.sagas import Ledger, trip


def visit(**concurrency: Any) -> dict[str, Any]:
    return {
        "id": "visit",
        "initial": "inside",
        "concurrency": {"max": 1, "key": "${input.customer}", **concurrency},
        "states": {"inside": {"on": {"LEAVE": "gone"}}, "gone": {"type": "final"}},
    }


ADA = {"definitionKey": "visit", "input": {"customer": "ada"}}


def test_who_waits_is_shown_listed_and_explained(api: Api) -> None:
    api.apply(visit())
    first, second, third = (api.post("/instances", ADA).json for _ in range(3))
    assert (first["concurrencyKey"], first["queued"]) == ("ada", True)  # nobody has given it a place yet
    api.engine.settle()

    waiting = api.get("/instances", queued="true").json["items"]
    assert [(one["id"], one["status"], one["queued"]) for one in waiting] == [
        (third["id"], "pending", True),
        (second["id"], "pending", True),
    ]
    assert [one["id"] for one in api.get("/instances", queued="false").json["items"]] == [first["id"]]
    shared = {"key": "ada", "max": 1, "taken": 1, "shutOut": False}
    explained = [api.get(f"/instances/{one['id']}/explain").json["places"] for one in (first, second, third)]
    assert explained == [
        {**shared, "queued": False, "ahead": None},
        {**shared, "queued": True, "ahead": 0},
        {**shared, "queued": True, "ahead": 1},
    ]

    api.post(f"/instances/{second['id']}/cancel", {})
    api.post(f"/instances/{first['id']}/events", {"type": "LEAVE"})
    api.engine.settle()
    shown = api.get(f"/instances/{third['id']}").json
    assert (shown["status"], shown["queued"]) == ("waiting", False)
    assert api.get(f"/instances/{first['id']}/explain").json["places"] is None
    assert api.get(f"/instances/{second['id']}").json["queued"] is False


def test_who_waits_for_a_place_has_not_settled(api: Api) -> None:
    api.apply(visit())
    api.post("/instances", ADA)
    api.engine.settle()

    answer = api.post("/instances", ADA, headers={"Prefer": "wait=1"})

    assert (answer.status_code, answer.json["status"], answer.json["queued"]) == (202, "pending", True)
    api.engine.settle()


def test_a_trigger_that_finds_no_place_is_told_as_refused(api: Api) -> None:
    triggers = [{"event": "ARRIVED", "input": {"customer": "${event.customer}"}}]
    api.apply(visit(onFull="reject") | {"triggers": triggers})

    results = [api.post("/events", {"type": "ARRIVED", "customer": "ada"}).json["items"][0] for _ in range(2)]

    assert [one["kind"] for one in results] == ["started", "refused"]
    assert results[1]["problem"]["code"] == "concurrency.full"
    api.engine.settle()


def test_a_batch_is_refused_one_by_one(api: Api) -> None:
    api.apply(visit(onFull="reject"))
    bob = {**ADA, "input": {"customer": "bob"}}

    items = api.post("/instances:batch", {"instances": [ADA, ADA, bob, {"definitionKey": "visit"}]}).json[
        "items"
    ]

    problems = [item["problem"]["code"] if "problem" in item else None for item in items]
    assert problems == [None, "concurrency.full", None, "concurrency.key"]
    problem = problem_of(api.post("/instances", ADA), 409, "concurrency.full")
    assert (problem["definitionKey"], problem["key"], problem["max"], problem["live"]) == (
        "visit",
        "ada",
        1,
        1,
    )
    api.engine.settle()


@pytest.mark.parametrize(
    ("written", "at"),
    [
        ({"max": 0}, "concurrency.max"),
        ({"max": 1.5}, "concurrency.max"),
        ({"max": True}, "concurrency.max"),
        ({"max": "3"}, "concurrency.max"),
        ({"max": 10**9}, "concurrency.max"),
        ({}, "concurrency.max"),
        (3, "concurrency"),
        ({"max": 1, "onFull": "wait"}, "concurrency.onFull"),
        ({"max": 1, "keys": "${input.a}"}, "concurrency.keys"),
        ({"max": 1, "key": ["${input.a}"]}, "concurrency.key"),
        ({"max": 1, "key": "customer"}, "concurrency.key"),
        ({"max": 1, "key": "${context.a}"}, "concurrency.key"),
        ({"max": 1, "key": "${config.a.b}"}, "concurrency.key"),
        ({"max": 1, "key": "${now}"}, "concurrency.key"),
        ({"max": 1, "key": "${instance.id}"}, "concurrency.key"),
        ({"max": 1, "key": "${secret.a}"}, "concurrency.key"),
        ({"max": 1, "key": "${input."}, "concurrency.key"),
    ],
)
@ON_SQLITE
def test_what_is_no_concurrency_is_refused_with_its_place(api: Api, written: Any, at: str) -> None:
    answer = api.post("/definitions", {"document": {**visit(), "concurrency": written}})

    problem = problem_of(answer, 422, "definition.invalid")
    assert at in {one["path"] for one in problem["problems"]}


@ON_SQLITE
def test_the_command_line_shows_who_waits(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    api.apply(visit())
    first, second = (api.post("/instances", ADA).json["id"] for _ in range(2))
    api.engine.settle()
    with served(api) as url:
        cli = Cli(api, url, monkeypatch)

        assert [one["id"] for one in cli.json("ls", "--queued")["items"]] == [second]
        assert [one["id"] for one in cli.json("ls", "--not-queued")["items"]] == [first]
        assert "pending queued" in cli.text("ls")
        assert 'a place of the key "ada"' in cli.text("show", second)
        assert 'waits for a place: 1 of 1 of the key "ada" are taken, 0 get one before it' in cli.text(
            "explain", second
        )
        assert '1 of 1 of the key "ada" are taken' in cli.text("explain", first)


def test_a_parent_is_told_which_place_its_child_waits_for(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    api.apply(visit())
    holder, before = (api.post("/instances", ADA).json["id"] for _ in range(2))
    api.engine.settle()
    parent_id = api.start(parent("visit", input={"customer": "ada"}))

    [child] = api.get(f"/instances/{parent_id}/explain").json["children"]

    assert child["status"] == "pending"
    waits = {"key": "ada", "max": 1, "taken": 1, "queued": True, "ahead": 1, "shutOut": False}
    assert child["places"] == waits
    monkeypatch.setenv("COLUMNS", "200")
    with served(api) as url:
        told = Cli(api, url, monkeypatch).text("explain", parent_id)
    assert (
        'pending yes waits for a place: 1 of 1 of the key "ada" are taken, 1 get one before it'
        in " ".join(told.split())
    )

    api.post(f"/instances/{before}/cancel", {})
    api.post(f"/instances/{holder}/events", {"type": "LEAVE"})
    api.engine.settle()
    [child] = api.get(f"/instances/{parent_id}/explain").json["children"]
    assert (child["status"], child["places"]) == ("waiting", None)


def test_a_failed_one_whose_places_are_taken_is_offered_only_what_is_not_refused(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.engine.handler("CRASH", crash)
    document = {**CRASHING, "concurrency": {"max": 1}}
    failed = api.start(document)
    holder = api.post("/instances", {"definitionKey": document["id"]}).json["id"]
    api.engine.advance()
    assert api.get(f"/instances/{holder}").json["queued"] is False
    monkeypatch.setenv("COLUMNS", "200")
    with served(api) as url:
        cli = Cli(api, url, monkeypatch)

        told = cli.text("explain", failed)

        assert (
            "1 of 1 are taken; it gave its own back when it failed, and gets none before one of them has ended"
            in told
        )
        ways = [line.split("  ")[1].strip() for line in told.partition("ways out\n")[2].splitlines()]
        assert ways == ["end it"]
        assert getattr(cli.run("retry", failed).exception, "code", None) == "concurrency.full"
        api.engine.settle()
        assert "try again" in cli.text("explain", failed)
        assert api.get(f"/instances/{failed}/explain").json["places"]["shutOut"] is False


def ways_of(api: Api, instance_id: str) -> list[str]:
    """As three answers tell them, which agree."""
    [listed] = api.get("/incidents", instanceId=instance_id, status="open").json["items"]
    [explained] = api.get(f"/instances/{instance_id}/explain").json["incidents"]
    read = api.get(f"/incidents/{listed['id']}").json
    assert listed["waysOut"] == explained["waysOut"] == read["waysOut"]
    return list(listed["waysOut"])


def test_the_ways_out_of_a_failed_one_are_those_that_find_a_place(api: Api) -> None:
    api.engine.handler("CRASH", crash)
    document = {**CRASHING, "concurrency": {"max": 1}}
    failed = api.start(document)
    assert ways_of(api, failed) == ["retry", "skip", "restart", "cancel"]
    api.post("/instances", {"definitionKey": document["id"]})
    api.engine.advance()

    assert api.get(f"/instances/{failed}/explain").json["places"]["shutOut"] is True
    assert ways_of(api, failed) == ["cancel"]
    [incident] = api.get("/incidents", instanceId=failed).json["items"]
    for way in ("retry", "skip"):
        problem_of(api.post(f"/incidents/{incident['id']}/resolve", {"way": way}), 409, "concurrency.full")
    problem_of(api.post(f"/instances/{failed}/restart", {"reason": "test"}), 409, "concurrency.full")
    api.engine.settle()
    assert ways_of(api, failed) == ["retry", "skip", "restart", "cancel"]


def test_what_is_being_undone_needs_no_place_unless_it_begins_anew(api: Api) -> None:
    ledger = Ledger(api.engine)
    ledger.failing |= {"do.car", "undo.hotel"}
    document = trip(concurrency={"max": 1})
    stopped = api.start(document)
    assert ways_of(api, stopped) == ["retry", "skip", "restart", "cancel"]
    api.post("/instances", {"definitionKey": document["id"]})
    api.engine.advance()

    assert ways_of(api, stopped) == ["retry", "skip", "cancel"]

    problem_of(api.post(f"/instances/{stopped}/restart", {"reason": "test"}), 409, "concurrency.full")
    assert api.post(f"/instances/{stopped}/retry", {}).status_code == 202
    api.engine.settle()


def test_a_dry_run_counts_what_would_be_refused_as_refused(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    api.engine.handler("CRASH", crash)
    document = {**CRASHING, "concurrency": {"max": 1}}
    failed = api.start(document)
    [incident] = api.get("/incidents", instanceId=failed).json["items"]
    api.post("/instances", {"definitionKey": document["id"]})
    api.engine.advance()
    of_failed = {"verb": "retry", "filter": {"status": ["failed"]}}
    resolving = {"way": "skip", "filter": {"definitionKey": document["id"]}}

    for path, body, id_ in (
        ("/instances:bulk", of_failed, failed),
        ("/incidents:resolve", resolving, incident["id"]),
    ):
        dry, done = (api.post(path, {**body, "dryRun": is_dry}).json for is_dry in (True, False))
        for told in (dry, done):
            assert told["accepted"] == []
            assert [(one["id"], one["code"]) for one in told["refused"]] == [(id_, "concurrency.full")]

    monkeypatch.setenv("COLUMNS", "200")
    with served(api) as url:
        cli = Cli(api, url, monkeypatch)
        assert json.loads(cli.run("retry", "--all", "--dry-run", "--json").stdout)["accepted"] == []
        api.engine.settle()
        told = json.loads(cli.run("retry", "--all", "--dry-run", "--json").stdout)
        assert failed in told["accepted"]
        assert cli.json("show", failed)["status"] == "failed", "it was only asked"
