"""Secrets by the API: they go in, and nothing that was said of a value is told, logged or kept."""

import json
from typing import Any

import pytest
from structlog.testing import capture_logs

from common.commands.secrets import MAX_VALUE_BYTES
from common.credentials import read_secret
from common.sealing import SealingKeys
from common.store.secrets import Named, read_sealed
from tests.integration.api.conftest import V1, Api, problem_of
from tests.integration.api.test_hostile_input import one_refusal

VALUE = "sk_live_0123456789"


def stored(api: Api, name: str) -> str:
    keys = SealingKeys.of(read_secret(api.secret))
    named = Named(api.engine.tenant_id, name)
    with api.engine.database.reading() as tx:
        return keys.open(*named, read_sealed(tx, [named])[named])


def test_a_secret_is_set_listed_and_deleted(api: Api) -> None:
    created = api.put("/secrets/CARRIER.key-1", {"value": VALUE})
    assert created.status_code == 201, created.text
    assert {name: created.json[name] for name in ("name", "version", "updatedBy")} == {
        "name": "CARRIER.key-1",
        "version": 1,
        "updatedBy": "key:the admin",
    }
    again = api.put("/secrets/CARRIER.key-1", {"value": "another"})
    assert (again.status_code, again.json["version"]) == (200, 2)
    assert stored(api, "CARRIER.key-1") == "another"

    listed = api.get("/secrets").json
    assert listed == {"items": [again.json], "nextCursor": None}

    gone = api.delete("/secrets/CARRIER.key-1")
    assert (gone.status_code, gone.get_data(), gone.content_type) == (204, b"", None)
    problem_of(api.delete("/secrets/CARRIER.key-1"), 404, "secret.not_found")
    assert api.get("/secrets").json["items"] == []


def test_secrets_come_page_by_page(api: Api) -> None:
    names = sorted(f"S{number}" for number in range(5))
    for name in names:
        api.put(f"/secrets/{name}", {"value": VALUE})

    found, cursor = [], None
    while True:
        page = api.get("/secrets", limit=2, **({"cursor": cursor} if cursor else {})).json
        found += [item["name"] for item in page["items"]]
        cursor = page["nextCursor"]
        if cursor is None:
            break

    assert found == names


def test_a_put_with_another_tenants_name_makes_a_secret_of_ones_own(api: Api) -> None:
    api.put("/secrets/KEY", {"value": "ours"})

    assert api.put("/secrets/KEY", {"value": "theirs"}, key=api.other_key).status_code == 201
    assert stored(api, "KEY") == "ours"
    assert api.delete("/secrets/KEY", key=api.other_key).status_code == 204
    assert stored(api, "KEY") == "ours"


def test_the_largest_value_is_taken(api: Api) -> None:
    value = "ä" * (MAX_VALUE_BYTES // 2)

    assert api.put("/secrets/KEY", {"value": value}).status_code == 201
    assert stored(api, "KEY") == value


@pytest.mark.parametrize("name", ["1a", "a b", "ä", "a" * 201, "-a", "a%0A"])
def test_a_name_that_no_definition_could_write_is_refused(api: Api, name: str) -> None:
    with one_refusal(api):
        problem_of(api.put(f"/secrets/{name}", {"value": VALUE}), 422, "secret.name_invalid")


BAD_BODIES: dict[str, str] = {
    "nothing": "",
    "no JSON": VALUE,
    "a number": "473829473829473829473829",
    "a number as value": '{"value": 473829473829473829473829}',
    "another member": f'{{"value": "x", "{VALUE}": 1}}',
    "twice": f'{{"{VALUE}": 1, "{VALUE}": 2}}',
    "a list": f'["{VALUE}"]',
    "empty": '{"value": ""}',
    "null": '{"value": null}',
    "too long": json.dumps({"value": VALUE * 4_000}),
    "too many bytes": json.dumps({"value": "ä" * (MAX_VALUE_BYTES // 2 + 1)}),
    "NUL": json.dumps({"value": VALUE + "\0"}),
    "half": f'{{"value": "{VALUE}',
}


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES)
def test_a_body_that_is_refused_is_not_told(api: Api, body: str) -> None:
    with one_refusal(api) as lines:
        answer = api.send_raw("PUT", f"{V1}/secrets/KEY", data=body, content_type="application/json")

    assert answer.status_code in (400, 413, 422), answer.text
    told = answer.text + repr(lines)
    assert VALUE not in told
    assert "473829" not in told
    assert "ää" not in told


def test_a_value_is_neither_kept_for_repeats_nor_logged_nor_stored_in_the_open(api: Api) -> None:
    with capture_logs() as lines:
        answer = api.send_raw(
            "PUT", f"{V1}/secrets/KEY", data=json.dumps({"value": VALUE}), content_type="application/json",
            headers={"Idempotency-Key": "once"},
        )  # fmt: skip

    assert answer.status_code == 201
    assert VALUE not in answer.text + repr(lines)
    assert api.engine.execute("SELECT count(*) FROM idempotency") == [(0,)]
    assert VALUE not in repr(api.engine.execute("SELECT * FROM secrets"))


def test_an_address_of_secrets_takes_nothing_else(api: Api) -> None:
    for method in ("GET", "POST", "PATCH"):
        refused: Any = api.send_raw(method, f"{V1}/secrets/KEY")
        problem_of(refused, 405, "method.not_allowed")
