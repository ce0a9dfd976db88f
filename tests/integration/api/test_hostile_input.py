"""Bad input of every kind: a clear problem with a stable code, nothing stored, exactly one line in the log."""

import gzip
import json
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import pytest
from structlog.testing import capture_logs

from common.config import Limits
from common.credentials import make_key, make_secret, read_secret
from common.db.tables import Role
from statechart.draft import MAX_DEPTH
from tests.integration.api.conftest import APPROVAL, Api, problem_of

TABLES = (
    "definitions",
    "instances",
    "inbox",
    "history",
    "tasks",
    "idempotency",
    "timers",
    "configs",
    "instance_metadata",
)
INSTANCES = "/api/v1/instances"


def count_rows(api: Api) -> dict[str, int]:
    return {table: int(api.engine.execute(f"SELECT count(*) FROM {table}")[0][0]) for table in TABLES}


def test_what_was_found_in_a_body_is_told_to_its_sender_and_not_to_the_log(api: Api) -> None:
    with one_refusal(api) as lines:
        answer = api.post("/instances", {"definitionKey": "approval", "priority": "hunter2"})

    assert answer.json["detail"] == "priority: expected a whole number, found 'hunter2'"
    assert lines[0]["detail"] == "priority: member.invalid"


@contextmanager
def one_refusal(api: Api) -> Iterator[list[Any]]:
    """Whatever happens in the block is one refusal: nothing is stored, and the log has exactly one line of it."""
    before = count_rows(api)
    with capture_logs() as lines:
        yield lines
    assert count_rows(api) == before
    assert [line["event"] for line in lines] == ["request.refused"]
    (line,) = lines
    assert line["log_level"] == "warning"
    assert line["status"] >= 400
    assert line["code"]
    assert line["method"]
    assert "/" in line["path"]
    assert len(line["trace_id"]) == 32
    assert line["duration_ms"] >= 0
    assert {"tenant_id", "key_name"} <= line.keys()


BAD_JSON = {
    "nothing at all": b"",
    "not json": b"hello",
    "half": b'{"definitionKey": ',
    "trailing": b"{} {}",
    "duplicate key": b'{"definitionKey": "approval", "definitionKey": "approval"}',
    "duplicate key inside": b'{"definitionKey": "approval", "input": {"a": 1, "a": 2}}',
    "NaN": b'{"definitionKey": "approval", "input": NaN}',
    "Infinity": b'{"definitionKey": "approval", "input": -Infinity}',
    "too large a number": b'{"definitionKey": "approval", "input": 1e400}',
    "too large an integer": b'{"definitionKey": "approval", "input": 9007199254740993}',
    "thousands of digits": b'{"definitionKey": "approval", "input": ' + b"9" * 100_000 + b"}",
    "NUL": b'{"definitionKey": "approval", "input": "a\\u0000b"}',
    "NUL in a key": b'{"definitionKey": "approval", "input": {"a\\u0000b": 1}}',
    "lone surrogate": b'{"definitionKey": "approval", "input": "\\ud800"}',
    "not UTF-8": b'{"definitionKey": "approval", "input": "\xff"}',
    "UTF-16": '{"definitionKey": "approval"}'.encode("utf-16"),
    "a byte order mark": b'\xef\xbb\xbf{"definitionKey": "approval"}',
    "single quotes": b"{'definitionKey': 'approval'}",
    "a comment": b'{"definitionKey": "approval" /* no */}',
    "a control character": b'{"definitionKey": "approval", "input": "\x01"}',
}


def test_what_is_not_strict_json_is_refused(api: Api) -> None:
    api.apply()
    for name, text in BAD_JSON.items():
        with one_refusal(api):
            answer = api.send_raw("POST", INSTANCES, data=text, content_type="application/json")
        problem_of(answer, 400, "json.invalid", name)


BAD_BODIES: dict[str, Any] = {
    "no object": [],
    "text": "approval",
    "null": None,
    "nothing named": {},
    "both names": {"definitionKey": "approval", "definitionId": "0199a3c5-7f1e-7c42-9b63-2f4d8e6a1b90"},
    "unknown member": {"definitionKey": "approval", "verison": 1},
    "a member of another case": {"definition_key": "approval"},
    "a number as text": {"definitionKey": "approval", "version": "1"},
    "a text as number": {"definitionKey": 7},
    "a boolean as number": {"definitionKey": "approval", "priority": True},
    "version 0": {"definitionKey": "approval", "version": 0},
    "a version beyond every column": {"definitionKey": "approval", "version": 2**40},
    "a priority beyond every column": {"definitionKey": "approval", "priority": 40_000},
    "an empty business key": {"definitionKey": "approval", "businessKey": ""},
    "a long business key": {"definitionKey": "approval", "businessKey": "x" * 501},
    "context that is no object": {"definitionKey": "approval", "context": [1]},
    "labels that are no texts": {"definitionKey": "approval", "labels": {"a": 1}},
    "a label without a name": {"definitionKey": "approval", "labels": {"": "x"}},
    "a label that no filter finds": {"definitionKey": "approval", "labels": {"a:b": "x"}},
    "too many labels": {"definitionKey": "approval", "labels": {str(number): "x" for number in range(51)}},
    "an instant without an offset": {"definitionKey": "approval", "startAt": "2999-01-01T00:00:00"},
    "an instant that is none": {"definitionKey": "approval", "startAt": "soon"},
    "an instant as a number": {"definitionKey": "approval", "startAt": 4_000_000_000},
    "an unknown answer to a conflict": {"definitionKey": "approval", "onConflict": "replace"},
}


def test_a_body_that_cannot_be_accepted_is_refused(api: Api) -> None:
    api.apply()
    for name, body in BAD_BODIES.items():
        with one_refusal(api):
            answer = api.send_raw("POST", INSTANCES, data=json.dumps(body), content_type="application/json")
        assert answer.json["code"] in ("request.invalid", "start.invalid"), f"{name} {answer.text}"
        problem_of(answer, 422, answer.json["code"], name)


def test_an_unknown_member_is_refused_with_what_was_meant(api: Api) -> None:
    answer = api.post("/instances", {"definitionKey": "approval", "verison": 1})

    (finding,) = problem_of(answer, 422, "request.invalid")["problems"]
    assert finding == {
        "severity": "error",
        "code": "member.unknown",
        "path": "verison",
        "message": 'unknown member "verison"; did you mean "version"?',
        "suggestion": "version",
    }


def test_a_body_that_is_not_said_to_be_json_is_refused(api: Api) -> None:
    api.apply()
    for content_type in (
        None,
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/xml",
        "nonsense",
    ):
        with one_refusal(api):
            answer = api.send_raw(
                "POST", INSTANCES, data=b'{"definitionKey": "approval"}', content_type=content_type
            )
        problem_of(answer, 415, "request.media_type", content_type)


def test_a_body_of_another_coding_is_refused(api: Api) -> None:
    api.apply()
    for coding in ("gzip", "br", "x" * 5_000):
        with one_refusal(api):
            answer = api.send_raw(
                "POST",
                INSTANCES,
                data=gzip.compress(b'{"definitionKey": "approval"}'),
                content_type="application/json",
                headers={"Content-Encoding": coding},
            )
        problem_of(answer, 415, "request.media_type", coding)
        assert len(answer.json["detail"]) < 200


# -- sizes --------------------------------------------------------------------------------------------------------


def test_a_body_beyond_the_limit_is_refused_before_it_is_read(api: Api) -> None:
    stream = BytesIO(b'"' + b"x" * 5_000_000 + b'"')

    with one_refusal(api):
        answer = api.send_raw(
            "POST",
            INSTANCES,
            input_stream=stream,
            content_type="application/json",
            headers={"Content-Length": "5000002"},
            buffered=False,
        )

    assert stream.tell() == 0, "answered without reading"
    problem = problem_of(answer, 413, "limit.exceeded")
    assert (problem["limit"], problem["allowed"]) == ("max_body_bytes", 2_000_000)
    answer.close()
    assert stream.tell() > 5_000_000, "read away afterwards, so that the answer arrives"


class Endless:
    """A chunked body that never ends."""

    asked = 0

    def read(self, size: int = -1) -> bytes:
        self.asked += size
        return b" " * size


def test_a_body_of_unknown_length_is_read_up_to_the_limit(api: Api) -> None:
    stream = Endless()

    with one_refusal(api):
        answer = api.send_raw(
            "POST",
            INSTANCES,
            content_type="application/json",
            environ_overrides={"wsgi.input": stream, "wsgi.input_terminated": True, "CONTENT_LENGTH": ""},
        )

    assert problem_of(answer, 413, "limit.exceeded")["limit"] == "max_body_bytes"
    assert stream.asked < 2_200_000, "not read far beyond the limit"


BEYOND: list[tuple[str, Any, str, int]] = [
    ("/instances", {"definitionKey": "approval", "input": "x" * 1_000_001}, "max_event_bytes", 413),
    ("/instances", {"definitionKey": "approval", "input": [0] * 200_001}, "max_json_members", 422),
    ("/definitions", {"document": {**APPROVAL, "description": "x" * 1_000_001}}, "max_definition_bytes", 413),
]


def test_what_exceeds_a_limit_is_refused_with_the_limits_name(api: Api) -> None:
    api.apply()
    for path, body, limit, status in BEYOND:
        with one_refusal(api):
            answer = api.post(path, body)
        assert problem_of(answer, status, "limit.exceeded")["limit"] == limit


def test_json_that_nests_too_deep_is_refused(api: Api) -> None:
    api.apply()
    for depth in (70, 5_000, 200_000):
        text = '{"definitionKey": "approval", "input": ' + "[" * depth + "]" * depth + "}"
        with one_refusal(api):
            answer = api.send_raw("POST", INSTANCES, data=text, content_type="application/json")
        assert problem_of(answer, 422, "limit.exceeded", depth)["limit"] == "max_json_depth"


def assigns(parts: int, value: Any) -> dict[str, Any]:
    """A definition whose start assigns a value below so many names."""
    entry = [{"type": "assign", "path": ".".join(["a"] * parts), "value": value}]
    return {"id": "deep", "initial": "a", "states": {"a": {"entry": entry, "on": {"GO": "a"}}}}


def test_a_context_that_nests_as_deep_as_it_may_is_told(api: Api) -> None:
    input: Any = []
    for _ in range(62):
        input = [input]
    instance_id = api.start(assigns(MAX_DEPTH - 64, "${input}"), input=input)

    (listed,) = api.get("/instances").json["items"]
    entries = api.get(f"/instances/{instance_id}/history").json["items"]

    assert listed["status"] == "waiting"
    assert api.get(f"/instances/{instance_id}").json["context"] == listed["context"]
    assert any(entry["type"] == "context.assigned" for entry in entries)


def test_a_context_that_nests_deeper_than_it_may_is_an_incident(api: Api) -> None:
    instance_id = api.start(assigns(MAX_DEPTH - 1, {}))

    (listed,) = api.get("/instances").json["items"]
    (incident,) = api.get("/incidents").json["items"]

    assert (listed["id"], listed["status"], listed["context"]) == (instance_id, "failed", {})
    assert incident["code"] == "context.unstorable"


def test_a_path_that_no_context_could_hold_is_refused(api: Api) -> None:
    answer = api.post("/definitions", {"document": assigns(MAX_DEPTH, 1)})

    (problem,) = problem_of(answer, 422, "definition.invalid")["problems"]
    assert (problem["code"], problem["path"]) == ("assign.path", "states.a.entry")


@pytest.mark.parametrize("parts", [2, 200], ids=["deep", "too deep to be written"])
def test_a_simulation_that_nests_a_context_too_deep_is_refused(api: Api, parts: int) -> None:
    grow = {"type": "assign", "path": ".".join(["a"] * parts), "value": "$.a"}
    document = {"id": "deep", "initial": "a", "states": {"a": {"on": {"GROW": {"actions": [grow]}}}}}
    answer = api.post("/definitions/simulate", {"document": document, "events": [{"type": "GROW"}] * 300})

    problem = problem_of(answer, 422, "limit.exceeded")
    assert (problem["limit"], problem["allowed"]) == ("max_snapshot_depth", MAX_DEPTH)


class TestSmallerLimits:
    """Limits are settings; what is refused follows them."""

    @pytest.fixture
    def limits(self) -> Limits:
        return Limits(max_body_bytes=4_000, max_event_bytes=1_000, max_page=10, max_batch=2)

    def test_the_limits_of_the_settings_hold(self, api: Api) -> None:
        instance_id = api.start()

        def limit_of(answer: Any) -> str:
            return str(answer.json["limit"])

        assert (
            limit_of(api.post(f"/instances/{instance_id}/events", {"type": "X", "y": "x" * 1_001}))
            == "max_event_bytes"
        )
        assert (
            limit_of(api.post(f"/instances/{instance_id}/events", {"type": "X", "y": "x" * 4_001}))
            == "max_body_bytes"
        )
        assert limit_of(api.get("/instances", limit=11)) == "max_page"
        assert limit_of(api.post("/instances:batch", {"instances": [{}, {}, {}]})) == "max_batch"
        assert (
            limit_of(api.post("/definitions/simulate", {"document": APPROVAL, "events": [{}, {}, {}]}))
            == "max_batch"
        )


# -- keys ---------------------------------------------------------------------------------------------------------


def test_a_wrong_or_missing_key_is_refused_without_a_hint(api: Api) -> None:
    made_elsewhere = make_key(read_secret(make_secret())).text
    changed = api.keys["admin"][:-1] + ("a" if api.keys["admin"][-1] != "a" else "b")
    for method in ("GET", "POST"):
        for key in ("", "sb_wrong", made_elsewhere, changed):
            with one_refusal(api) as lines:
                answer = api.send_raw(method, INSTANCES, key=key, json={"definitionKey": "approval"})

            problem = problem_of(answer, 401, "auth.required", key)
            assert problem["detail"] == 'a valid API key is needed: "Authorization: Bearer sb_…"'
            assert answer.headers["WWW-Authenticate"] == 'Bearer realm="signalbox"'
            assert (lines[0]["tenant_id"], lines[0]["key_name"]) == (None, None)
            assert not key or key not in str(lines), "a key never stands in the log"


def test_an_expired_or_revoked_key_is_refused(api: Api) -> None:
    api.engine.execute(
        f"UPDATE api_keys SET revoked_at = '2020-01-01 00:00:00' WHERE name = 'the {Role.VIEWER}'"
    )
    api.engine.execute(
        f"UPDATE api_keys SET expires_at = '2020-01-01 00:00:00' WHERE name = 'the {Role.AUTHOR}'"
    )

    for role in (Role.VIEWER, Role.AUTHOR):
        problem_of(api.get("/instances", key=api.keys[role]), 401, "auth.required", role)
    assert api.get("/instances").status_code == 200


# -- addresses ----------------------------------------------------------------------------------------------------

NOWHERE: list[tuple[str, str, int, str]] = [
    ("GET", "/", 404, "route.not_found"),
    ("GET", "/api", 404, "route.not_found"),
    ("GET", "/api/v1", 404, "route.not_found"),
    ("GET", "/api/v2/instances", 404, "route.not_found"),
    ("GET", "/api/v1/instances/", 404, "route.not_found"),
    ("GET", "//api/v1/instances", 404, "route.not_found"),
    ("GET", "/static/docs.css", 404, "route.not_found"),
    ("GET", "/docs/../api", 404, "route.not_found"),
    ("DELETE", "/api/v1/instances", 405, "method.not_allowed"),
    ("PUT", "/api/v1/instances/0199a3c5-7f1e-7c42-9b63-2f4d8e6a1b90", 405, "method.not_allowed"),
    ("OPTIONS", "/api/v1/instances", 405, "method.not_allowed"),
    ("POST", "/health/live", 405, "method.not_allowed"),
    ("GET", "/api/v1/instances/x%00y", 404, "instance.not_found"),
    ("GET", "/api/v1/definitions/x%00y", 404, "definition.not_found"),
    ("GET", "/api/v1/definitions/" + "x" * 2_000, 404, "definition.not_found"),
    ("GET", "/api/v1/definitions/approval/versions/one", 404, "definition.not_found"),
    ("GET", "/api/v1/definitions/approval/versions/-1", 404, "definition.not_found"),
    ("GET", "/api/v1/definitions/approval/versions/0", 404, "definition.not_found"),
    ("GET", "/api/v1/definitions/approval/versions/99999999999999999999", 404, "definition.not_found"),
    ("GET", "/api/v1/definitions/approval/versions/%D9%A1", 404, "definition.not_found"),
    ("GET", "/api/v1/tasks/x", 404, "task.not_found"),
    ("GET", "/api/v1/incidents/x", 404, "incident.not_found"),
    ("GET", "/api/v1/configs/x", 404, "config.not_found"),
    ("DELETE", "/api/v1/configs/x%00y", 404, "config.not_found"),
]


def test_an_address_that_leads_nowhere_is_a_problem_too(api: Api) -> None:
    api.apply()
    for method, path, status, code in NOWHERE:
        with one_refusal(api):
            answer = api.send_raw(method, path)
        problem_of(answer, status, code, f"{method} {path}")
        assert ("Allow" in answer.headers) == (status == 405)


def test_a_caller_cannot_write_lines_of_the_log(api: Api) -> None:
    with one_refusal(api) as lines:
        api.send_raw("GET", "/nowhere%0a2026-01-01 [info] all is well%1b[31m")

    assert "\n" not in lines[0]["path"] + lines[0]["detail"]
    assert "\x1b" not in lines[0]["path"] + lines[0]["detail"]
    assert len(lines[0]["path"]) < 400


# -- what fails on our side ---------------------------------------------------------------------------------------


def test_a_failure_of_ours_tells_a_trace_id_and_nothing_else(api: Api) -> None:
    assert api.get("/definitions").status_code == 200, (
        "the wall between tenants was looked at while all of it stood"
    )
    api.engine.execute("ALTER TABLE definitions RENAME TO definitions_away")
    try:
        with capture_logs() as lines:
            answer = api.get("/definitions")
    finally:
        api.engine.execute("ALTER TABLE definitions_away RENAME TO definitions")

    assert answer.status_code in (500, 503)
    assert "definitions_away" not in answer.text
    assert "SELECT" not in answer.text
    (line,) = lines
    assert line["event"] == "request.failed"
    assert line["trace_id"] == answer.json["traceId"] == answer.headers["X-Trace-Id"]
    assert "definitions" in line["reason"] if answer.status_code == 503 else "exc_info" in line


def test_the_trace_id_of_the_caller_is_taken_over(api: Api) -> None:
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    header = f"00-{trace_id}-00f067aa0ba902b7-01"

    assert (
        api.send_raw("GET", "/health/live", headers={"traceparent": header}).headers["X-Trace-Id"] == trace_id
    )
    own = api.send_raw("GET", "/health/live", headers={"traceparent": "nonsense"}).headers["X-Trace-Id"]
    assert len(own) == 32
    assert own != trace_id


# -- headers ------------------------------------------------------------------------------------------------------


def test_every_answer_carries_the_security_headers(api: Api) -> None:
    for path in ("/docs", "/openapi.json", "/health/live", "/api/v1/instances", "/nowhere"):
        headers = api.send_raw("GET", path, headers={"Origin": "https://evil.example"}).headers

        assert headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cache-Control"] == "no-store"
        assert not [name for name, _ in headers if name.startswith("Access-Control")]
