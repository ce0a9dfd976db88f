"""Control over HTTP: verbs on one instance and on many, incidents and their ways out."""

from typing import Any

import pytest

from signalbox.cli.exits import UsageError
from tests.integration.api.cli import Cli, served
from tests.integration.api.conftest import APPROVAL, Api, problem_of
from tests.integration.api.test_instances import CRASHING, crash

NO_WAIT = {"Prefer": "wait=0"}


def say(api: Api, verb: str, instance_id: str, **body: Any) -> Any:
    answer = api.post(f"/instances/{instance_id}/{verb}", body, headers=NO_WAIT)
    api.engine.settle()
    return answer


def status(api: Api, instance_id: str) -> str:
    return str(api.get(f"/instances/{instance_id}").json["status"])


def test_pause_step_and_resume(api: Api) -> None:
    instance_id = api.start()
    assert say(api, "pause", instance_id, reason="a look").status_code == 202
    assert status(api, instance_id) == "paused"

    api.post(f"/instances/{instance_id}/events", {"type": "LOOKED"})
    api.engine.settle()
    explained = api.get(f"/instances/{instance_id}/explain").json
    assert explained["inbox"] == {"ready": 0, "parked": 1}

    say(api, "step", instance_id)
    assert api.get(f"/instances/{instance_id}/explain").json["inbox"]["parked"] == 0
    assert status(api, instance_id) == "paused"

    say(api, "resume", instance_id)
    assert status(api, instance_id) == "waiting"
    types = [entry["type"] for entry in api.get(f"/instances/{instance_id}/history").json["items"]]
    assert [type_ for type_ in types if type_.startswith("instance.")] == [
        "instance.started",
        "instance.paused",
        "instance.stepped",
        "instance.resumed",
    ]


def test_a_verb_that_is_not_legal_is_a_sentence(api: Api) -> None:
    instance_id = api.start()
    problem = problem_of(say(api, "resume", instance_id), 409, "instance.illegal_verb")
    assert problem["detail"] == f"cannot resume instance {instance_id}: waiting"
    problem = problem_of(say(api, "step", instance_id), 409, "instance.illegal_verb")
    assert problem["detail"] == f"cannot step instance {instance_id}: waiting"


def test_restart_from_a_state_and_what_it_refuses(api: Api) -> None:
    instance_id = api.start()
    say(api, "restart", instance_id, state="review", context={"again": True}, reason="wrong clerk")
    instance = api.get(f"/instances/{instance_id}").json
    assert instance["context"] == {"approved": False, "again": True}

    problem = problem_of(say(api, "restart", instance_id, state="revue"), 422, "restart.unknown_state")
    assert 'did you mean "review"' in problem["detail"]
    problem_of(say(api, "restart", instance_id, state=5), 422, "request.invalid")
    problem_of(say(api, "restart", instance_id, context={"text": "x" * 1_100_000}), 413, "limit.exceeded")


@pytest.mark.parametrize("verb", ["pause", "resume", "step", "retry", "restart", "cancel"])
def test_who_only_reads_cannot_say_it(api: Api, verb: str) -> None:
    instance_id = api.start()
    answer = api.post(f"/instances/{instance_id}/{verb}", {}, key=api.keys["viewer"])
    problem_of(answer, 403, "auth.forbidden")
    assert status(api, instance_id) == "waiting"


# -- incidents -------------------------------------------------------------------------------------------------------


def crashed(api: Api) -> str:
    api.engine.handler("CRASH", crash)
    return api.start(CRASHING)


def incident_of(api: Api, instance_id: str) -> dict[str, Any]:
    return dict(api.get("/incidents", instanceId=instance_id, status="open").json["items"][0])


def test_an_incident_is_skipped_with_an_output(api: Api) -> None:
    instance_id = crashed(api)
    incident = incident_of(api, instance_id)

    body = {"way": "skip", "output": {"by": "hand"}, "reason": "paid in cash"}
    answer = api.post(f"/incidents/{incident['id']}/resolve", body, headers=NO_WAIT)
    assert (answer.status_code, answer.json["id"]) == (202, instance_id)
    api.engine.settle()

    assert status(api, instance_id) == "completed"
    resolved = api.get(f"/incidents/{incident['id']}").json
    assert (resolved["status"], resolved["resolution"], resolved["waysOut"]) == ("resolved", "skipped", [])
    assert resolved["task"]["status"] == "skipped"
    problem_of(api.post(f"/incidents/{incident['id']}/resolve", body), 409, "incident.resolved")


def test_a_retry_that_fails_again_has_resolved_one_incident_and_opens_the_next(api: Api) -> None:
    instance_id = crashed(api)
    incident = incident_of(api, instance_id)
    say(api, "retry", instance_id)
    assert status(api, instance_id) == "failed"  # it crashes again: the next incident is open
    assert api.get(f"/incidents/{incident['id']}").json["resolution"] == "retried"
    assert incident_of(api, instance_id)["id"] != incident["id"]


# -- many ------------------------------------------------------------------------------------------------------------


def bulk(api: Api, **body: Any) -> dict[str, Any]:
    answer = api.post("/instances:bulk", body)
    assert answer.status_code == 200, answer.json
    api.engine.settle()
    return dict(answer.json)


def test_a_dry_run_tells_and_does_nothing(api: Api) -> None:
    ids = {api.start(labels={"customer": "7"}) for _ in range(3)}
    api.start()
    told = bulk(api, verb="pause", filter={"labels": {"customer": "7"}}, dryRun=True)
    assert set(told["accepted"]) == ids
    assert {status(api, one) for one in ids} == {"waiting"}

    assert bulk(api, verb="pause", filter={"labels": {"customer": "7"}})["accepted"] == told["accepted"]
    assert {status(api, one) for one in ids} == {"paused"}


def test_many_are_taken_page_by_page_and_refused_one_by_one(api: Api) -> None:
    ids = [api.start() for _ in range(5)]
    say(api, "cancel", ids[2])
    accepted: list[str] = []
    refused: list[dict[str, Any]] = []
    cursor = None
    for _ in range(3):
        page = bulk(
            api,
            verb="cancel",
            filter={"definitionKey": "approval"},
            limit=2,
            **({"cursor": cursor} if cursor else {}),
        )
        accepted += page["accepted"]
        refused += page["refused"]
        cursor = page["nextCursor"]
    assert cursor is None
    assert accepted == [one for one in reversed(ids) if one != ids[2]]
    assert [(one["id"], one["code"]) for one in refused] == [(ids[2], "instance.finished")]
    assert {status(api, one) for one in ids} == {"cancelled"}


def test_a_cursor_holds_for_the_command_that_gave_it(api: Api) -> None:
    for _ in range(2):
        api.start()
    cursor = bulk(api, verb="pause", filter={"definitionKey": "approval"}, limit=1, dryRun=True)["nextCursor"]
    body = {"verb": "cancel", "filter": {"definitionKey": "approval"}, "limit": 1, "cursor": cursor}
    problem_of(api.post("/instances:bulk", body), 400, "cursor.invalid")


@pytest.mark.parametrize(
    "filter", [{}, {"status": []}, {"labels": {}}, {"definitionKey": None, "status": []}]
)
def test_a_filter_that_restricts_nothing_is_refused(api: Api, filter: dict[str, Any]) -> None:
    instance_id = api.start()
    problem = problem_of(
        api.post("/instances:bulk", {"verb": "cancel", "filter": filter}), 422, "filter.empty"
    )
    assert "expected a value for at least one of status, definitionKey" in problem["detail"]
    api.engine.settle()
    assert status(api, instance_id) == "waiting"


@pytest.mark.parametrize("filter", [{}, {"code": None}])
def test_incidents_need_a_filter_too(api: Api, filter: dict[str, Any]) -> None:
    problem_of(api.post("/incidents:resolve", {"way": "retry", "filter": filter}), 422, "filter.empty")


def test_incidents_are_resolved_by_their_code(api: Api) -> None:
    ids = [crashed(api) for _ in range(3)]
    wanted = {"code": "RuntimeError", "definitionKey": "crashing"}
    told = api.post("/incidents:resolve", {"way": "skip", "filter": wanted, "dryRun": True}).json
    assert len(told["accepted"]) == 3
    done = api.post("/incidents:resolve", {"way": "skip", "filter": wanted}).json
    api.engine.settle()
    assert done["accepted"] == told["accepted"]
    assert {status(api, one) for one in ids} == {"completed"}


def test_another_tenant_s_instances_are_not_among_them(api: Api) -> None:
    instance_id = api.start()
    answer = api.post(
        "/instances:bulk", {"verb": "cancel", "filter": {"definitionKey": "approval"}}, key=api.other_key
    )
    assert answer.json["accepted"] == []
    api.engine.settle()
    assert status(api, instance_id) == "waiting"


def test_all_of_a_tenant_are_resumed_and_retried_by_one_command_each(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_mended: list[bool] = []
    api.engine.handler("CRASH", lambda given: None if is_mended else crash(given))
    failed = {api.start(document) for document in (CRASHING, {**CRASHING, "id": "crashing-too"})}
    paused = {api.start(document) for document in (APPROVAL, {**APPROVAL, "id": "approval-too"})}
    for instance_id in paused:
        say(api, "pause", instance_id)
    untouched = api.start()
    definition = api.post("/definitions", {"document": APPROVAL}, key=api.other_key)
    assert definition.status_code == 201
    foreign = api.post("/instances", {"definitionKey": "approval"}, key=api.other_key).json["id"]
    api.engine.settle()
    api.post(f"/instances/{foreign}/pause", {}, key=api.other_key)
    api.engine.settle()
    is_mended.append(True)

    with served(api) as url:
        cli = Cli(api, url, monkeypatch)
        assert set(cli.json("resume", "--all", "--dry-run")["accepted"]) == paused
        unsure = cli.run("retry", "--all")
        resumed = cli.json("resume", "--all", "--yes")
        retried = cli.json("retry", "--all", "--yes")
        refused = [
            cli.run(verb, *more, "--yes")
            for verb in ("resume", "retry")
            for more in (["--all", "--definition", "approval"], ["--all", untouched], [])
        ]
    api.engine.settle()

    assert (set(resumed["accepted"]), set(retried["accepted"])) == (paused, failed)
    assert resumed["refused"] == retried["refused"] == []
    assert {status(api, one) for one in failed} == {"completed"}
    assert {status(api, one) for one in paused} == {"waiting"}
    assert api.get(f"/instances/{foreign}", key=api.other_key).json["status"] == "paused"
    assert "this would retry 2 instances; say --yes" in str(unsure.exception)
    assert [type(one.exception) for one in refused] == [UsageError] * 6
