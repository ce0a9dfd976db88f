"""Tenants never meet: every operation, with everything of another tenant."""

import json
from typing import Any

import pytest

from api.app import services_of
from api.operations import Operation
from api.routes import OPERATIONS
from common.db.tables import Role
from tests.integration.api.conftest import Api, problem_of
from tests.integration.api.test_instances import CRASHING, NOBODY, crash
from tests.support.ai import asking, decision, with_ai

CLOSED = [operation for operation in OPERATIONS if operation.permission is not None]
BY_NAME = sorted(
    (
        one
        for one in CLOSED
        if one.path_parameters and one.name not in ("setSecret", "setLimit", "getHandler")
    ),
    key=lambda one: one.method == "DELETE",  # what is gone cannot be found by its owner either
)
"""Secrets and limits are made by their name, in one's own tenant: test_secrets.py, test_task_limits.py. Handlers belong to no tenant."""


@pytest.fixture
def theirs(api: Api) -> dict[str, str]:
    """What one tenant has of everything: a failed instance with a task and an incident, its definition, a suggestion."""
    with_ai(api.engine)
    api.start(asking([decision("APPROVE")], {"allowedEvents": ["APPROVE"]}))
    api.engine.handler("CRASH", crash)
    api.put("/secrets/THEIRS", {"value": "theirs"})
    api.put("/limits/type:THEIRS", {"maxRunning": 1})
    instance_id = api.start(CRASHING, businessKey="theirs", labels={"whose": "theirs"})
    return {
        "instanceId": instance_id,
        "taskId": api.get("/tasks").json["items"][0]["id"],
        "configId": api.post("/configs", {"module": "maps", "key": "start", "value": "theirs"}).json["id"],
        "metadataKey": _set_metadata(api, instance_id),
        "incidentId": api.get("/incidents").json["items"][0]["id"],
        "suggestionId": api.get("/suggestions").json["items"][0]["id"],
        "key": "crashing",
        "version": "1",
        "secretName": "THEIRS",
        "limitKey": "type:THEIRS",
        "scheduleId": api.post("/schedules", {"definitionKey": "crashing", "cron": "@daily"}).json["id"],
        "triggerId": api.post("/triggers", {"definitionKey": "crashing", "event": "theirs"}).json["id"],
        "definitionId": api.get("/definitions/crashing").json["id"],
    }


def _set_metadata(api: Api, instance_id: str) -> str:
    path = f"/api/v1/instances/{instance_id}/metadata/whose-it-is"
    assert api.send_raw("PUT", path, json={"value": "theirs"}).status_code == 200
    return "whose-it-is"


def body_of(operation: Operation) -> dict[str, Any]:
    if operation.method == "GET":
        return {}
    bodies: dict[str, Any] = {
        "send": {"type": "GONE"},
        "appendNote": {"note": "I was here"},
        "resolve": {"way": "retry"},
        "changeConfigValue": {"value": 1},
        "setSecret": {"value": "mine"},
        "putMetadata": {"value": 1},
        "changeSchedule": {"definitionKey": "crashing", "cron": "@daily"},
        "changeTrigger": {"definitionKey": "crashing", "event": "mine"},
        "delegateTask": {"assignee": "me"},
        "rejectTask": {"reason": "mine"},
        "failTask": {"error": "mine"},
        "makeLinkForTask": {"person": "me@example.org", "output": 1},
        "makeLinkForInstance": {"person": "me@example.org", "event": {"type": "GONE"}},
    }
    return {"data": json.dumps(bodies.get(operation.name, {})), "content_type": "application/json"}


def ask(api: Api, operation: Operation, names: dict[str, str], key: str) -> Any:
    path = operation.path
    for name in operation.path_parameters:
        path = path.replace(f"{{{name}}}", names[name])
    headers = {"Prefer": "wait=0"}
    return api.send_raw(operation.method, path, key=key, headers=headers, **body_of(operation))


def test_what_belongs_to_another_tenant_is_not_there(api: Api, theirs: dict[str, str]) -> None:
    before = api.engine.execute("SELECT count(*) FROM inbox")
    leaks = ("crash", "GONE", "whose", "the admin", "as the test wants it")

    for operation in BY_NAME:
        answer = ask(api, operation, theirs, api.other_key)
        problem = problem_of(answer, 404, answer.json["code"], operation.name)
        assert problem["code"].endswith(".not_found"), operation.name
        told = json.dumps(
            {**problem, "instance": "", "detail": ""}
        )  # these two repeat the caller's own words
        assert not [word for word in leaks if word in told], operation.name

    assert api.engine.execute("SELECT count(*) FROM inbox") == before


def test_what_is_elsewhere_and_what_is_nowhere_look_the_same(api: Api, theirs: dict[str, str]) -> None:
    nowhere = dict.fromkeys(theirs, NOBODY) | {"key": "nothing!", "version": "1", "limitKey": "type:NOTHING"}

    def shown(operation: Operation, names: dict[str, str]) -> str:
        text = json.dumps({**ask(api, operation, names, api.other_key).json, "traceId": ""})
        for name in sorted(names.values(), key=len, reverse=True):  # an id may hold the version's digit
            text = text.replace(name, "…")
        return text

    for operation in BY_NAME:
        assert shown(operation, theirs) == shown(operation, nowhere), operation.name


def test_their_owner_finds_them(api: Api, theirs: dict[str, str]) -> None:
    """The counterpart: the same requests are no 404 for whom these things belong to."""
    for operation in BY_NAME:
        assert ask(api, operation, theirs, api.keys["admin"]).status_code in (200, 201, 202, 204, 409), (
            operation.name
        )


def test_lists_never_mix(api: Api, theirs: dict[str, str]) -> None:
    lists: list[tuple[str, dict[str, str]]] = [
        ("/definitions", {}),
        ("/instances", {}),
        ("/instances", {"definitionKey": "crashing"}),
        ("/instances", {"businessKey": "theirs"}),
        ("/instances", {"label": "whose:theirs"}),
        ("/instances", {"status": "failed"}),
        ("/tasks", {}),
        ("/tasks", {"type": "CRASH"}),
        ("/tasks", {"instanceId": theirs["instanceId"]}),
        ("/suggestions", {}),
        ("/incidents", {}),
        ("/incidents", {"instanceId": theirs["instanceId"]}),
        ("/configs", {}),
        ("/configs", {"module": "maps"}),
        ("/secrets", {}),
    ]
    for path, query in lists:
        assert api.get(path, **query).json["items"], path
        assert api.get(path, key=api.other_key, **query).json["items"] == [], path


def test_callers_are_served_behind_both_walls(api: Api) -> None:
    """Here and in all other tests of the API on PostgreSQL: what works in them works as the role that is kept to its tenant."""
    assert services_of(api.app).tenants.are_restricted() == (not api.engine.database.is_sqlite)


def test_nothing_is_started_from_another_tenants_definition(api: Api, theirs: dict[str, str]) -> None:
    for body in ({"definitionKey": "crashing"}, {"definitionId": theirs["definitionId"]}):
        problem_of(api.post("/instances", body, key=api.other_key), 404, "definition.not_found")


def test_a_business_key_of_another_tenant_is_free(api: Api, theirs: dict[str, str]) -> None:
    api.post("/definitions", {"document": CRASHING}, key=api.other_key)

    answer = api.post("/instances", {"definitionKey": "crashing", "businessKey": "theirs"}, key=api.other_key)

    assert answer.status_code == 201
    assert answer.json["id"] != theirs["instanceId"]


def test_figures_count_ones_own(api: Api, theirs: dict[str, str]) -> None:
    stats = api.get("/stats", key=api.other_key).json

    assert (stats["instances"], stats["tasks"], stats["inbox"]["waiting"]) == ({}, {}, 0)


# -- roles --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", list(Role))
def test_an_operation_asks_for_its_role(api: Api, role: Role) -> None:
    allowed = {
        "read": {Role.VIEWER, Role.OPERATOR, Role.AUTHOR, Role.ADMIN},
        "operate": {Role.OPERATOR, Role.ADMIN},
        "define": {Role.AUTHOR, Role.ADMIN},
        "administer": {Role.ADMIN},
        "answer": {Role.OPERATOR, Role.WORKER, Role.ADMIN},
    }
    for operation in CLOSED:
        names = dict.fromkeys(operation.path_parameters, "nothing")
        answer = ask(api, operation, names, api.keys[role])
        if role in allowed[str(operation.permission)]:
            assert answer.status_code not in (401, 403), f"{operation.name} {answer.text}"
        else:
            problem = problem_of(answer, 403, "auth.forbidden", operation.name)
            assert f'"the {role}" has "{role}"' in problem["detail"]


def test_no_operation_is_served_without_a_key(api: Api) -> None:
    for operation in CLOSED:
        names = dict.fromkeys(operation.path_parameters, "nothing")
        problem_of(ask(api, operation, names, ""), 401, "auth.required", operation.name)


def test_health_and_documentation_are_open(api: Api) -> None:
    for operation in OPERATIONS:
        if operation.kind == "open":
            assert api.send_raw("GET", operation.path, key="").status_code == 200, operation.name
