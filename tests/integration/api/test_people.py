"""People and their tasks over HTTP: who may say which verb, what becomes of it, and what the history keeps."""

import threading
from hashlib import sha256
from typing import Any

import pytest

from common.canonical import dumps
from common.db.tables import Role
from common.ids import new_id
from tests.integration.api.conftest import Api, problem_of
from tests.integration.api.people import (
    ask,
    entries_of,
    four_eyes,
    human,
    is_verified,
    key_named,
    say,
    task_of,
)

FORM = {
    "type": "object",
    "properties": {"approved": {"type": "boolean"}, "lines": {"items": {"type": "integer"}}},
    "required": ["approved"],
    "additionalProperties": False,
}


# -- completing and rejecting -------------------------------------------------------------------------------------


def test_a_completed_task_takes_its_instance_on_and_the_history_says_who_saw_what(api: Api) -> None:
    shown = {"title": "Invoice 7", "description": "Please look.", "input": {"total": 12}, "form": FORM}
    instance_id, task_id = ask(api, **shown)
    task = api.get(f"/tasks/{task_id}").json or {}
    expected = sha256(dumps(shown).encode()).hexdigest()
    assert {name: task[name] for name in ("title", "description", "input", "form")} == shown
    assert (task["shownHash"], task["endedBy"], task["candidates"], task["assignee"]) == (
        expected,
        None,
        [],
        None,
    )

    answer = say(api, task_id, "complete", output={"approved": True}, shownHash=expected)

    assert answer.status_code == 200, answer.text
    assert (answer.json["status"], answer.json["endedBy"]) == ("succeeded", "key:the admin")
    told = entries_of(api, instance_id, "task.succeeded", "human.decided", "event.received")
    assert [entry["type"] for entry in told] == ["task.succeeded", "human.decided", "event.received"]
    assert told[1] == {
        "type": "human.decided",
        "taskId": task_id,
        "person": "key:the admin",
        "decision": "completed",
        "shownHash": expected,
    }
    instance = api.get(f"/instances/{instance_id}").json or {}
    assert (instance["status"], instance["output"]) == ("completed", {"approved": True})
    actors = {entry["actor"] for entry in (api.get(f"/instances/{instance_id}/history").json or {})["items"]}
    assert actors == {"key:the admin"}
    assert is_verified(api, instance_id)


def test_a_rejected_task_fails_for_good_with_its_reason(api: Api) -> None:
    instance_id, task_id = ask(api, retry={"maxAttempts": 5})

    answer = say(api, task_id, "reject", reason="not ours", output={"line": 3})

    assert (answer.json["status"], answer.json["error"]["code"]) == ("failed", "human.rejected")
    (decided,) = entries_of(api, instance_id, "human.decided")
    assert (decided["decision"], decided["reason"]) == ("rejected", "not ours")
    instance = api.get(f"/instances/{instance_id}").json or {}
    assert instance["output"] == {"code": "human.rejected", "message": "not ours", "data": {"line": 3}}
    assert is_verified(api, instance_id)


def test_a_rejection_that_nobody_catches_is_an_incident_and_a_retry_asks_again(api: Api) -> None:
    document = human()
    del document["states"]["asked"]["on"]["NO"]
    instance_id = api.start(document)
    task_id = task_of(api, instance_id)
    say(api, task_id, "reject", reason="not ours")
    assert entries_of(api, instance_id, "human.decided", "incident.opened")[0]["type"] == "human.decided"
    assert (api.get(f"/instances/{instance_id}").json or {})["status"] == "failed"

    api.post(f"/instances/{instance_id}/retry", {}, headers={"Prefer": "wait=0"})
    api.engine.settle()

    task = api.get(f"/tasks/{task_id}").json or {}
    assert (task["status"], task["endedBy"], task["error"]) == ("running", None, None)
    assert say(api, task_id, "complete", output=1).status_code == 200
    api.engine.settle()
    assert (api.get(f"/instances/{instance_id}").json or {})["status"] == "completed"
    assert is_verified(api, instance_id)


def test_a_second_completion_is_told_who_was_first(api: Api) -> None:
    instance_id, task_id = ask(api)
    say(api, task_id, "complete", output=1)

    for verb, body in (
        ("complete", {"output": 2}),
        ("reject", {"reason": "no"}),
        ("claim", {}),
        ("unclaim", {}),
    ):
        problem = problem_of(say(api, task_id, verb, **body), 409, "task.ended", verb)
        assert "by key:the admin at 20" in problem["detail"]
        assert problem["endedBy"] == "key:the admin"
    api.engine.settle()
    assert (api.get(f"/instances/{instance_id}").json or {})["output"] == 1


def test_a_task_that_was_cancelled_with_its_instance_cannot_be_completed(api: Api) -> None:
    instance_id, task_id = ask(api)
    api.post(f"/instances/{instance_id}/events", {"type": "LEAVE"})
    api.engine.settle()

    problem = problem_of(say(api, task_id, "complete", output=1), 409, "task.ended")
    assert "cancelled at 20" in problem["detail"]


def test_of_many_completions_at_once_one_counts(api: Api) -> None:
    instance_id, task_id = ask(api)
    begin = threading.Barrier(6)
    statuses: list[int] = []

    def complete(n: int) -> None:
        begin.wait()
        statuses.append(say(api, task_id, "complete", output=n).status_code)

    threads = [threading.Thread(target=complete, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(statuses) == [200, 409, 409, 409, 409, 409]
    assert len(entries_of(api, instance_id, "human.decided")) == 1


@pytest.mark.parametrize("verb", ["pause", "fail"])
def test_what_a_person_decides_while_the_instance_stands_still_waits(api: Api, verb: str) -> None:
    document = human()
    document["states"]["asked"]["on"]["BREAK"] = {
        "actions": [{"type": "assign", "path": "x", "value": "${1 / context.none}"}]
    }
    instance_id = api.start(document)
    task_id = task_of(api, instance_id)
    if verb == "pause":
        api.engine.control("pause", instance_id)
    else:
        api.engine.send(instance_id, "BREAK")
    api.engine.settle()

    assert say(api, task_id, "complete", output="yes").status_code == 200
    assert entries_of(api, instance_id, "human.decided") == []
    api.engine.control("resume" if verb == "pause" else "cancel", instance_id)

    assert len(entries_of(api, instance_id, "human.decided")) == 1
    assert is_verified(api, instance_id)


def test_an_output_that_does_not_fit_the_form_is_refused_by_path(api: Api) -> None:
    instance_id, task_id = ask(api, form=FORM)

    problem = problem_of(
        say(api, task_id, "complete", output={"approved": "yes", "lines": [1, "2"], "more": 1}),
        422,
        "task.output_invalid",
    )

    assert {one["path"] for one in problem["problems"]} == {"more", "approved", "lines[1]"}
    assert entries_of(api, instance_id, "human.decided", "human.refused") == []
    assert say(api, task_id, "complete", output={"approved": False}).status_code == 200


def test_a_computed_form_that_is_no_schema_keeps_nobody_from_rejecting(api: Api) -> None:
    for form in ({"type": 7}, {"$ref": "file:///etc/passwd"}, {"$ref": "http://127.0.0.1:1/x"}):
        instance_id = api.start(human(form="${input.form}"), input={"form": form})
        task_id = task_of(api, instance_id)
        problem_of(say(api, task_id, "complete", output=1), 422, "task.form_unusable", form)
        assert say(api, task_id, "reject", reason="unusable").status_code == 200


def test_a_task_that_is_not_what_was_shown_is_not_decided(api: Api) -> None:
    _, task_id = ask(api)

    for verb, body in (("complete", {}), ("reject", {"reason": "no"})):
        answer = say(api, task_id, verb, shownHash="0" * 64, **body)
        problem_of(answer, 409, "human.shown_changed")


# -- whose work it is ---------------------------------------------------------------------------------------------


def test_claim_unclaim_and_delegate_stand_in_the_history(api: Api) -> None:
    instance_id, task_id = ask(api)
    ada = key_named(api, "ada@example.org")

    assert say(api, task_id, "claim", ada).json["assignee"] == "key:ada@example.org"
    assert say(api, task_id, "claim", ada).status_code == 200, "who has it may claim it again"
    assert say(api, task_id, "unclaim", ada).json["assignee"] is None
    problem_of(say(api, task_id, "unclaim", ada), 409, "task.unclaimed")
    assert say(api, task_id, "claim", assignee="bob@example.org").json["assignee"] == "bob@example.org"
    assert say(api, task_id, "delegate", assignee="ada@example.org").json["assignee"] == "ada@example.org"
    assert say(api, task_id, "complete", ada, output=1).status_code == 200, "the person, by whichever door"

    told = entries_of(api, instance_id, "task.claimed", "task.unclaimed", "task.delegated")
    assert [(entry["type"], entry["before"], entry.get("assignee")) for entry in told] == [
        ("task.claimed", None, "key:ada@example.org"),
        ("task.unclaimed", "key:ada@example.org", None),
        ("task.claimed", None, "bob@example.org"),
        ("task.delegated", "bob@example.org", "ada@example.org"),
    ]
    assert is_verified(api, instance_id)


def test_what_somebody_has_is_nobody_elses_and_refusals_are_kept(api: Api) -> None:
    instance_id, task_id = ask(api)
    ada, bob = key_named(api, "ada"), key_named(api, "bob")
    say(api, task_id, "claim", ada)

    problem_of(say(api, task_id, "claim", bob), 409, "human.claimed")
    problem_of(say(api, task_id, "unclaim", bob), 403, "human.not_assignee")
    problem_of(say(api, task_id, "delegate", bob, assignee="bob"), 403, "human.not_assignee")
    problem_of(say(api, task_id, "complete", bob, output=1), 403, "human.not_assignee")
    problem_of(say(api, task_id, "reject", bob, reason="no"), 403, "human.not_assignee")

    refused = entries_of(api, instance_id, "human.refused")
    assert [entry["why"] for entry in refused] == ["human.claimed", *["human.not_assignee"] * 4]
    assert {entry["person"] for entry in refused} == {"key:bob"}
    assert {len(entry["shownHash"]) for entry in refused} == {64}
    assert say(api, task_id, "complete", output=1).status_code == 200, "an admin may"
    assert is_verified(api, instance_id)


def test_only_candidates_may_take_or_decide_what_has_some(api: Api) -> None:
    instance_id, task_id = ask(api, candidates=["Ada@example.org", "key:grace"])
    bob, grace = key_named(api, "bob"), key_named(api, "grace")

    problem_of(say(api, task_id, "claim", bob), 403, "human.not_candidate")
    problem_of(say(api, task_id, "complete", bob, output=1), 403, "human.not_candidate")
    problem_of(say(api, task_id, "claim", grace, assignee="bob"), 403, "human.not_candidate")
    problem_of(say(api, task_id, "delegate", grace, assignee="bob"), 403, "human.not_candidate")
    assert len(entries_of(api, instance_id, "human.refused")) == 4
    assert say(api, task_id, "claim", grace, assignee="ada@example.org").status_code == 200
    assert say(api, task_id, "delegate", assignee="bob").status_code == 200, "an admin may name anybody"
    assert say(api, task_id, "complete", bob, output=1).status_code == 200, "whose work it is now"


def test_tasks_are_found_by_person(api: Api) -> None:
    _, given = ask(api, assignee="ada")
    _, offered = ask(api, candidates=["person:ada", "bob"])
    _, free = ask(api)

    def found(**query: Any) -> list[str]:
        answer = api.get("/tasks", type="HUMAN", **query)
        assert answer.status_code == 200, answer.text
        return [task["id"] for task in (answer.json or {})["items"]]

    assert found() == [free, offered, given]
    assert found(assignee="ada") == found(assignee="key:ada") == [given]
    assert found(candidate="ada") == found(candidate="key:bob") == [offered]
    assert found(candidate="ad") == []
    assert found(overdue="true") == []
    say(api, given, "complete", output=1)
    assert found(assignee="ada", status="running") == []


# -- roles --------------------------------------------------------------------------------------------------------

VERBS: dict[str, dict[str, Any]] = {
    "claim": {},
    "unclaim": {},
    "delegate": {"assignee": "x"},
    "complete": {"output": 1},
    "reject": {"reason": "no"},
    "fail": {"error": "no"},
}


def test_which_role_may_say_which_verb(api: Api) -> None:
    for verb, body in VERBS.items():
        for role in Role:
            _, task_id = ask(api)
            if verb == "unclaim":
                say(api, task_id, "claim", api.keys[role] if role is Role.OPERATOR else None)
            answer = say(api, task_id, verb, api.keys[role], **body)
            if role in (Role.OPERATOR, Role.ADMIN):
                assert answer.status_code == 200, f"{verb} {role} {answer.text}"
            else:
                problem_of(answer, 403, "auth.forbidden", f"{verb} {role}")


def test_a_worker_ends_what_it_has_leased_and_nothing_else(api: Api) -> None:
    document = human(type="work", retry={"maxAttempts": 2, "interval": "0s"})
    api.engine.handler("work", lambda input, context: None)
    worker = api.keys[Role.WORKER]

    def leased() -> tuple[str, str, str]:
        instance_id = str((api.post("/instances", {"definitionKey": "asking"}).json or {})["id"])
        api.engine.advance()
        (claim,) = api.engine.claim()
        return instance_id, claim.id, claim.token

    api.apply({**document}, allowUnknownTypes=True)
    instance_id, task_id, token = leased()
    problem_of(say(api, task_id, "complete", output=1), 409, "task.not_human", "without the token")
    problem_of(say(api, task_id, "complete", worker, output=1), 403, "auth.forbidden")
    problem_of(say(api, task_id, "complete", worker, output=1, leaseToken=new_id()), 409, "task.lease_lost")
    problem_of(say(api, task_id, "complete", worker, output=1, leaseToken="x"), 409, "task.lease_lost")
    problem_of(
        say(api, task_id, "complete", api.keys[Role.OPERATOR], output=1, leaseToken=token),
        403,
        "auth.forbidden",
    )
    assert say(api, task_id, "complete", worker, output=1, leaseToken=token).json["status"] == "succeeded"
    problem_of(say(api, task_id, "complete", worker, output=2, leaseToken=token), 409, "task.lease_lost")
    api.engine.settle()
    assert (api.get(f"/instances/{instance_id}").json or {})["output"] == 1

    instance_id, task_id, token = leased()
    failed = say(api, task_id, "fail", worker, error="later", leaseToken=token)
    assert failed.json["status"] == "pending", "its policy has it tried again"
    (again,) = api.engine.claim()
    error = {"code": "never", "message": "not at all", "data": [1]}
    ended = say(api, task_id, "fail", worker, error=error, retryable=False, leaseToken=again.token)
    assert (ended.json["status"], ended.json["error"]) == ("failed", error)
    api.engine.settle()
    assert (api.get(f"/instances/{instance_id}").json or {})["output"] == error


def test_a_late_result_of_a_remote_worker_is_kept_as_late(api: Api) -> None:
    api.engine.handler("work", lambda input, context: None)
    api.apply(human(type="work"), allowUnknownTypes=True)
    instance_id = str((api.post("/instances", {"definitionKey": "asking"}).json or {})["id"])
    api.engine.advance()
    (claim,) = api.engine.claim()
    api.engine.control("cancel", instance_id)
    api.engine.settle()

    answer = say(api, claim.id, "complete", api.keys[Role.WORKER], output=1, leaseToken=claim.token)

    problem_of(answer, 409, "task.lease_lost")
    assert len(entries_of(api, instance_id, "task.late")) == 1


# -- four eyes ----------------------------------------------------------------------------------------------------


def test_who_started_an_instance_is_no_second_pair_of_eyes(api: Api) -> None:
    instance_id = api.start(four_eyes(1))
    task_id = task_of(api, instance_id, "review-1")

    problem_of(say(api, task_id, "complete", output=1), 403, "human.four_eyes", "not even an admin")
    problem_of(say(api, task_id, "reject", reason="no"), 403, "human.four_eyes")
    same_name = key_named(api, "THE ADMIN", Role.ADMIN)
    problem_of(
        say(api, task_id, "complete", same_name, output=1), 403, "human.four_eyes", "only the case differs"
    )
    assert say(api, task_id, "complete", key_named(api, "ada"), output=1).status_code == 200

    assert len(entries_of(api, instance_id, "human.refused")) == 3
    assert is_verified(api, instance_id)


def test_a_note_before_the_start_hides_no_starter(api: Api) -> None:
    api.apply(four_eyes(1))
    soon = api.engine.now().replace(year=api.engine.now().year + 1).isoformat()
    instance_id = str((api.post("/instances", {"definitionKey": "eyes", "startAt": soon}).json or {})["id"])
    api.post(f"/instances/{instance_id}/history", {"note": "first"}, key=key_named(api, "ada"))
    api.engine.settle()
    api.engine.execute("UPDATE timers SET due_at = created_at")
    api.engine.settle()
    task_id = task_of(api, instance_id, "review-1")

    problem_of(say(api, task_id, "complete", output=1), 403, "human.four_eyes")
    (started,) = entries_of(api, instance_id, "instance.started")
    assert started["by"] == "key:the admin"
    assert say(api, task_id, "complete", key_named(api, "grace"), output=1).status_code == 200


def test_who_started_the_parent_does_not_approve_in_the_child(api: Api) -> None:
    api.apply(four_eyes(1))
    parent = {
        "id": "parent",
        "initial": "on",
        "states": {"on": {"entry": [{"type": "startWorkflow", "definitionKey": "eyes"}]}},
    }
    parent_id = api.start(parent)
    (child,) = (api.get("/instances", parentId=parent_id).json or {})["items"]
    task_id = task_of(api, child["id"], "review-1")

    problem_of(say(api, task_id, "complete", output=1), 403, "human.four_eyes")


def test_the_same_person_does_not_decide_twice(api: Api) -> None:
    instance_id = api.start(four_eyes(2))
    first, second = (task_of(api, instance_id, f"review-{n}") for n in (1, 2))
    ada, bob = key_named(api, "ada"), key_named(api, "bob")

    assert say(api, first, "complete", ada, output=1).status_code == 200
    problem_of(say(api, second, "complete", ada, output=1), 403, "human.four_eyes")
    problem_of(say(api, second, "fail", ada, error="no"), 403, "human.four_eyes")
    assert say(api, second, "complete", bob, output=1).status_code == 200
    api.engine.settle()
    assert (api.get(f"/instances/{instance_id}").json or {})["status"] == "completed"


@pytest.mark.parametrize("count", [2, 5])
def test_tasks_that_one_person_completes_at_the_same_moment_count_once(api: Api, count: int) -> None:
    instance_id = api.start(four_eyes(count))
    ids = [task_of(api, instance_id, f"review-{n}") for n in range(1, count + 1)]
    ada = key_named(api, "ada")
    begin = threading.Barrier(count)
    statuses: list[int] = []

    def complete(task_id: str) -> None:
        begin.wait()
        statuses.append(say(api, task_id, "complete", ada, output=1).status_code)

    threads = [threading.Thread(target=complete, args=(one,)) for one in ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(statuses) == [200, *[403] * (count - 1)]
    assert len(entries_of(api, instance_id, "human.refused")) == count - 1
    assert is_verified(api, instance_id)


# -- items of a MAP -----------------------------------------------------------------------------------------------


def test_people_decide_the_items_of_a_map_in_their_turn(api: Api) -> None:
    item = {"type": "HUMAN", "name": "look-${index}", "title": "${item}", "fourEyes": True}
    document = human(type="MAP", name="all", input={"items": ["a", "b"], "task": item, "concurrency": 1})
    instance_id = api.start(document)
    first, second = task_of(api, instance_id, "look-0"), task_of(api, instance_id, "look-1")
    ada, bob = key_named(api, "ada"), key_named(api, "bob")

    problem_of(say(api, second, "complete", ada, output=2), 409, "task.gated")
    problem_of(say(api, first, "complete", output=1), 403, "human.four_eyes")
    assert say(api, first, "complete", ada, output=1).status_code == 200
    problem_of(say(api, second, "complete", ada, output=2), 403, "human.four_eyes")
    assert say(api, second, "complete", bob, output=2).status_code == 200

    decided = entries_of(api, instance_id, "human.decided")
    assert [(entry["person"], entry["taskId"]) for entry in decided] == [
        ("key:ada", first),
        ("key:bob", second),
    ]
    assert (api.get(f"/instances/{instance_id}").json or {})["output"]["results"] == [1, 2]
    assert is_verified(api, instance_id)


# -- bad input ----------------------------------------------------------------------------------------------------

BAD: list[tuple[str, Any, int, str]] = [
    ("claim", {"assignee": ""}, 422, "request.invalid"),
    ("claim", {"assignee": " ada"}, 422, "task.invalid"),
    ("claim", {"assignee": 7}, 422, "request.invalid"),
    ("claim", {"asignee": "x"}, 422, "request.invalid"),
    ("delegate", {}, 422, "request.invalid"),
    ("delegate", {"assignee": "x" * 501}, 422, "request.invalid"),
    ("complete", {"output": "x" * 1_000_001}, 413, "limit.exceeded"),
    ("complete", {"shownHash": "x"}, 422, "request.invalid"),
    ("complete", {"leaseToken": "x" * 65}, 422, "request.invalid"),
    ("complete", [], 422, "request.invalid"),
    ("reject", {}, 422, "request.invalid"),
    ("reject", {"reason": ""}, 422, "request.invalid"),
    ("reject", {"reason": "x" * 2_001}, 422, "request.invalid"),
    ("fail", {"error": {"message": "x"}}, 422, "request.invalid"),
    ("fail", {"error": {"code": "x" * 201}}, 422, "request.invalid"),
    ("fail", {"error": 7}, 422, "request.invalid"),
]


def test_bad_input_is_refused_and_leaves_no_trace(api: Api) -> None:
    instance_id, task_id = ask(api)
    before = len(api.engine.entries(instance_id))

    for verb, body, status, code in BAD:
        problem_of(api.post(f"/tasks/{task_id}/{verb}", body), status, code, f"{verb} {str(body)[:80]}")

    api.engine.settle()
    assert len(api.engine.entries(instance_id)) == before
    assert (api.get(f"/tasks/{task_id}").json or {})["status"] == "running"


def test_tasks_of_other_tenants_do_not_exist(api: Api) -> None:
    _, task_id = ask(api)

    for verb, body in VERBS.items():
        problem_of(say(api, task_id, verb, api.other_key, **body), 404, "task.not_found")
        problem_of(say(api, new_id(), verb, **body), 404, "task.not_found")
        problem_of(say(api, "x", verb, **body), 404, "task.not_found")
    answer = say(api, task_id, "complete", api.other_key, output=1, leaseToken=new_id())
    problem_of(answer, 404, "task.not_found")


def test_a_refusal_does_not_use_an_idempotency_key_up(api: Api) -> None:
    instance_id, task_id = ask(api)
    ada, bob = key_named(api, "ada"), key_named(api, "bob")
    say(api, task_id, "claim", ada)
    once = {"Idempotency-Key": "k-1"}

    problem_of(api.post(f"/tasks/{task_id}/claim", {}, key=bob, headers=once), 409, "human.claimed")
    say(api, task_id, "unclaim", ada)
    answer = api.post(f"/tasks/{task_id}/claim", {}, key=bob, headers=once)

    assert answer.status_code == 200, answer.text
    replayed = api.post(f"/tasks/{task_id}/claim", {}, key=bob, headers=once)
    assert replayed.headers["Idempotency-Replayed"] == "true"
    assert len(entries_of(api, instance_id, "human.refused")) == 1
