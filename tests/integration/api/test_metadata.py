"""Metadata of an instance over the API and the command."""

from typing import Any

import pytest

from common import metadata as bounds
from common.errors import Conflict, NotFound
from tests.integration.api.cli import Cli, served
from tests.integration.api.conftest import Api, problem_of
from tests.integration.engine.documents import ON_SQLITE


def put(api: Api, instance_id: str, name: str, body: Any, **more: Any) -> Any:
    return api.send_raw("PUT", f"/api/v1/instances/{instance_id}/metadata/{name}", json=body, **more)


def test_a_value_is_set_read_and_deleted(api: Api) -> None:
    instance_id = api.start()

    first = put(api, instance_id, "parcel.weight", {"value": {"kg": 2.0}})
    assert (first.status_code, first.json["value"], first.json["updatedBy"]) == (
        200,
        {"kg": 2},
        "key:the admin",
    )
    again = put(api, instance_id, "parcel.weight", {"value": None}).json
    assert again["value"] is None
    assert api.get(f"/instances/{instance_id}/metadata/parcel.weight").json == again
    path = f"/api/v1/instances/{instance_id}/metadata/parcel.weight"
    assert api.send_raw("DELETE", path).json == again
    problem_of(api.send_raw("DELETE", path), 404, "metadata.not_found")
    problem_of(api.get(f"/instances/{instance_id}/metadata/parcel.weight"), 404, "metadata.not_found")


def test_values_are_listed_by_key(api: Api) -> None:
    instance_id, other = api.start(), api.start()
    for key in ("b", "a", "c"):
        put(api, instance_id, key, {"value": key})
    put(api, other, "d", {"value": 1})

    first = api.get(f"/instances/{instance_id}/metadata", limit=2).json
    rest = api.get(f"/instances/{instance_id}/metadata", limit=2, cursor=first["nextCursor"]).json

    assert [one["value"] for one in first["items"] + rest["items"]] == ["a", "b", "c"]
    assert rest["nextCursor"] is None
    problem_of(
        api.get(f"/instances/{other}/metadata", limit=2, cursor=first["nextCursor"]), 400, "cursor.invalid"
    )


def test_a_value_is_replaced_only_where_it_is_what_was_expected(api: Api) -> None:
    instance_id = api.start()

    def status(value: Any, expected: Any) -> int:
        return int(put(api, instance_id, "k", {"value": value, "expected": expected}).status_code)

    assert status(1, 7) == 409
    assert status({"a": 1, "b": 2}, None) == 200
    assert status(2, None) == 409
    assert status(2, {"b": 2, "a": 1.0}) == 200
    problem_of(put(api, instance_id, "k", {"value": 3, "expected": 1}), 409, "metadata.changed")
    assert api.get(f"/instances/{instance_id}/metadata/k").json["value"] == 2
    put(api, instance_id, "k", {"value": None})
    assert status(3, None) == 200


def test_a_finished_instance_takes_metadata_too(api: Api) -> None:
    instance_id = api.start()
    api.post(f"/instances/{instance_id}/cancel", headers={"Prefer": "wait=0"})
    api.engine.settle()

    assert put(api, instance_id, "k", {"value": 1}).status_code == 200


def test_only_who_may_operate_sets_metadata(api: Api) -> None:
    instance_id = api.start()

    for role in ("viewer", "author"):
        problem_of(put(api, instance_id, "k", {"value": 1}, key=api.keys[role]), 403, "auth.forbidden")
    assert put(api, instance_id, "k", {"value": 1}, key=api.keys["operator"]).status_code == 200
    assert api.get(f"/instances/{instance_id}/metadata", key=api.keys["viewer"]).json["items"]


@pytest.mark.parametrize(
    ("key", "body", "status", "code"),
    [
        ("k", {}, 422, "request.invalid"),
        ("k", {"vlaue": 1}, 422, "request.invalid"),
        ("k", [], 422, "request.invalid"),
        ("x" * 201, {"value": 1}, 422, "metadata.invalid"),
        ("a%00b", {"value": 1}, 404, "metadata.not_found"),
        ("k", {"value": "x" * 64_000}, 413, "limit.exceeded"),
        ("k", {"value": 1, "expected": "x" * 64_000}, 413, "limit.exceeded"),
    ],
)
def test_what_cannot_be_metadata_is_refused(api: Api, key: str, body: Any, status: int, code: str) -> None:
    instance_id = api.start()

    problem_of(put(api, instance_id, key, body), status, code)

    assert api.get(f"/instances/{instance_id}/metadata").json["items"] == []


def test_an_instance_has_no_more_keys_than_it_may(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    instance_id = api.start()
    monkeypatch.setattr("common.commands.metadata.MAX_KEYS", 2)
    for key in ("a", "b", "a"):
        assert put(api, instance_id, key, {"value": 1}).status_code == 200

    problem = problem_of(put(api, instance_id, "c", {"value": 1}), 422, "limit.exceeded")

    assert (problem["limit"], problem["allowed"]) == ("max_metadata_keys", bounds.MAX_KEYS)


@ON_SQLITE
def test_the_command_does_the_same(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    instance_id = api.start()
    with served(api) as url:
        cli = Cli(api, url, monkeypatch)
        assert cli.json("metadata", "set", instance_id, "a/b", '{"n": 1}')["value"] == {"n": 1}
        assert cli.json("metadata", "set", instance_id, "a/b", "2", "--expected", '{"n": 1}')["value"] == 2
        late = cli.run("metadata", "set", instance_id, "a/b", "3", "--expected", "null")
        assert isinstance(late.exception, Conflict)
        assert cli.json("metadata", "get", instance_id, "a/b")["value"] == 2
        assert [one["key"] for one in cli.json("metadata", "list", instance_id)["items"]] == ["a/b"]
        assert "a/b" in cli.text("metadata", "list", instance_id)
        assert cli.json("metadata", "rm", instance_id, "a/b")["value"] == 2
        assert isinstance(cli.run("metadata", "get", instance_id, "a/b").exception, NotFound)
