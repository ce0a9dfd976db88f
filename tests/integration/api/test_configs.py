"""Configuration over the API: set, change, list, delete, and which value holds."""

from typing import Any

import pytest

from common.commands import configs as commands
from tests.integration.api.conftest import APPROVAL, Api, problem_of

NOBODY = "0199a3c5-7f1e-7c42-9b63-2f4d8e6a1b90"


def put(api: Api, value: Any, **more: Any) -> dict[str, Any]:
    answer = api.post("/configs", {"module": "maps", "key": "start", "value": value, **more})
    assert answer.status_code in (200, 201), answer.text
    return dict(answer.json or {})


def ask(api: Api, path: str, **query: Any) -> Any:
    """GET; a parameter of these routes is called `key`, which is the API key's name in `api.get`."""
    return api.send_raw("GET", f"/api/v1{path}", query_string=query)


def resolved(api: Api, **query: Any) -> tuple[Any, str]:
    answer = ask(api, "/configs/resolve", **{"module": "maps", "key": "start", **query})
    assert answer.status_code == 200, answer.text
    return answer.json["value"], answer.json["source"]


def test_the_same_four_names_twice_are_one_value(api: Api) -> None:
    first = api.post("/configs", {"module": "maps", "key": "start", "value": {"x": 0}, "description": "why"})
    second = api.post("/configs", {"module": "maps", "key": "start", "value": {"x": 1}})

    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json["id"] == second.json["id"]
    assert first.headers["Location"] == f"/api/v1/configs/{first.json['id']}"
    (only,) = ask(api, "/configs").json["items"]
    assert only == second.json
    assert (only["value"], only["description"]) == ({"x": 1}, "why")
    assert (only["scope"], only["scopeId"], only["updatedBy"]) == ("module", None, "key:the admin")


def test_the_narrowest_value_holds(api: Api) -> None:
    assert resolved(api) == (None, "default")
    put(api, 1, scope="tenant")
    assert resolved(api) == (1, "tenant")
    put(api, 2)
    assert resolved(api) == (2, "module")
    of_instance = put(api, 3, scope="instance", scopeId="order-7")
    assert resolved(api) == (2, "module")
    assert resolved(api, scopeId="order-7") == (3, "instance")
    assert resolved(api, scopeId="order-8") == (2, "module")

    api.send_raw("DELETE", f"/api/v1/configs/{of_instance['id']}")
    assert resolved(api, scopeId="order-7") == (2, "module")


def test_a_definition_has_the_last_word_before_null(api: Api) -> None:
    api.apply({**APPROVAL, "config": {"maps": {"start": "here"}}})

    assert resolved(api, definitionKey="approval") == ("here", "default")
    assert resolved(api) == (None, "default")
    put(api, None)
    assert resolved(api, definitionKey="approval") == (None, "module")

    api.apply({**APPROVAL, "config": {"maps": {"start": "there"}}})
    api.post("/definitions/approval/versions/2/deactivate")
    problem_of(
        ask(api, "/configs/resolve", module="maps", key="start", definitionKey="approval"),
        404,
        "definition.not_found",
    )
    problem_of(
        ask(api, "/configs/resolve", module="maps", key="start", definitionKey="x"),
        404,
        "definition.not_found",
    )


def test_several_keys_are_resolved_at_once(api: Api) -> None:
    put(api, 1)
    put(api, 2, key="end", scope="instance", scopeId="a")

    answer = ask(api, "/configs/resolve", module="maps", keys="start,end,none", scopeId="a")

    assert answer.json == {
        "results": {
            "start": {"value": 1, "source": "module"},
            "end": {"value": 2, "source": "instance"},
            "none": {"value": None, "source": "default"},
        }
    }


def test_a_value_is_read_changed_and_deleted_by_its_id(api: Api) -> None:
    made = put(api, 1, description="first")
    path = f"/api/v1/configs/{made['id']}"

    changed = api.send_raw("PUT", path, json={"value": [2]})
    assert (changed.status_code, changed.json["value"], changed.json["description"]) == (200, [2], "first")
    assert api.send_raw("PUT", path, json={"value": [2], "description": ""}).json["description"] == ""
    assert api.get(f"/configs/{made['id']}").json["value"] == [2]
    assert api.send_raw("DELETE", path).json["value"] == [2]
    problem_of(api.send_raw("DELETE", path), 404, "config.not_found")
    problem_of(api.send_raw("PUT", path, json={"value": 1}), 404, "config.not_found")
    problem_of(api.get(f"/configs/{made['id']}"), 404, "config.not_found")
    problem_of(api.get("/configs/none"), 404, "config.not_found")


def test_values_are_listed_by_what_they_are_for(api: Api) -> None:
    for number in range(3):
        put(api, number, key=f"k{number}")
    put(api, 9, module="orders", scope="tenant")
    put(api, 8, scope="instance", scopeId="a")

    def keys(**query: Any) -> list[str]:
        return [one["key"] for one in ask(api, "/configs", **query).json["items"]]

    assert keys() == ["start", "start", "k2", "k1", "k0"]
    assert keys(module="maps", scope="module") == ["k2", "k1", "k0"]
    assert keys(scope="tenant") == keys(module="orders") == ["start"]
    assert keys(key="k1") == ["k1"]
    assert keys(scopeId="a") == ["start"]
    first = ask(api, "/configs", limit=3).json
    rest = ask(api, "/configs", limit=3, cursor=first["nextCursor"]).json
    assert [one["key"] for one in first["items"] + rest["items"]] == keys()
    assert rest["nextCursor"] is None
    problem_of(
        ask(api, "/configs", limit=3, cursor=first["nextCursor"], module="maps"), 400, "cursor.invalid"
    )


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no value": ({"value": ...}, "request.invalid"),
    "no module": ({"module": ...}, "request.invalid"),
    "a module with a dot": ({"module": "a.b"}, "config.invalid"),
    "a module that begins with a digit": ({"module": "1a"}, "config.invalid"),
    "an empty key": ({"key": ""}, "request.invalid"),
    "a key with a space": ({"key": "a b"}, "config.invalid"),
    "a key with a line end": ({"key": "a\n"}, "config.invalid"),
    "a long key": ({"key": "x" * 201}, "request.invalid"),
    "an unknown scope": ({"scope": "planet"}, "request.invalid"),
    "an instance of nobody": ({"scope": "instance"}, "config.invalid"),
    "a scope id too many": ({"scopeId": "order-7"}, "config.invalid"),
    "a number as scope id": ({"scope": "instance", "scopeId": 7}, "request.invalid"),
    "a long description": ({"description": "x" * 2_001}, "request.invalid"),
    "an unknown member": ({"vlaue": 1}, "request.invalid"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_a_value_is_refused(api: Api, name: str) -> None:
    changed, code = REFUSED[name]
    body = {"module": "maps", "key": "start", "value": 1, **changed}

    answer = api.post("/configs", {key: value for key, value in body.items() if value is not ...})

    problem_of(answer, 422, code)
    assert ask(api, "/configs").json["items"] == []


@pytest.mark.parametrize(
    "query",
    [
        {"module": "maps"},
        {"key": "a"},
        {"module": "maps", "key": "a", "keys": "b"},
        {"module": "maps", "keys": "a,,b"},
        {"module": "maps", "keys": ",".join(map(str, range(101)))},
        {"module": "", "key": "a"},
        {"module": "maps", "key": "a", "scopeId": ""},
        {"module": "maps", "key": "a", "scope": "tenant"},
    ],
)
def test_a_question_that_says_too_little_or_too_much_is_refused(api: Api, query: dict[str, str]) -> None:
    assert ask(api, "/configs/resolve", **query).status_code == 422


def test_a_value_has_its_limits(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(value: Any, **more: Any) -> tuple[int, str]:
        answer = api.post("/configs", {"module": "maps", "key": "start", "value": value, **more})
        assert answer.json["code"] == "limit.exceeded", answer.text
        return answer.status_code, answer.json["limit"]

    assert refused("x" * 64_000) == (413, "max_config_bytes")
    monkeypatch.setattr(commands, "MAX_CONFIG_KEYS", 2)
    monkeypatch.setattr(commands, "MAX_MODULE_BYTES", 100)
    put(api, 1, key="a")
    made = put(api, 1, key="b")
    assert refused(1, key="c") == (422, "max_config_keys")
    assert refused("x" * 100, key="b") == (413, "max_config_module_bytes")
    answer = api.send_raw("PUT", f"/api/v1/configs/{made['id']}", json={"value": "x" * 100})
    assert answer.json["limit"] == "max_config_module_bytes"
    put(api, 1, key="c", scope="tenant")  # of another scope
    assert sorted(one["key"] for one in ask(api, "/configs").json["items"]) == ["a", "b", "c"]


def test_a_guard_that_reads_configuration_is_explained(api: Api) -> None:
    document = {
        "id": "guarded",
        "initial": "a",
        "states": {"a": {"on": {"GO": {"target": "b", "guard": "config.maps.start == 1"}}}, "b": {}},
    }
    instance_id = api.start(document)

    def accepted() -> Any:
        return api.get(f"/instances/{instance_id}/explain").json["chart"]["events"][0]["accepted"]

    assert accepted() is False
    put(api, 1)
    assert accepted() is True
    put(api, 2, scope="instance", scopeId=instance_id)
    assert accepted() is False


def test_a_simulation_takes_configuration(api: Api) -> None:
    document = {
        "id": "guarded",
        "initial": "a",
        "states": {"a": {"on": {"GO": {"target": "b", "guard": "config.maps.start == 1"}}}, "b": {}},
    }
    body = {"document": document, "events": [{"type": "GO"}], "config": {"maps": {"start": 1}}}

    answer = api.post("/definitions/simulate", body)

    assert answer.json["snapshots"][-1]["configuration"] == ["b"]
    problem_of(api.post("/definitions/simulate", {**body, "config": {"maps": 1}}), 422, "request.invalid")
