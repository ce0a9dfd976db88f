"""Definitions over HTTP: applied, numbered, moved about, drawn, checked and simulated."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

from api.app import services_of
from api.calculating import MOST_AT_ONCE, MOST_WAITING
from common.db import Database
from tests.integration.api.conftest import APPROVAL, Api, problem_of
from tests.integration.engine.documents import ON_SQLITE

BROKEN = {"id": "broken", "initial": "a", "states": {"a": {"on": {"GO": "bb"}}, "b": {"type": "final"}}}


def changed(number: int) -> dict[str, Any]:
    return {**APPROVAL, "description": f"edition {number}"}


def test_an_applied_definition_is_active_and_readable_as_it_was_written(api: Api) -> None:
    answer = api.post("/definitions", {"document": APPROVAL})

    assert answer.status_code == 201
    assert answer.json["key"] == "approval"
    assert answer.json["version"] == 1
    assert answer.json["status"] == "active"
    assert answer.json["createdBy"] == "key:the admin"
    stored = api.get("/definitions/approval").json
    assert stored["document"] == APPROVAL
    assert list(stored["document"]["states"]) == list(APPROVAL["states"]), "the order of states has a meaning"


def test_the_newest_document_again_changes_nothing(api: Api) -> None:
    first = api.apply()

    again = api.post("/definitions", {"document": APPROVAL})

    assert again.status_code == 200
    assert again.json["id"] == first["id"]
    assert len(api.get("/definitions/approval/versions").json["items"]) == 1


def test_another_document_is_the_next_version_and_takes_over(api: Api) -> None:
    api.apply(changed(1))
    api.apply(changed(2))

    versions = api.get("/definitions/approval/versions").json["items"]
    assert [(one["version"], one["status"]) for one in versions] == [(2, "active"), (1, "inactive")]
    assert api.get("/definitions/approval/versions/1").json["document"] == changed(1)


def test_a_definition_may_be_applied_without_being_activated(api: Api) -> None:
    api.apply(changed(1))
    draft = api.apply(changed(2), activate=False)

    assert draft["status"] == "draft"
    assert api.get("/definitions/approval").json["version"] == 1
    activated = api.post("/definitions/approval/versions/2/activate")
    assert activated.json["status"] == "active"
    assert api.get("/definitions/approval/versions/1").json["status"] == "inactive"


def test_the_newest_document_again_activates_it_where_it_is_not(api: Api) -> None:
    api.apply(changed(1))
    api.apply(changed(2), activate=False)

    again = api.post("/definitions", {"document": changed(2)})

    assert again.status_code == 200
    assert (again.json["version"], again.json["status"]) == (2, "active")


def test_an_invalid_definition_is_refused_with_every_problem(api: Api) -> None:
    problem = problem_of(api.post("/definitions", {"document": BROKEN}), 422, "definition.invalid")

    (finding,) = [one for one in problem["problems"] if one["code"] == "target.unknown"]
    assert finding["path"].startswith("states.a.on.GO")
    assert finding["severity"] == "error"
    assert finding["suggestion"] == "b"
    assert api.get("/definitions").json["items"] == []


def test_a_definition_without_a_usable_id_is_refused(api: Api) -> None:
    for key in ("", " padded ", "with/slash", "with\nline", "x" * 300, 7, None):
        problem_of(
            api.post("/definitions", {"document": {**APPROVAL, "id": key}}), 422, "definition.invalid", key
        )
    nameless = {name: part for name, part in APPROVAL.items() if name != "id"}
    problem_of(api.post("/definitions", {"document": nameless}), 422, "definition.invalid")


def test_verbs_move_a_version_through_its_statuses(api: Api) -> None:
    api.apply()
    path = "/definitions/approval/versions/1"

    assert api.post(f"{path}/deactivate").json["status"] == "inactive"
    assert api.post(f"{path}/deactivate").json["status"] == "inactive"
    assert api.post(f"{path}/archive").json["status"] == "archived"
    refused = problem_of(api.post(f"{path}/activate"), 409, "definition.illegal_verb")
    assert "archived" in refused["detail"]
    problem_of(api.post(f"{path}/deactivate"), 409, "definition.illegal_verb")


def test_a_draft_cannot_be_deactivated(api: Api) -> None:
    api.apply(activate=False)

    problem_of(api.post("/definitions/approval/versions/1/deactivate"), 409, "definition.illegal_verb")


def test_a_restore_makes_the_old_document_the_next_version(api: Api) -> None:
    api.apply(changed(1))
    api.apply(changed(2))

    restored = api.post("/definitions/approval/versions/1/restore")

    assert restored.status_code == 201
    assert (restored.json["version"], restored.json["status"]) == (3, "active")
    assert restored.json["document"] == changed(1)
    assert len(api.get("/definitions/approval/versions").json["items"]) == 3


def test_an_archived_newest_version_can_be_restored(api: Api) -> None:
    api.apply()
    api.post("/definitions/approval/versions/1/archive")

    restored = api.post("/definitions/approval/versions/1/restore", {"activate": False})

    assert restored.status_code == 201
    assert (restored.json["version"], restored.json["status"]) == (2, "draft")


def test_a_version_that_is_not_there_cannot_be_moved(api: Api) -> None:
    api.apply()

    for verb in ("activate", "deactivate", "archive", "restore"):
        problem_of(api.post(f"/definitions/approval/versions/9/{verb}"), 404, "definition.not_found")
        problem_of(api.post(f"/definitions/nothing/versions/1/{verb}"), 404, "definition.not_found")


def test_an_inactive_definition_starts_nothing_and_lets_its_instances_finish(api: Api) -> None:
    instance_id = api.start()
    api.post("/definitions/approval/versions/1/deactivate")

    problem_of(api.post("/instances", {"definitionKey": "approval"}), 409, "definition.not_active")
    api.post(f"/instances/{instance_id}/events", {"type": "APPROVED"})
    api.engine.settle()

    assert api.get(f"/instances/{instance_id}").json["status"] == "completed"


def test_the_same_key_lives_in_two_tenants(api: Api) -> None:
    api.apply(changed(1))

    theirs = api.post("/definitions", {"document": changed(2)}, key=api.other_key)

    assert theirs.status_code == 201
    assert theirs.json["version"] == 1
    assert api.get("/definitions/approval").json["document"] == changed(1)


def test_definitions_are_listed_by_their_active_version(api: Api) -> None:
    api.apply(changed(1))
    api.apply(changed(2), activate=False)
    api.apply({**APPROVAL, "id": "another"})

    items = api.get("/definitions").json["items"]

    shown = [(one["key"], one["version"], one["newestVersion"]) for one in items]
    assert shown == [("another", 1, 1), ("approval", 1, 2)]


def test_many_appliers_at_once_make_one_version_each_and_one_is_active(api: Api) -> None:
    documents = [changed(number) for number in range(6)]
    answers: list[int] = []
    begin = threading.Barrier(len(documents))

    def apply(document: dict[str, Any]) -> None:
        begin.wait()
        answers.append(api.post("/definitions", {"document": document}).status_code)

    threads = [threading.Thread(target=apply, args=(document,)) for document in documents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert answers == [201] * 6
    versions = api.get("/definitions/approval/versions").json["items"]
    assert [one["version"] for one in versions] == [6, 5, 4, 3, 2, 1]
    assert [one["status"] for one in versions].count("active") == 1


# -- task types ---------------------------------------------------------------------------------------------------

WORKING: dict[str, Any] = {
    "id": "working",
    "initial": "busy",
    "states": {
        "busy": {
            "entry": {
                "type": "createTask",
                "task": {"type": "LAUNCH", "name": "go", "completionEvent": "GONE"},
            },
            "on": {"GONE": "done"},
        },
        "done": {"type": "final"},
    },
}


def publish(api: Api, type_: str, name: str = "") -> None:
    api.engine.execute(
        f"INSERT INTO handlers (type, name, published_at) VALUES ('{type_}', '{name}', '2026-01-01 00:00:00')"
    )


def test_before_a_first_runner_a_type_that_nobody_offers_is_a_warning(api: Api) -> None:
    applied = api.apply(WORKING)

    assert [one["severity"] for one in applied["warnings"]] == ["warning"]
    assert "LAUNCH" in applied["warnings"][0]["message"]


def test_once_runners_have_published_an_unknown_type_is_refused(api: Api) -> None:
    publish(api, "LAUNCHER")

    problem = problem_of(api.post("/definitions", {"document": WORKING}), 422, "definition.invalid")
    assert any("LAUNCH" in one["message"] and one["severity"] == "error" for one in problem["problems"])
    assert "start one that has its module in SIGNALBOX_HANDLERS" in problem["detail"]

    allowed = api.post("/definitions", {"document": WORKING, "allowUnknownTypes": True})
    assert allowed.status_code == 201
    assert [one["severity"] for one in allowed.json["warnings"]] == ["warning"]


def test_a_type_that_a_runner_offers_is_no_finding(api: Api) -> None:
    publish(api, "LAUNCH")

    assert api.apply(WORKING)["warnings"] == []


CALLING: dict[str, Any] = {
    "id": "calling",
    "initial": "busy",
    "states": {
        "busy": {
            "invoke": {"src": "SYSTEM", "name": "orders.validate", "onDone": "done"},
            "on": {"STOP": "done"},
        },
        "done": {"type": "final"},
    },
}


def test_a_system_task_calls_a_function_that_is_registered(api: Api) -> None:
    publish(api, "SYSTEM", "orders.validat")
    problem = problem_of(api.post("/definitions", {"document": CALLING}), 422, "definition.invalid")
    (finding,) = [one for one in problem["problems"] if one["code"] == "task.unknown_function"]
    assert finding["suggestion"] == "orders.validat"

    publish(api, "SYSTEM", "orders.validate")
    assert api.post("/definitions", {"document": CALLING}).status_code == 201


@ON_SQLITE
def test_a_definition_is_compiled_before_its_transaction_begins(api: Api, database: Database) -> None:
    """What the compilation refuses is told while somebody else writes, for whom a transaction would have to wait."""
    too_large = {"document": {**APPROVAL, "description": "x" * 1_000_001}}
    with ThreadPoolExecutor() as caller, database.transaction():
        answer = caller.submit(api.post, "/definitions", too_large).result(timeout=20)

    assert problem_of(answer, 413, "limit.exceeded")["limit"] == "max_definition_bytes"


# -- drawing, checking, simulating --------------------------------------------------------------------------------


def test_a_definition_is_drawn_as_mermaid_and_as_svg(api: Api) -> None:
    api.apply()

    for path in ("/definitions/approval", "/definitions/approval/versions/1"):
        mermaid = api.get(f"{path}/diagram")
        assert mermaid.mimetype == "text/plain"
        assert "review" in mermaid.text
        svg = api.get(f"{path}/diagram", format="svg")
        assert svg.mimetype == "image/svg+xml"
        assert svg.text.lstrip().startswith("<svg")
        assert "default-src 'none'; style-src 'sha256-" in svg.headers["Content-Security-Policy"]
    problem_of(api.get("/definitions/approval/diagram", format="png"), 422, "request.invalid")


def test_a_check_answers_with_problems_and_stores_nothing(api: Api) -> None:
    answer = api.post("/definitions/check", {"document": BROKEN}, key=api.keys["viewer"])

    assert answer.status_code == 200
    assert any(one["code"] == "target.unknown" for one in answer.json["problems"])
    assert api.get("/definitions").json["items"] == []
    assert api.post("/definitions/check", {"document": APPROVAL}).json["problems"] == []


@pytest.mark.parametrize("number", [2**53, -(2**53)])
def test_the_largest_integers_may_stand_in_a_definition(api: Api, number: int) -> None:
    document = {**APPROVAL, "context": {"approved": number}}

    instance_id = api.start(document)
    checked = api.post("/definitions/check", {"document": document})
    simulated = api.post("/definitions/simulate", {"document": document, "events": []})

    assert api.get("/definitions/approval").json["document"] == document
    assert api.get(f"/instances/{instance_id}").json["context"] == {"approved": number}
    assert checked.json["problems"] == []
    assert simulated.json["snapshots"][0]["context"] == {"approved": number}


def test_a_simulation_shows_every_snapshot(api: Api) -> None:
    answer = api.post("/definitions/simulate", {"document": APPROVAL, "events": [{"type": "APPROVED"}]})

    assert answer.json["snapshots"] == [
        {"configuration": ["review.open"], "context": {"approved": False}, "status": "active"},
        {"configuration": ["done"], "context": {"approved": True}, "status": "done"},
    ]


def test_a_simulation_is_started_with_an_input(api: Api) -> None:
    states = {"a": {"always": {"guard": "input.total > 5", "target": "b"}}, "b": {}}
    body = {"document": {"id": "sized", "initial": "a", "states": states}, "events": []}

    answer = api.post("/definitions/simulate", {**body, "input": {"total": 6}})

    assert answer.json["snapshots"][0]["configuration"] == ["b"]
    problem_of(api.post("/definitions/simulate", {**body, "input": {"total": 1e400}}), 400, "json.invalid")


def test_a_simulation_takes_the_engines_own_events(api: Api) -> None:
    events = [{"type": "done.task.go"}, {"type": "GONE"}]

    answer = api.post("/definitions/simulate", {"document": WORKING, "events": events})

    assert answer.json["snapshots"][-1]["status"] == "done"


def test_a_simulation_of_nonsense_is_refused(api: Api) -> None:
    problem_of(
        api.post("/definitions/simulate", {"document": BROKEN, "events": []}), 422, "definition.invalid"
    )
    for event in ({"no": "type"}, {"advance_ms": 2**53}, {"advance_ms": 1e300}):
        problem_of(
            api.post("/definitions/simulate", {"document": APPROVAL, "events": [event]}), 422, "event.invalid"
        )
    too_many = {"document": APPROVAL, "events": [{"type": "X"}] * 1_001}
    problem = problem_of(api.post("/definitions/simulate", too_many), 422, "limit.exceeded")
    assert problem["limit"] == "max_batch"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/definitions/simulate", {"document": APPROVAL, "events": []}),
        ("/definitions/check", {"document": APPROVAL}),
    ],
)
def test_no_tenant_has_all_threads_calculate_for_it(
    api: Api, path: str, body: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.calculating.PATIENCE_SECONDS", 0.05)
    calculating = services_of(api.app).calculating
    instance_id = api.start()
    with ExitStack() as under_way:
        for _ in range(MOST_AT_ONCE):
            under_way.enter_context(calculating.place_of(api.engine.tenant_id))

        answer = api.post(path, body, key=api.keys["viewer"])

        problem = problem_of(answer, 429, "limit.exceeded")
        assert (problem["limit"], problem["allowed"]) == ("max_calculations", MOST_AT_ONCE)
        assert answer.headers["Retry-After"] == "1"
        verified = api.get(f"/instances/{instance_id}/verify", key=api.keys["viewer"])
        problem_of(verified, 429, "limit.exceeded")
        assert api.post(path, body, key=api.other_key).status_code == 200

    assert api.post(path, body).status_code == 200
    assert api.get(f"/instances/{instance_id}/verify").json["valid"]
    assert api.post(path, {**body, "document": {}}).status_code in (200, 422)
    assert api.post(path, body).status_code == 200, "a calculation that was refused holds no place either"


def test_a_few_who_come_at_once_wait_for_their_turn(api: Api) -> None:
    body = {"document": APPROVAL, "events": []}
    with ThreadPoolExecutor(MOST_AT_ONCE + MOST_WAITING) as callers:
        for _ in range(5):
            answers = [
                *callers.map(
                    lambda _: api.post("/definitions/simulate", body), range(MOST_AT_ONCE + MOST_WAITING)
                )
            ]
            assert [answer.status_code for answer in answers] == [200] * len(answers)


def test_many_simulations_at_once_keep_nobody_else_waiting(api: Api) -> None:
    """Each would take two seconds; all of them at once took as long for whoever asked for anything meanwhile."""
    row = "[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]"
    value = f"${{{row}.map(a, {row}.map(b, {row}.map(c, {row}.map(d, a * b * c * d))))}}"
    step = {"actions": [{"type": "assign", "path": "x", "value": value}]}
    costly = {"id": "costly", "initial": "a", "context": {"x": 0}, "states": {"a": {"on": {"GO": step}}}}
    body = {"document": costly, "events": [{"type": "GO"}] * 100}

    with ThreadPoolExecutor(16) as callers:
        answers = [*callers.map(lambda _: api.post("/definitions/simulate", body), range(16))]

    limits = [answer.json["limit"] for answer in answers if answer.json is not None]
    assert len(limits) == len(answers)
    assert limits.count("max_calculations") >= len(answers) - MOST_AT_ONCE - MOST_WAITING


def test_the_schema_of_definitions_is_served(api: Api) -> None:
    answer = api.get("/schema/definition.json")

    assert answer.mimetype == "application/schema+json"
    assert "states" in answer.text


def test_a_child_that_is_not_applied_yet_is_a_warning_until_it_is(api: Api) -> None:
    parent: dict[str, Any] = {
        "id": "parent",
        "initial": "a",
        "states": {
            "a": {
                "invoke": {"src": "WORKFLOW", "input": {"definitionKey": "approvel"}, "onDone": "b"},
            },
            "b": {"type": "final"},
        },
    }
    api.apply()

    [warning] = api.post("/definitions", {"document": parent}).json["warnings"]
    assert (warning["code"], warning["suggestion"]) == ("workflow.unknown_definition", "approval")

    parent["states"]["a"]["invoke"]["input"]["definitionKey"] = "approval"
    assert api.post("/definitions", {"document": parent}).json["warnings"] == []


def test_definitions_are_found_by_a_part_of_their_key(api: Api) -> None:
    for key in ("order-eu", "Order_US", "100%-refund", "mail"):
        api.apply({**APPROVAL, "id": key})

    def found(text: str, **more: Any) -> list[str]:
        return [one["key"] for one in api.get("/definitions", search=text, **more).json["items"]]

    assert sorted(found("ORDER")) == ["Order_US", "order-eu"]
    assert found("r_") == ["Order_US"], "no pattern, but text"
    assert found("%") == ["100%-refund"]
    assert found("nothing") == []
    first = api.get("/definitions", search="order", limit=1).json
    assert len(first["items"]) == 1
    assert len(found("order", limit=1, cursor=first["nextCursor"])) == 1
    problem_of(api.get("/definitions", search=""), 422, "request.invalid")
    problem_of(api.get("/definitions", search="mail", cursor=first["nextCursor"]), 400, "cursor.invalid")


# -- comparing ----------------------------------------------------------------------------------------------------


def diff_of(api: Api, **versions: int) -> Any:
    answer = api.get("/definitions/approval/diff", **versions)
    assert answer.status_code == 200, answer.json
    return answer.json


def test_two_versions_are_compared(api: Api) -> None:
    for number in (1, 2, 3):
        api.apply(changed(number))
    api.post("/definitions/approval/versions/2/activate")

    assert diff_of(api) == {
        "key": "approval",
        "from": 1,
        "to": 2,
        "changes": [{"path": "description", "kind": "changed", "before": "edition 1", "after": "edition 2"}],
        "truncated": False,
    }
    assert diff_of(api, to=3)["from"] == 2
    back = diff_of(api, **{"from": 3, "to": 1})
    assert [(one["before"], one["after"]) for one in back["changes"]] == [("edition 3", "edition 1")]
    assert diff_of(api, **{"from": 2, "to": 2})["changes"] == []


def test_what_there_is_not_is_not_compared(api: Api) -> None:
    api.apply(changed(1))

    first = problem_of(api.get("/definitions/approval/diff"), 404, "definition.not_found")
    assert "is its first" in first["detail"]
    for path, versions, key in (
        ("/definitions/approval/diff", {"from": 1, "to": 7}, None),
        ("/definitions/none/diff", {"from": 1, "to": 1}, None),
        ("/definitions/approval/diff", {"from": 1, "to": 1}, api.other_key),
    ):
        problem_of(api.get(path, key=key, **versions), 404, "definition.not_found")
    problem_of(api.get("/definitions/approval/diff", **{"from": 0}), 422, "request.invalid")


def test_versions_that_have_little_in_common_are_compared_up_to_a_thousand_places(api: Api) -> None:
    api.apply({**APPROVAL, "context": {f"k{number}": number for number in range(1_500)}})
    api.apply({**APPROVAL, "context": {f"k{number}": -1 - number for number in range(1_500)}})

    found = diff_of(api)

    assert (len(found["changes"]), found["truncated"]) == (1_000, True)
