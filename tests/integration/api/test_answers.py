"""Every operation answers as its document says: the status, the members and their types, and nothing beyond them."""

from typing import Any

import pytest
from flask import Response, request

from api.operations import JSON, Operation
from api.routes import OPERATIONS
from tests.integration.api.conftest import APPROVAL, PUBLIC_URL, Api
from tests.integration.api.people import ask, say
from tests.integration.api.test_instances import CRASHING, crash
from tests.integration.engine.sagas import Ledger, trip
from tests.support.ai import asking, decision, with_ai

BY_ENDPOINT = {operation.name: operation for operation in OPERATIONS}


@pytest.fixture
def seen(api: Api) -> list[tuple[Operation, Response]]:
    """Every answer that the API gives from here on, refusals apart, in the order of the requests."""
    answers: list[tuple[Operation, Response]] = []

    def note(response: Response) -> Response:
        if response.status_code < 400 and request.endpoint in BY_ENDPOINT:
            answers.append((BY_ENDPOINT[request.endpoint], response))
        return response

    api.app.after_request(note)
    return answers


def names_of(value: Any) -> Any:
    """The member names of a JSON value, at every depth."""
    match value:
        case dict():
            return {name: names_of(part) for name, part in value.items()}
        case list():
            return [names_of(part) for part in value]
        case _:
            return None


def test_every_operation_answers_as_documented(api: Api, seen: list[tuple[Operation, Response]]) -> None:
    visit_everything(api)

    for operation, response in seen:
        where = f"{operation.name} {response.status_code}"
        assert response.status_code in operation.answers, where
        shape = operation.answers[response.status_code]
        if shape.model is None:
            is_empty = response.status_code == 204 and not response.get_data()
            assert is_empty or response.mimetype in (shape.media_type, *shape.texts), where
            continue
        if response.mimetype in shape.texts:
            continue
        assert response.mimetype == JSON, where
        read = shape.model.model_validate_json(response.get_data())
        documented = read.model_dump(mode="json", by_alias=True, exclude_unset=True)
        assert names_of(response.json) == names_of(documented), where
    visited = {operation.name for operation, _ in seen}
    assert visited == set(BY_ENDPOINT)


def visit_everything(api: Api) -> None:
    """Ask every operation at least once for something that is there."""
    for value in ("one", "two"):
        api.put("/secrets/KEY", {"value": value})
    api.get("/secrets")
    api.delete("/secrets/KEY")
    api.engine.handler("CRASH", crash)
    api.engine.execute(
        "INSERT INTO handlers (type, name, description, input_schema, published_at) "
        "VALUES ('CRASH', '', 'ends badly', '{\"title\":\"anything\"}', '2026-01-01 00:00:00')"
    )
    waiting = api.start(businessKey="b", labels={"a": "b"}, input={"x": 1})
    crashed = api.start(CRASHING)
    api.post("/instances", {"definitionKey": "approval", "businessKey": "b"})
    api.post("/instances", {"definitionKey": "approval"}, headers={"Prefer": "wait=0"})
    api.post("/instances:batch", {"instances": [{"definitionKey": "approval"}, {"definitionKey": "nothing"}]})
    api.post(f"/instances/{waiting}/events", {"type": "LOOKED"})
    api.post(f"/instances/{waiting}/history", {"note": "looked"})
    api.engine.settle()
    for path in ("", "/tasks", "/history", "/verify", "/explain"):
        api.get(f"/instances/{waiting}{path}")
        api.get(f"/instances/{crashed}{path}")
    (task,) = api.get("/tasks").json["items"]
    api.get(f"/tasks/{task['id']}")
    (incident,) = api.get("/incidents").json["items"]
    api.get(f"/incidents/{incident['id']}")
    for verb in ("pause", "step", "resume", "restart", "cancel"):
        api.post(f"/instances/{waiting}/{verb}", headers={"Prefer": "wait=0"})
        api.engine.settle()
    api.post(f"/instances/{crashed}/retry", headers={"Prefer": "wait=0"})
    api.engine.settle()
    (incident,) = api.get("/incidents", status="open").json["items"]
    api.post(f"/incidents/{incident['id']}/resolve", {"way": "skip"}, headers={"Prefer": "wait=0"})
    api.post("/instances:bulk", {"verb": "cancel", "filter": {"status": ["completed"]}, "dryRun": True})
    api.post("/incidents:resolve", {"way": "retry", "filter": {"code": "x"}, "dryRun": True})
    api.post(f"/instances/{waiting}/erase", {"reason": "asked for"})
    api.post("/instances:erase", {"filter": {"labels": {"a": "b"}}, "dryRun": True})
    api.engine.settle()
    api.get(f"/instances/{crashed}/results")
    note = f"/api/v1/instances/{waiting}/metadata/k"
    api.send_raw("PUT", note, json={"value": {"x": 1}})
    api.send_raw("GET", note)
    api.get(f"/instances/{waiting}/metadata")
    api.send_raw("DELETE", note)
    visit_people(api)
    visit_schedules(api)
    visit_bounds(api)
    visit_compensations(api)
    visit_suggestions(api)
    setting = {"module": "maps", "key": "start", "value": {"x": 1}}
    config = api.post("/configs", setting).json["id"]
    api.post("/configs", setting)
    api.get("/configs")
    api.get(f"/configs/{config}")
    api.send_raw("GET", "/api/v1/configs/resolve?module=maps&key=start")
    api.send_raw("GET", "/api/v1/configs/resolve?module=maps&keys=start,end")
    api.send_raw("PUT", f"/api/v1/configs/{config}", json={"value": 2})
    api.send_raw("DELETE", f"/api/v1/configs/{config}")
    api.get(f"/instances/{waiting}/explain")
    for path in (
        "/instances",
        "/handlers",
        "/handlers/CRASH",
        "/stats",
        "/retention",
        "/schema/definition.json",
        "/definitions",
    ):
        api.get(path)
    key = "/definitions/approval"
    for path in (key, f"{key}/versions", f"{key}/versions/1", f"{key}/diagram", f"{key}/versions/1/diagram"):
        api.get(path)
    for drawn in (key, f"{key}/versions/1"):
        api.get(f"{drawn}/diagram", format="svg")
    changed = {**APPROVAL, "context": {"approved": False, "by": None}, "description": "another edition"}
    api.post("/definitions", {"document": changed, "activate": False})
    api.get(f"{key}/diff", to=2)
    api.get(f"{key}/stats")
    for verb in ("deactivate", "activate", "archive", "restore"):
        api.post(f"{key}/versions/1/{verb}")
    api.post("/definitions/check", {"document": {**APPROVAL, "initial": "revue"}})
    api.post("/definitions/simulate", {"document": APPROVAL, "events": [{"type": "APPROVED"}]})
    for path in (
        "/health/live",
        "/health/ready",
        "/openapi.json",
        "/docs",
        "/docs/problems",
        "/docs/style.css",
        "/metrics",
    ):
        api.send_raw("GET", path, key="")


def visit_schedules(api: Api) -> None:
    """Schedules and triggers, each verb once."""
    wanted = {"definitionKey": "approval", "name": "daily", "cron": "@daily"}
    schedule = f"/schedules/{api.post('/schedules', wanted).json['id']}"
    for path in ("/schedules", schedule, f"{schedule}/next"):
        api.get(path)
    api.put(schedule, {**wanted, "overlap": "allow"})
    for verb in ("pause", "resume", "trigger"):
        api.post(f"{schedule}/{verb}")
    api.delete(schedule)
    started = {"definitionKey": "approval", "event": "ordered", "input": "${event}"}
    trigger = f"/triggers/{api.post('/triggers', started).json['id']}"
    for path in ("/triggers", trigger):
        api.get(path)
    api.post("/events", {"type": "ordered"})
    api.put(trigger, {**started, "enabled": False})
    api.delete(trigger)


def visit_bounds(api: Api) -> None:
    """A limit and a circuit breaker, each verb once."""
    api.put("/limits/type:HTTP", {"maxRunning": 3, "rate": {"count": 10, "per": "1s"}})
    for path in ("/limits", "/limits/type:HTTP"):
        api.get(path)
    api.delete("/limits/type:HTTP")
    for verb in ("open", "close"):
        api.post(f"/breakers:{verb}", {"type": "HTTP", "target": "https://host:443"})
        api.get("/breakers")
    api.post("/breakers:reset", {"type": "HTTP", "target": "https://host:443"})


def visit_compensations(api: Api) -> None:
    """What is undone, before and after."""
    Ledger(api.engine)
    instance_id = api.engine.start(trip(wait=True))
    api.engine.settle()
    for verb in ("compensate", None):
        api.get(f"/instances/{instance_id}/compensations")
        if verb:
            api.post(f"/instances/{instance_id}/{verb}", {"reason": "no"}, headers={"Prefer": "wait=0"})
            api.engine.settle()


def visit_suggestions(api: Api) -> None:
    """What a model suggests, accepted and rejected."""
    with_ai(api.engine)
    api.engine.execute(
        "INSERT INTO handlers (type, name, published_at) VALUES ('AI', '', '2026-01-01 00:00:00')"
    )
    for verb in ("accept", "reject"):
        api.start(asking([decision("APPROVE")], {"allowedEvents": ["APPROVE"]}))
        suggestion = f"/suggestions/{api.get('/suggestions', status='open').json['items'][0]['id']}"
        api.get(suggestion)
        api.post(f"{suggestion}/{verb}", {"comment": "as it should be"}, headers={"Prefer": "wait=0"})
        api.engine.settle()


def visit_people(api: Api) -> None:
    """Say every verb of people, to a task each where the verb ends one."""
    form = {"type": "object"}
    _, first = ask(api, title="Look", description="closely", form=form, candidates=["ada"])
    say(api, first, "claim", assignee="ada")
    say(api, first, "delegate", assignee="grace")
    say(api, first, "unclaim")
    for verb, body in (("complete", {"output": {}}), ("reject", {"reason": "no"}), ("fail", {"error": "no"})):
        say(api, ask(api)[1], verb, **body)
    instance, task = ask(api, description="closely", input={"a": 1})
    of_task = api.post(f"/tasks/{task}/links", {"person": "ada@example.org", "output": 1}).json["url"]
    of_event = {"person": "ada@example.org", "event": {"type": "LEAVE"}}
    for url in (api.post(f"/instances/{instance}/links", of_event).json["url"], of_task):
        path = url.removeprefix(PUBLIC_URL)
        for method in ("GET", "POST"):
            api.send_raw(method, path, key="", headers={"Accept": "application/json"})
