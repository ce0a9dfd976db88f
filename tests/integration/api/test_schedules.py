"""Schedules over HTTP: what may be said, what is shown, what is refused."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from api.app import services_of
from common.db import Database
from tests.integration.api.conftest import APPROVAL, V1, Api
from tests.integration.engine.documents import ON_SQLITE
from tests.support.manual_clock import ManualClock

HOUR = timedelta(hours=1)


@pytest.fixture
def clock(database: Database) -> Iterator[ManualClock]:
    clock = ManualClock(database, datetime(2026, 3, 1, 12, tzinfo=UTC))
    yield clock
    clock.release()


def create(api: Api, **more: Any) -> dict[str, Any]:
    answer = api.post("/schedules", {"definitionKey": "approval", "every": "1h", **more})
    assert answer.status_code == 201, answer.text
    return dict(answer.json or {})


def pass_time(api: Api, clock: ManualClock, step: timedelta) -> None:
    """Move the clock, also for the API, whose sessions on PostgreSQL have read it when they began."""
    clock.advance(step)
    services_of(api.app).tenants.dispose()
    api.engine.settle()


def put(api: Api, schedule_id: str, body: Any, key: str | None = None) -> Any:
    return api.send_raw("PUT", f"{V1}/schedules/{schedule_id}", key=key, json=body)


def delete(api: Api, schedule_id: str, key: str | None = None) -> Any:
    return api.send_raw("DELETE", f"{V1}/schedules/{schedule_id}", key=key)


def test_a_schedule_is_created_shown_fires_and_tells_what_it_did(clock: ManualClock, api: Api) -> None:
    api.apply()
    made = create(
        api,
        every=None,
        cron="0 14 * * *",
        timezone="Europe/Berlin",
        name="afternoon",
        input={"at": "${scheduledAt}"},
        jitter="0s",
    )
    assert made["nextAt"] == "2026-03-01T13:00:00.000000Z"
    assert [run["scheduledAt"][:16] for run in made["nextRuns"]] == [
        f"2026-03-0{day}T13:00" for day in range(1, 6)
    ]
    assert (made["every"], made["at"], made["status"], made["source"]) == (None, None, "active", "api")
    assert (made["overlap"], made["catchUp"], made["createdBy"]) == ("skip", "last", "key:the admin")

    clock.advance(HOUR)
    api.engine.settle()
    shown = api.get(f"/schedules/{made['id']}").json or {}
    assert (shown["fired"], shown["nextAt"]) == (1, "2026-03-02T13:00:00.000000Z")
    instance = api.get(f"/instances/{shown['lastInstanceId']}").json or {}
    assert instance["input"] == {"at": "2026-03-01T13:00:00.000000Z"}
    assert instance["labels"] == {"schedule": "afternoon"}
    assert (api.get("/schedules").json or {})["items"] == [
        {name: value for name, value in shown.items() if name != "nextRuns"}
    ]


@ON_SQLITE
def test_the_next_runs_are_told_over_a_change_of_the_clocks(clock: ManualClock, api: Api) -> None:
    api.apply()
    made = create(api, every=None, cron="30 2 * * *", timezone="America/New_York")
    found = (api.get(f"/schedules/{made['id']}/next", count=8).json or {})["items"]
    assert [run["dueAt"][5:16] for run in found][5:] == ["03-07T07:30", "03-08T07:00", "03-09T06:30"]
    assert api.get(f"/schedules/{made['id']}/next", count=101).status_code == 422


def test_pause_resume_and_trigger(clock: ManualClock, api: Api) -> None:
    api.apply()
    one = create(api)["id"]
    paused = api.post(f"/schedules/{one}/pause").json or {}
    assert (paused["status"], paused["nextAt"], paused["nextRuns"]) == ("paused", None, [])
    assert api.post(f"/schedules/{one}/pause").status_code == 200
    pass_time(api, clock, 3 * HOUR)

    fired = api.post(f"/schedules/{one}/trigger")
    assert fired.status_code == 201, fired.text
    assert (fired.json or {})["input"]["scheduledAt"] == "2026-03-01T15:00:00.000000Z"
    assert (api.get("/schedules", paused="true").json or {})["items"][0]["fired"] == 1

    resumed = api.post(f"/schedules/{one}/resume").json or {}
    assert (resumed["status"], resumed["nextAt"]) == ("active", "2026-03-01T16:00:00.000000Z")
    api.post(f"/schedules/{one}/pause")
    pass_time(api, clock, 3 * HOUR)
    late = api.post(f"/schedules/{one}/resume", {"catchUp": True}).json or {}
    assert late["nextAt"] == "2026-03-01T16:00:00.000000Z", "missed, for its policy to decide"


@ON_SQLITE
def test_a_trigger_under_an_idempotency_key_starts_one(clock: ManualClock, api: Api) -> None:
    api.apply()
    one = create(api)["id"]
    answers = [
        api.post(f"/schedules/{one}/trigger", headers={"Idempotency-Key": "once"}).json or {}
        for _ in range(2)
    ]
    assert answers[0]["id"] == answers[1]["id"]


@ON_SQLITE
def test_a_schedule_is_changed_and_deleted(clock: ManualClock, api: Api) -> None:
    api.apply()
    one = create(api, name="old")["id"]
    clock.advance(timedelta(minutes=30))
    changed = put(api, one, {"definitionKey": "approval", "every": "10m", "overlap": "queue"}).json
    assert (changed["name"], changed["every"], changed["overlap"]) == (None, "10m", "queue")
    assert changed["nextAt"] == "2026-03-01T12:40:00.000000Z"
    assert changed["updatedBy"] == "key:the admin"
    clock.advance(timedelta(minutes=5))
    same = put(api, one, {"definitionKey": "approval", "every": "10m", "name": "new"}).json
    assert same["nextAt"] == "2026-03-01T12:40:00.000000Z", "its interval goes on"

    assert delete(api, one).status_code == 200
    assert delete(api, one).status_code == 404
    assert api.get(f"/schedules/{one}").json["code"] == "schedule.not_found"


@ON_SQLITE
@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"every": None}, "exactly one of"),
        ({"cron": "* * * * *"}, "exactly one of"),
        ({"every": None, "cron": "61 * * * *"}, "cron"),
        ({"every": None, "cron": "* * * *"}, "cron"),
        ({"every": "0s"}, "every"),
        ({"every": -1}, "every"),
        ({"every": True}, "every"),
        ({"every": "1h", "timezone": "Europe/Berlln"}, "timezone"),
        ({"every": None, "at": "2026-02-28T12:00:00Z"}, "at"),
        ({"every": None, "at": "soon"}, "at"),
        ({"overlap": "maybe"}, "overlap"),
        ({"catchUp": "some"}, "catchUp"),
        ({"catchUpLimit": 0}, "catchUpLimit"),
        ({"catchUpLimit": 10_000}, "catchUpLimit"),
        ({"jitter": "2d"}, "jitter"),
        ({"jitter": "-1s"}, "jitter"),
        ({"name": ""}, "name"),
        ({"name": " x"}, "name"),
        ({"name": "x" * 201}, "name"),
        ({"businessKey": "${nothing}"}, "businessKey"),
        ({"input": {"a": "${context.x}"}}, "input"),
        ({"input": {"a": "${secret.KEY}"}}, "input"),
        ({"input": "${1 +"}, "input"),
        ({"surprise": 1}, "surprise"),
        ({"every": None, "cron": "* " * 1_000}, "cron"),
    ],
)
def test_what_cannot_be_a_schedule_is_refused_with_its_place(
    clock: ManualClock, api: Api, body: dict[str, Any], path: str
) -> None:
    api.apply()
    answer = api.post("/schedules", {"definitionKey": "approval", "every": "1h", **body})
    assert answer.status_code in (400, 422), answer.text
    told = answer.json or {}
    assert path in [one["path"] for one in told.get("problems", [])] or path in told["detail"]
    assert (api.get("/schedules").json or {})["items"] == []


@ON_SQLITE
def test_a_large_input_is_refused(clock: ManualClock, api: Api) -> None:
    api.apply()
    answer = api.post("/schedules", {"definitionKey": "approval", "every": "1h", "input": "x" * 1_100_000})
    assert (answer.status_code, (answer.json or {})["limit"]) == (413, "max_event_bytes")


@ON_SQLITE
def test_a_definition_that_is_not_there_is_said_so(clock: ManualClock, api: Api) -> None:
    answer = api.post("/schedules", {"definitionKey": "approval", "every": "1h"})
    assert (answer.status_code, (answer.json or {})["code"]) == (404, "definition.not_found")


@ON_SQLITE
def test_roles(api: Api) -> None:
    api.apply()
    one = create(api)["id"]
    body = {"definitionKey": "approval", "every": "1h"}
    for role, may_define, may_operate in [
        ("viewer", False, False),
        ("operator", False, True),
        ("author", True, False),
        ("worker", False, False),
    ]:
        key = api.keys[role]
        assert (api.post("/schedules", body, key=key).status_code == 201) is may_define
        assert (put(api, one, body, key=key).status_code == 200) is may_define
        for verb in ("pause", "resume", "trigger"):
            assert (api.post(f"/schedules/{one}/{verb}", key=key).status_code < 300) is may_operate
        assert (api.get(f"/schedules/{one}", key=key).status_code == 200) is (role != "worker")


@ON_SQLITE
def test_another_tenant_sees_and_moves_nothing(api: Api) -> None:
    api.apply()
    one = create(api)["id"]
    assert (api.get("/schedules", key=api.other_key).json or {})["items"] == []
    assert api.get(f"/schedules/{one}", key=api.other_key).status_code == 404
    assert api.get(f"/schedules/{one}/next", key=api.other_key).status_code == 404
    for verb in ("pause", "resume", "trigger"):
        assert api.post(f"/schedules/{one}/{verb}", key=api.other_key).status_code == 404
    assert put(api, one, {"definitionKey": "approval", "every": "1h"}, key=api.other_key).status_code == 404
    assert delete(api, one, key=api.other_key).status_code == 404
    assert (
        api.post("/schedules", {"definitionKey": "approval", "every": "1h"}, key=api.other_key).status_code
        == 404
    )


@ON_SQLITE
def test_a_list_goes_page_by_page(api: Api) -> None:
    api.apply()
    api.apply({**APPROVAL, "id": "other"})
    made = [create(api)["id"] for _ in range(5)]
    create(api, definitionKey="other")
    found: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = api.get("/schedules", definitionKey="approval", limit=2, **cursor).json or {}
        found += [one["id"] for one in page["items"]]
        if page["nextCursor"] is None:
            break
        cursor = {"cursor": page["nextCursor"]}
    assert found == made[::-1]
