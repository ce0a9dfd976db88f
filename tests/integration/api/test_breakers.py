"""Circuit breakers over HTTP and by the command line: seen, turned, explained, and kept apart by tenant."""

import shlex
from typing import Any

import pytest
from structlog.testing import capture_logs

from task_runner.registry import Options, Retryable
from tests.integration.api.cli import Cli, served
from tests.integration.api.conftest import Api, problem_of
from tests.integration.engine.documents import ON_SQLITE, one_task

HOST = {"type": "work", "target": "https://host:443"}


def down(_input: Any) -> None:
    raise Retryable("no answer", code="http.connect")


def broken(api: Api, count: int = 8) -> list[str]:
    """Instances whose tasks call a target that is down."""
    api.engine.handler("work", down, Options(breaker=lambda input: input["url"]))
    document = one_task(
        input={"url": "https://host/a?b"}, retry={"maxAttempts": 3, "interval": "1h", "jitter": 0}
    )
    found = [api.start(document) for _ in range(count)]
    api.engine.settle()
    return found


def only(api: Api, **query: Any) -> dict[str, Any]:
    answer = api.get("/breakers", **query)
    [item] = answer.json["items"]
    return dict(item)


def test_it_is_listed_and_explains_what_waits(api: Api) -> None:
    instances = broken(api)

    one = only(api)
    assert {name: one[name] for name in ("type", "target", "state", "failuresInARow", "forced")} == {
        **HOST, "state": "open", "failuresInARow": 5, "forced": False,
    }  # fmt: skip
    waiting = [
        explained
        for instance in instances
        if (explained := api.get(f"/instances/{instance}/explain").json)["breakers"]
    ]
    assert len(waiting) == one["waiting"] > 0
    assert {each["status"] for each in waiting} == {"running"}
    [told] = waiting[0]["breakers"]
    assert told["reason"] == (
        f"circuit breaker work https://host:443 is open since {one['openedAt']}, next try at {one['retryAt']}, "
        "5 failures, last error http.connect: no answer; close it: `signalbox breakers reset work https://host:443`"
    )
    assert told["breaker"] == one


def test_an_operator_turns_it_and_others_may_not(api: Api) -> None:
    for role in ("viewer", "author", "worker"):
        assert api.post("/breakers:open", HOST, key=api.keys[role]).status_code == 403
    made = api.post(
        "/breakers:open",
        {"type": "HTTP", "target": "https://User@Host/path?secret"},
        key=api.keys["operator"],
    )
    assert made.status_code == 200
    assert (made.json["target"], made.json["state"], made.json["forced"]) == (
        "https://host:443",
        "open",
        True,
    )
    assert made.json["updatedBy"] == "key:the operator"
    shut = {"type": "HTTP", "target": "https://host"}
    assert api.post("/breakers:close", shut).json["state"] == "closed"
    assert api.post("/breakers:reset", shut).json["forced"] is False
    problem_of(api.post("/breakers:reset", HOST), 404, "breaker.not_found")


def test_closing_one_lets_those_go_on_that_waited(api: Api) -> None:
    broken(api)
    waiting = only(api)["waiting"]
    assert waiting > 0

    api.post("/breakers:close", HOST)
    api.engine.settle()

    assert only(api)["waiting"] == 0
    assert api.engine.execute("SELECT count(*) FROM attempts")[0][0] >= 8


@pytest.mark.parametrize(
    "target", ["two words", "a\nb", "\t", "https://", "https://host:99999", "x" * 300, "https://${secret.X}"]
)
def test_what_is_no_target_is_refused(api: Api, target: str) -> None:
    problem_of(api.post("/breakers:open", {"type": "HTTP", "target": target}), 422, "breaker.target")


@pytest.mark.parametrize(
    "body", [{}, {"type": "HTTP"}, {"type": "", "target": "x"}, {"type": "HTTP", "target": 1}, {**HOST, "x": 1},
             {"type": "x" * 201, "target": "y"}]
)  # fmt: skip
def test_a_body_that_is_none_is_refused(api: Api, body: dict[str, Any]) -> None:
    assert api.post("/breakers:open", body).status_code == 422


def test_the_list_is_filtered_and_goes_page_by_page(api: Api) -> None:
    for number in range(5):
        api.post("/breakers:open", {"type": "HTTP", "target": f"t{number}"})
    api.post("/breakers:close", {"type": "AI", "target": "t0"})

    seen, cursor = [], None
    while True:
        query = {"limit": 2} | ({} if cursor is None else {"cursor": cursor})
        page = api.get("/breakers", **query).json
        seen += [(one["type"], one["target"]) for one in page["items"]]
        cursor = page["nextCursor"]
        if cursor is None:
            break
    assert seen == [("AI", "t0"), *(("HTTP", f"t{number}") for number in range(5))]
    assert only(api, state="closed")["type"] == "AI"
    assert only(api, type="AI")["target"] == "t0"
    assert api.get("/breakers", state="ajar").status_code == 422


@ON_SQLITE
def test_the_command_line_has_it_all(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(api)
    with capture_logs() as logged, served(api) as url:
        cli = Cli(api, url, monkeypatch)
        [one] = cli.json("breakers", "list", "--state", "open")["items"]
        assert one["target"] == "https://host:443"
        assert "https://host:443" in cli.text("breakers", "list")
        assert cli.json("breakers", "reset", "work", "https://host")["state"] == "closed"
        assert cli.json("breakers", "open", "work", "https://host")["forced"] is True
        assert cli.json("breakers", "close", "work", "https://host")["state"] == "closed"
    assert [line["event"] for line in logged] == ["breaker.closed", "breaker.open", "breaker.closed"]


def test_a_task_says_wherever_it_is_shown_which_breaker_it_waits_for(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(api)
    [told, *_] = [
        one
        for item in api.get("/instances").json["items"]
        for one in api.get(f"/instances/{item['id']}/explain").json["breakers"]
    ]
    task = api.get(f"/tasks/{told['taskId']}").json
    instance = task["instanceId"]

    assert task["status"] == "pending"
    assert task["waitsFor"] == told
    assert told["since"] <= task["runAt"]
    listed = {one["id"]: one["waitsFor"] for one in api.get("/tasks").json["items"]}
    assert listed[task["id"]] == told
    assert None in listed.values(), "those that opened it are tried again by themselves"
    assert [one["waitsFor"] for one in api.get(f"/instances/{instance}/tasks").json["items"]] == [told]
    assert [one["waitsFor"] for one in api.get(f"/instances/{instance}/explain").json["tasks"]] == [told]

    monkeypatch.setenv("COLUMNS", "400")
    with served(api) as url:
        cli = Cli(api, url, monkeypatch)
        assert told["reason"] in cli.text("tasks", "show", task["id"])
        assert "pending circuit breaker" in cli.text("tasks", "list", "--instance", instance)
        closing = told["reason"].split("`")[1].split()
        assert cli.run(*closing[1:]).exit_code == 0
    assert only(api)["state"] == "closed"
    waits = api.get(f"/tasks/{task['id']}").json["waitsFor"]
    assert (
        waits["reason"] == "circuit breaker work https://host:443 is closed again, the task is about to call"
    )


@ON_SQLITE
def test_the_command_that_closes_a_breaker_is_one_whatever_its_target_is_called(api: Api) -> None:
    target = "`reboot`;$(reboot)&'x'"
    api.engine.handler("work", down, Options(breaker=lambda _input: target))
    document = one_task(retry={"maxAttempts": 3, "interval": "1h", "jitter": 0})
    found = [api.start(document) for _ in range(6)]
    [told] = api.get(f"/instances/{found[-1]}/explain").json["breakers"]

    command = told["reason"].partition("close it: `")[2].removesuffix("`")

    assert shlex.split(command) == ["signalbox", "breakers", "reset", "work", target]
