"""Limits of running tasks by the API and `signalbox limits`: set, told, explained and taken away."""

from typing import Any

import pytest

from signalbox.cli.exits import UsageError
from tests.integration.api.cli import Cli, served
from tests.integration.api.conftest import Api, problem_of
from tests.integration.engine.documents import one_task

TOLD = ("key", "source", "maxRunning", "rate", "running", "waiting", "tokens")


def told(limit: Any) -> dict[str, Any]:
    return {name: limit[name] for name in TOLD}


def start(api: Api, count: int, **task: Any) -> list[str]:
    api.engine.handler("work", lambda _input: None)
    key = api.engine.apply(one_task("work", **task))
    started = [str(api.engine.start(key)) for _ in range(count)]
    api.engine.advance()
    return started


def test_a_limit_is_set_changed_told_and_deleted(api: Api) -> None:
    start(api, 3)

    created = api.put("/limits/type:work", {"maxRunning": 2})
    assert created.status_code == 201, created.text
    assert (created.json["updatedBy"], created.json["createdAt"]) == (
        "key:the admin",
        created.json["updatedAt"],
    )
    assert len(api.engine.claim()) == 2

    expected = {
        "key": "type:work",
        "source": "api",
        "maxRunning": 2,
        "rate": None,
        "running": 2,
        "waiting": 1,
        "tokens": None,
    }
    assert told(api.get("/limits/type:work").json) == expected
    changed = api.put("/limits/type:work", {"rate": {"count": 6, "per": "1m"}})
    assert changed.status_code == 200
    rate = {"count": 6, "perMs": 60_000, "burst": 6}
    assert told(changed.json) == expected | {"maxRunning": None, "rate": rate, "tokens": 6.0}
    assert [told(one) for one in api.get("/limits").json["items"]] == [told(changed.json)]

    assert api.delete("/limits/type:work").status_code == 204
    problem_of(api.get("/limits/type:work"), 404, "limit.not_found")
    problem_of(api.delete("/limits/type:work"), 404, "limit.not_found")
    assert len(api.engine.claim_unlimited()) == 1


@pytest.mark.parametrize("key", ["key:crm/eu", "key:https://crm.example/v1/", "key:a%2Fb"])
def test_a_key_with_slashes_has_its_address(api: Api, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    with served(api) as url:
        cli = Cli(api, url, monkeypatch)
        assert cli.json("limits", "set", key, "--max-running", "1")["key"] == key
        assert cli.json("limits", "show", key)["maxRunning"] == 1
        assert [one["key"] for one in cli.json("limits", "list")["items"]] == [key]
        assert cli.json("limits", "delete", key) == {"key": key, "deleted": True}
        assert cli.json("limits", "list")["items"] == []


def test_a_definition_s_limit_is_told_and_an_operator_s_counts_more(api: Api) -> None:
    start(api, 1, limit={"key": "crm eu", "maxRunning": 3})
    [asked] = api.get("/limits").json["items"]
    assert told(asked) | {"updatedBy": asked["updatedBy"]} == {
        "key": "key:crm eu", "source": "definition", "maxRunning": 3, "rate": None, "running": 0, "waiting": 1,
        "tokens": None, "updatedBy": "definition:one-work",
    }  # fmt: skip

    assert api.put("/limits/key:crm eu", {"maxRunning": 0}).status_code == 200
    start(api, 1, limit={"key": "crm eu", "maxRunning": 3})

    assert api.engine.claim() == []
    [task] = api.get("/tasks", limit=1).json["items"]
    assert task["limitKey"] == "key:crm eu"


def test_limits_come_page_by_page(api: Api) -> None:
    keys = [f"key:{letter}" for letter in "abcde"]
    for key in keys:
        api.put(f"/limits/{key}", {"maxRunning": 1})

    found, cursor = [], None
    while True:
        page = api.get("/limits", limit=2, **({"cursor": cursor} if cursor else {})).json
        found += [item["key"] for item in page["items"]]
        cursor = page["nextCursor"]
        if cursor is None:
            break

    assert found == keys


def test_explain_tells_which_limit_a_task_waits_for(api: Api) -> None:
    rate = {"count": 1, "per": "1h"}
    started = start(api, 2, limit={"key": "crm", "maxRunning": 5, "rate": rate})
    [claimed] = api.engine.claim()
    [waits] = [one for one in started if one != claimed.instance_id]

    explained = api.get(f"/instances/{waits}/explain").json

    [(task, [wait])] = explained["limits"].items()
    assert task == explained["tasks"][0]["id"]
    assert wait["nextTokenAt"] > claimed.claimed_at.isoformat()
    assert {**wait, "nextTokenAt": None} == {
        "key": "key:crm",
        "maxRunning": 5,
        "running": 1,
        "nextTokenAt": None,
    }
    assert api.get(f"/instances/{claimed.instance_id}/explain").json["limits"] == {}


@pytest.mark.parametrize(
    ("key", "body", "status", "code"),
    [
        ("HTTP", {"maxRunning": 1}, 422, "limit.key_invalid"),
        ("type:", {"maxRunning": 1}, 422, "limit.key_invalid"),
        ("key:a\x01", {"maxRunning": 1}, 422, "limit.key_invalid"),
        ("key:" + "a" * 207, {"maxRunning": 1}, 422, "limit.key_invalid"),
        ("key:a", {}, 422, "limit.invalid"),
        ("key:a", {"rate": {"count": 1, "per": 0}}, 422, "limit.invalid"),
        ("key:a", {"rate": {"count": 1, "per": "soon"}}, 422, "limit.invalid"),
        ("key:a", {"maxRunning": -1}, 422, "request.invalid"),
        ("key:a", {"maxRunning": 10**9}, 422, "request.invalid"),
        ("key:a", {"maxRunning": True}, 422, "request.invalid"),
        ("key:a", {"rate": {"count": 0, "per": "1s"}}, 422, "request.invalid"),
        ("key:a", {"rate": {"per": "1s"}}, 422, "request.invalid"),
        ("key:a", {"most": 3}, 422, "request.invalid"),
    ],
)  # fmt: skip
def test_what_is_no_limit_is_refused(api: Api, key: str, body: Any, status: int, code: str) -> None:
    problem_of(api.put(f"/limits/{key}", body), status, code)
    assert api.get("/limits").json["items"] == []


def test_who_may_only_read_sets_nothing(api: Api) -> None:
    viewer = api.keys["viewer"]
    assert api.get("/limits", key=viewer).status_code == 200
    assert api.put("/limits/key:a", {"maxRunning": 1}, key=viewer).status_code == 403
    assert api.delete("/limits/key:a", key=viewer).status_code == 403


# -- signalbox limits ---------------------------------------------------------------------------------------------


def test_the_commands(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    with served(api) as url:
        cli = Cli(api, url, monkeypatch)
        made = cli.json("limits", "set", "type:work", "--max-running", "3", "--rate", "10/1s", "--burst", "2")
        assert told(made)["rate"] == {"count": 10, "perMs": 1_000, "burst": 2}
        assert told(cli.json("limits", "show", "type:work"))["maxRunning"] == 3
        assert [one["key"] for one in cli.json("limits", "list")["items"]] == ["type:work"]
        table = cli.run("limits", "list")
        assert (table.exit_code, "10 in 1 s, 2 at once" in table.stdout) == (0, True)
        assert "0 of 3" in cli.run("limits", "show", "type:work").stdout
        assert cli.json("limits", "delete", "type:work") == {"key": "type:work", "deleted": True}
        assert cli.json("limits", "list")["items"] == []


@pytest.mark.parametrize(
    "said", [(), ("--rate", "10"), ("--rate", "x/1s"), ("--max-running", "1", "--burst", "3")]
)
def test_commands_that_say_too_little(
    api: Api, monkeypatch: pytest.MonkeyPatch, said: tuple[str, ...]
) -> None:
    with served(api) as url:
        result = Cli(api, url, monkeypatch).run("limits", "set", "key:a", *said)
    assert isinstance(result.exception, UsageError)
