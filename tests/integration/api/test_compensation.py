"""Compensation over HTTP and by the CLI: begin it, follow it, go on after it failed, leave it out."""

from typing import Any

import pytest

from tests.integration.api.cli import Cli, served
from tests.integration.api.conftest import Api, problem_of
from tests.integration.api.test_control import say, status
from tests.integration.engine.documents import ON_SQLITE
from tests.integration.engine.sagas import Ledger, trip


def waiting(api: Api, **document: Any) -> tuple[str, Ledger]:
    ledger = Ledger(api.engine)
    instance_id = str(api.engine.start(trip(wait=True, **document)))
    api.engine.settle()
    return instance_id, ledger


def statuses(api: Api, instance_id: str) -> list[tuple[str, str]]:
    found = api.get(f"/instances/{instance_id}/compensations").json
    return [(one["undoes"], one["status"]) for one in found["items"]]


def test_a_cancel_undoes_and_the_list_tells_how_far_it_is(api: Api) -> None:
    instance_id, ledger = waiting(api)
    assert statuses(api, instance_id) == [("do.hotel", "registered"), ("do.flight", "registered")]
    ledger.failing.add("undo.flight")
    assert say(api, "cancel", instance_id, reason="no").status_code == 202

    assert status(api, instance_id) == "failed"
    found = api.get(f"/instances/{instance_id}/compensations").json
    assert (found["ends"], found["reason"], found["done"], found["total"]) == ("cancelled", "no", 1, 2)
    assert [(one["name"], one["status"], one["input"]) for one in found["items"]] == [
        ("undo.hotel", "done", {"of": "hotel-1"}),
        ("undo.flight", "failed", {"of": "flight-1"}),
    ]
    assert [(one["error"] or {}).get("code") for one in found["items"]] == [None, "flight.gone"]
    explained = api.get(f"/instances/{instance_id}/explain").json
    assert explained["compensation"] == found
    problem_of(say(api, "cancel", instance_id), 409, "compensation.stopped")

    [incident] = explained["incidents"]
    assert incident["code"] == "compensation.failed"
    body = {"way": "skip", "reason": "refunded by hand"}
    assert api.post(f"/incidents/{incident['id']}/resolve", body).status_code in (200, 202)
    api.engine.settle()
    assert status(api, instance_id) == "cancelled"
    assert statuses(api, instance_id) == [("do.hotel", "done"), ("do.flight", "skipped")]
    ended = api.get(f"/instances/{instance_id}/compensations").json
    assert [ended[name] for name in ("done", "skipped", "passedOver", "total")] == [1, 1, 0, 2]
    actors = {
        entry["actor"]
        for entry in api.get(f"/instances/{instance_id}/history").json["items"]
        if entry["type"] == "compensation.skipped"
    }
    assert len(actors) == 1
    assert actors.pop().startswith("key:")


def test_retry_goes_on_and_a_failure_that_was_undone_is_not_retried(api: Api) -> None:
    instance_id, ledger = waiting(api)
    ledger.failing |= {"do.car", "undo.hotel"}
    api.post(f"/instances/{instance_id}/events", {"type": "GO"})
    api.engine.settle()
    assert status(api, instance_id) == "failed"
    ledger.failing.discard("undo.hotel")
    assert say(api, "retry", instance_id).status_code == 202

    assert ledger.lines[-2:] == ["undo.hotel", "undo.flight"]
    assert status(api, instance_id) == "failed"
    problem_of(say(api, "retry", instance_id), 409, "instance.compensated")
    [incident] = api.get(f"/instances/{instance_id}/explain").json["incidents"]
    assert incident["waysOut"] == ["restart", "cancel"]
    answer = api.post(f"/incidents/{incident['id']}/resolve", {"way": "skip"})
    problem_of(answer, 409, "instance.compensated")


def test_compensate_and_what_it_refuses(api: Api) -> None:
    instance_id, ledger = waiting(api)
    assert say(api, "compensate", instance_id, reason="bankrupt").status_code == 202
    assert status(api, instance_id) == "cancelled"
    assert ledger.lines[-2:] == ["undo.hotel", "undo.flight"]
    problem_of(say(api, "compensate", instance_id), 409, "instance.finished")
    problem_of(say(api, "compensate", api.start()), 409, "compensation.nothing")
    problem_of(api.get("/instances/nobody/compensations"), 404, "instance.not_found")
    problem_of(
        api.get(f"/instances/{instance_id}/compensations", key=api.other_key), 404, "instance.not_found"
    )
    problem_of(say(api, "cancel", instance_id, compensate="maybe"), 422, "request.invalid")


def test_cancel_without(api: Api) -> None:
    instance_id, ledger = waiting(api)
    say(api, "cancel", instance_id, compensate=False)
    assert status(api, instance_id) == "cancelled"
    assert ledger.lines == ["do.flight", "do.hotel"]


@ON_SQLITE
def test_by_the_cli(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = waiting(api)
    second = str(api.engine.start("trip"))
    api.engine.settle()
    with served(api) as url:
        cli = Cli(api, url, monkeypatch)
        assert "2 can be undone" in cli.text("compensations", first)
        cli.json("compensate", first, "--reason", "no more")
        api.engine.settle()
        assert cli.json("compensations", first)["done"] == 2
        assert "2 of 2 done; ends cancelled" in cli.text("explain", first)
        cli.json("cancel", second, "--without-compensation")
        api.engine.settle()
        assert cli.json("compensations", second)["ends"] is None
        assert cli.json("show", second)["status"] == "cancelled"


@ON_SQLITE
def test_the_cli_tells_what_was_left_out_and_work_of_one_name_apart(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(api.engine)
    ledger.failing |= {"undo.hotel", "do.car"}
    twice = trip(last="car")
    states = twice["states"]
    states["hotel"]["invoke"]["onDone"] = "again"
    states["again"] = {"invoke": {**states["hotel"]["invoke"], "id": "again", "onDone": "car"}}
    states["again"]["invoke"]["compensate"] = {
        **states["hotel"]["invoke"]["compensate"],
        "onFailure": "continue",
    }
    instance_id = str(api.engine.start(twice))
    api.engine.settle()
    with served(api) as url:
        cli = Cli(api, url, monkeypatch)
        [first, second, third] = cli.json("compensations", instance_id)["items"]
        assert first["undoes"] == second["undoes"] == "do.hotel"
        told = cli.text("compensations", instance_id)
        assert f"0 of 3 done, 1 passed over; ends failed; stopped at do.hotel ({second['key']})" in told
        rows = [line.split() for line in told.splitlines() if line.startswith("do.")]
        assert [row[1] for row in rows] == [first["key"], second["key"], third["key"]]
        assert len({first["key"], second["key"]}) == 2
        assert "hotel.gone: undo.hotel is not possible" in told

        [incident] = cli.json("incidents", "list")["items"]
        cli.json("incidents", "resolve", incident["id"], "--skip", "--reason", "by hand")
        api.engine.settle()
        told = cli.text("compensations", instance_id)
        assert "1 of 3 done, 1 skipped, 1 passed over; ends failed" in told
