"""Publishing events and keeping triggers over HTTP."""

from typing import Any

import pytest

from common.commands import trigger_charts
from signalbox.cli.exits import UsageError
from statechart import load
from tests.integration.api.cli import Cli, served
from tests.integration.api.conftest import APPROVAL, V1, Api, problem_of
from tests.integration.engine.documents import ON_SQLITE


def create(api: Api, **more: Any) -> dict[str, Any]:
    answer = api.post("/triggers", {"definitionKey": "approval", "event": "order.*", **more})
    assert answer.status_code == 201, answer.text
    return dict(answer.json or {})


def publish(api: Api, type: str, **more: Any) -> list[dict[str, Any]]:
    answer = api.post("/events", {"type": type, **more})
    assert answer.status_code == 202, answer.text
    return list((answer.json or {})["items"])


def kinds(reactions: list[dict[str, Any]]) -> list[str]:
    return [one["kind"] for one in reactions]


def test_every_definition_whose_trigger_matches_starts(api: Api) -> None:
    api.apply(
        {
            **APPROVAL,
            "triggers": [{"event": "order.paid", "condition": {"type": "not", "guard": "event.small"}}],
        }
    )
    api.apply({**APPROVAL, "id": "audit", "triggers": ["*"]})
    api.apply({**APPROVAL, "id": "deaf", "triggers": ["order.shipped.*"]})
    mine = create(api, name="by hand", input={"n": "${event.n}"}, businessKey="o-${event.n}")

    found = publish(api, "order.paid", n=3, small=False)
    assert sorted((one["kind"], one["definitionKey"]) for one in found) == [
        ("started", "approval"),
        ("started", "approval"),
        ("started", "audit"),
    ]
    (by_hand,) = [one for one in found if one["triggerId"] == mine["id"]]
    instance = api.get(f"/instances/{by_hand['instanceId']}").json or {}
    assert (instance["input"], instance["businessKey"], instance["depth"]) == ({"n": 3}, "o-3", 0)
    assert instance["labels"] == {"trigger": "by hand"}
    (audit,) = [one for one in found if one["definitionKey"] == "audit"]
    assert (api.get(f"/instances/{audit['instanceId']}").json or {})["input"] == {
        "type": "order.paid",
        "n": 3,
        "small": False,
    }

    assert sorted(kinds(publish(api, "order.paid", n=3, small=True))) == ["held", "started"]
    assert kinds(publish(api, "order", n=4, small=False)) == ["started", "started"], "foo.* answers foo, too"
    assert kinds(publish(api, "orders", n=5)) == ["started"]


def test_correlated_instances_get_it(api: Api) -> None:
    one = api.start(businessKey="k-1", labels={"region": "eu"})
    two = api.start(businessKey="k-2", labels={"region": "eu"})
    other = api.start({**APPROVAL, "id": "other"}, businessKey="k-1")

    assert kinds(publish(api, "LOOKED", correlation={"businessKey": "k-1", "definitionKey": "approval"})) == [
        "delivered"
    ]
    found = publish(api, "APPROVED", correlation={"businessKey": "k-1"})
    assert {item["instanceId"] for item in found} == {one, other}
    api.engine.settle()
    assert (api.get(f"/instances/{one}").json or {})["context"] == {"approved": True}
    assert "correlation" not in str(api.engine.entries(one))

    found = publish(api, "APPROVED", correlation={"labels": {"region": "eu"}})
    assert [item["instanceId"] for item in found] == [two], "the other one has ended"
    assert publish(api, "APPROVED", correlation={"businessKey": "nobody"}) == []


COSTLY = "lists.range(150).map(a, lists.range(150).map(b, a*b+1)).size() < 0"
"""Almost all that one trigger may take, and false."""


def costly(number: int, **more: Any) -> dict[str, Any]:
    triggers = [{"name": f"t{one}", "event": "BOMB", "condition": COSTLY, **more} for one in range(number)]
    return {**APPROVAL, "id": "costly", "triggers": triggers}


def test_triggers_that_cost_too_much_together_refuse_the_event(api: Api) -> None:
    api.apply({**APPROVAL, "triggers": ["BOMB"]})
    api.apply(costly(300))

    answer = api.post("/events", {"type": "BOMB"})

    problem = problem_of(answer, 422, "limit.exceeded")
    assert (problem["limit"], problem["allowed"]) == ("max_trigger_operations", 500_000)
    assert api.get("/instances").json["items"] == []


def test_a_trigger_that_costs_too_much_by_itself_stops_no_other(api: Api) -> None:
    api.apply({**APPROVAL, "triggers": ["BOMB"]})
    endless = COSTLY.replace("150", "1000")
    api.apply({**costly(1), "triggers": [{"event": "BOMB", "condition": endless}]})

    assert kinds(publish(api, "BOMB")) == ["refused", "started"]


def test_inputs_that_are_too_large_together_refuse_the_event(api: Api) -> None:
    api.apply({**APPROVAL, "triggers": [{"name": f"t{one}", "event": "LARGE"} for one in range(40)]})

    answer = api.post("/events", {"type": "LARGE", "text": "x" * 900_000})

    assert problem_of(answer, 413, "limit.exceeded")["limit"] == "max_trigger_bytes"
    assert api.get("/instances").json["items"] == []


@ON_SQLITE
def test_those_of_a_version_are_asked_without_its_states(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[Any] = []
    monkeypatch.setattr(trigger_charts, "load", lambda document: compiled.append(document) or load(document))
    states = {f"s{index}": {"on": {"GO": "done"}} for index in range(200)}
    for index in range(3):
        document = {
            **APPROVAL, "id": f"large-{index}", "initial": "s0", "states": {**states, "done": {"type": "final"}},
            "guards": {"paid": "event.n > 1"}, "triggers": [{"event": "order.paid", "condition": "paid"}],
        }  # fmt: skip
        api.apply(document)

    assert kinds(publish(api, "order.paid", n=1)) == []
    assert kinds(publish(api, "order.paid", n=2)) == ["started"] * 3
    assert [len(document["states"]) for document in compiled] == [1, 1, 1], "once each, and kept"


def test_a_text_that_looks_like_a_guard_which_asks_for_states_harms_nothing(api: Api) -> None:
    guards = {"above": "event.n > params.floor", "waiting": {"type": "stateIn", "state": "review"}}
    condition = {"type": "above", "params": {"floor": 1, "called": "waiting"}}
    api.apply({**APPROVAL, "guards": guards, "triggers": [{"event": "order.paid", "condition": condition}]})

    assert kinds(publish(api, "order.paid", n=2)) == ["started"]


def test_an_idempotency_key_publishes_once(api: Api) -> None:
    api.apply({**APPROVAL, "triggers": ["PAID"]})
    headers = {"Idempotency-Key": "once"}
    answers = [api.post("/events", {"type": "PAID"}, headers=headers).json for _ in range(2)]
    assert answers[0] == answers[1]
    assert len((api.get("/instances").json or {})["items"]) == 1


@ON_SQLITE
def test_one_that_cannot_start_is_told_and_stops_no_other(api: Api) -> None:
    api.apply({**APPROVAL, "triggers": ["PAID"]})
    api.apply({**APPROVAL, "id": "gone"}, activate=False)
    create(api, definitionKey="gone", event="PAID")
    create(api, event="PAID", businessKey="${event.nothing}")
    create(api, event="PAID", businessKey="${[event.type]}")
    create(api, event="PAID", condition="event.type")
    create(api, event="PAID", enabled=False)
    found = publish(api, "PAID")
    assert sorted(kinds(found)) == ["refused"] * 4 + ["started"]
    codes = sorted(one["problem"]["code"] for one in found if one["problem"])
    assert codes == ["definition.not_active", "trigger.failed", "trigger.failed", "trigger.failed"]


@ON_SQLITE
@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "event.invalid"),
        ([], "event.invalid"),
        ("PAID", "event.invalid"),
        ({"type": ""}, "event.invalid"),
        ({"type": "a.*"}, "event.invalid"),
        ({"type": "x" * 201}, "event.invalid"),
        ({"type": 3}, "event.invalid"),
        ({"type": "done.task.x"}, "event.reserved"),
        ({"type": "xstate.init"}, "event.reserved"),
        ({"type": "escalated.task.x"}, "event.reserved"),
        ({"type": "A", "correlation": {}}, "correlation.invalid"),
        ({"type": "A", "correlation": {"definitionKey": "x"}}, "correlation.invalid"),
        ({"type": "A", "correlation": {"businessKey": 3}}, "correlation.invalid"),
        ({"type": "A", "correlation": {"labels": {"a:b": "c"}}}, "correlation.invalid"),
        ({"type": "A", "correlation": {"nobody": "x"}}, "correlation.invalid"),
        ({"type": "A", "correlation": "k"}, "correlation.invalid"),
        ({"type": "A", "blob": "x" * 1_100_000}, "limit.exceeded"),
    ],
)
def test_what_cannot_be_published_is_refused(api: Api, body: Any, code: str) -> None:
    api.apply({**APPROVAL, "triggers": ["*"]})
    answer = api.post("/events", body)
    assert answer.status_code in (413, 422), answer.text
    assert (answer.json or {})["code"] == code
    assert (api.get("/instances").json or {})["items"] == []


@ON_SQLITE
@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"event": ""}, "event"),
        ({"event": "a.*.b"}, "event"),
        ({"event": None}, "event"),
        ({"condition": "event. >"}, "condition"),
        ({"condition": "isGood"}, "condition"),
        ({"condition": {"type": "stateIn", "state": "review"}}, "condition.state"),
        ({"condition": "context.x == 1"}, "condition"),
        ({"condition": 3}, "condition"),
        ({"input": {"a": "${1 +"}}, "input"),
        ({"input": "${instance.id}"}, "input"),
        ({"input": "${secret.KEY}"}, "input"),
        ({"businessKey": "${config.a.b}"}, "businessKey"),
        ({"businessKey": ""}, "businessKey"),
        ({"enabled": "yes"}, "enabled"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_what_cannot_be_a_trigger_is_refused_with_its_place(
    api: Api, body: dict[str, Any], path: str
) -> None:
    api.apply()
    answer = api.post("/triggers", {"definitionKey": "approval", "event": "PAID", **body})
    assert answer.status_code == 422, answer.text
    assert path in [one["path"] for one in (answer.json or {})["problems"]], answer.text
    assert (api.get("/triggers").json or {})["items"] == []


@ON_SQLITE
def test_a_trigger_is_read_changed_and_deleted(api: Api) -> None:
    api.apply({**APPROVAL, "triggers": [{"name": "written", "event": "A"}]})
    one = create(api, condition={"type": "and", "guards": ["event.a", "event.b"]})["id"]
    path = f"{V1}/triggers/{one}"
    body = {"definitionKey": "approval", "event": "PAID", "enabled": False}
    assert api.send_raw("PUT", path, json=body).json["enabled"] is False
    assert api.get(f"/triggers/{one}").json["condition"] is None
    assert [item["source"] for item in api.get("/triggers").json["items"]] == ["api", "definition"]
    assert [item["id"] for item in api.get("/triggers", event="PAID").json["items"]] == [one]
    assert api.send_raw("DELETE", path).status_code == 200
    assert api.send_raw("DELETE", path).json["code"] == "trigger.not_found"
    (written,) = api.get("/triggers").json["items"]
    refused = api.send_raw("DELETE", f"{V1}/triggers/{written['id']}")
    assert (refused.status_code, refused.json["code"]) == (409, "trigger.of_definition")


@ON_SQLITE
def test_tenants_and_roles(api: Api) -> None:
    api.apply({**APPROVAL, "triggers": ["PAID"]})
    one = create(api)["id"]
    started = api.start(businessKey="k")
    asked = {"type": "PAID", "correlation": {"businessKey": "k"}}
    assert api.post("/events", asked, key=api.other_key).json == {"items": [], "nextCursor": None}
    assert api.get("/triggers", key=api.other_key).json["items"] == []
    assert api.get(f"/triggers/{one}", key=api.other_key).status_code == 404
    assert api.send_raw("DELETE", f"{V1}/triggers/{one}", key=api.other_key).status_code == 404
    assert "PAID" not in str(api.engine.entries(started))
    for role, may_define, may_operate in [
        ("viewer", False, False),
        ("operator", False, True),
        ("author", True, False),
        ("worker", False, False),
    ]:
        key = api.keys[role]
        body = {"definitionKey": "approval", "event": "X"}
        assert (api.post("/triggers", body, key=key).status_code == 201) is may_define
        assert (api.post("/events", {"type": "Y"}, key=key).status_code == 202) is may_operate


@ON_SQLITE
def test_the_command_line(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    api.apply()
    api.start(businessKey="k")
    with served(api) as url:
        cli = Cli(api, url, monkeypatch)
        made = cli.json(
            "triggers", "create", "approval", "order.*", "--condition", "event.n > 1", "--name", "big",
            "--input", '{"n": "${event.n}"}', "-k", "o-${event.n}",
        )  # fmt: skip
        one = made["id"]
        found = cli.json("publish", "order.paid", "--data", '{"n": 2}')["items"]
        assert kinds(found) == ["started"]
        assert kinds(cli.json("publish", "order.paid", "--data", '{"n": 1}')["items"]) == []
        assert kinds(cli.json("publish", "LOOKED", "-k", "k", "--definition", "approval")["items"]) == [
            "delivered"
        ]
        assert "started" in cli.text("publish", "order.paid", "--data", '{"n": 5}')
        assert "order.*" in cli.text("triggers", "list")
        assert "event.n > 1" in cli.text("triggers", "show", one)
        changed = cli.json("triggers", "create", "approval", "X", "--disabled", "--replace", one)
        assert (changed["event"], changed["enabled"]) == ("X", False)
        assert cli.json("triggers", "rm", one)["id"] == one
        wrong = cli.run("publish", "A", "--data", '{"type": "B"}')
        assert isinstance(wrong.exception, UsageError)
