"""Problems: the status of each error, and what a caller is told of what is none of ours."""

import pytest
from gunicorn.http.errors import ConfigurationProblem, InvalidResponseHeader
from werkzeug.exceptions import HTTPException, MethodNotAllowed
from werkzeug.exceptions import NotFound as NoRoute

from api.problems import CATALOGUE, describe, item_problem, status_of, unavailable, unread
from common.errors import (
    Conflict,
    Forbidden,
    Invalid,
    LimitExceeded,
    Misconfigured,
    NotFound,
    SignalboxError,
    Unauthorized,
    Unavailable,
)

HERE = {"path": "/api/v1/x", "trace_id": "t1"}


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Invalid("no"), 422),
        (Invalid("no", code="event.reserved"), 422),
        (Invalid("no", code="json.invalid"), 400),
        (Invalid("no", code="cursor.invalid"), 400),
        (Invalid("no", code="request.media_type"), 415),
        (LimitExceeded("no", limit="max_body_bytes", allowed=1), 413),
        (LimitExceeded("no", limit="max_event_bytes", allowed=1), 413),
        (LimitExceeded("no", limit="max_json_depth", allowed=1), 422),
        (LimitExceeded("no", limit="max_page", allowed=1), 422),
        (Unauthorized("no"), 401),
        (Forbidden("no"), 403),
        (NotFound("no"), 404),
        (Conflict("no"), 409),
        (Unavailable("no"), 503),
        (Misconfigured("no"), 500),
        (SignalboxError("no"), 500),
    ],
)
def test_each_error_has_its_status(error: SignalboxError, status: int) -> None:
    problem = describe(error, **HERE)

    assert status_of(error) == status == problem.status == problem.body["status"]
    assert problem.body["code"] == error.code
    assert problem.body["detail"] == "no"
    assert problem.body["instance"] == "/api/v1/x"
    assert problem.body["traceId"] == "t1"
    assert problem.body["type"] == f"/docs/problems#{error.code}"
    assert problem.body["title"]


def test_an_error_brings_its_fields_and_problems() -> None:
    finding = {
        "severity": "error",
        "code": "target.unknown",
        "path": "on.x",
        "message": "no",
        "suggestion": None,
    }
    body = describe(Invalid("no", problems=[finding], status="not ours to set", limit=3), **HERE).body

    assert body["problems"] == [finding]
    assert body["limit"] == 3
    assert body["status"] == 422, "a field never takes the place of a member of every problem"


def test_what_is_none_of_ours_is_told_by_its_trace_id_alone() -> None:
    problem = describe(RuntimeError("password=hunter2 at db.internal:5432"), **HERE)

    assert problem.status == 500
    assert problem.code == "internal"
    assert "hunter2" not in str(problem)
    assert "t1" in problem.detail


def test_what_the_server_itself_did_wrong_is_no_fault_of_the_request() -> None:
    for error in (RuntimeError("hunter2"), InvalidResponseHeader("hunter2"), ConfigurationProblem("hunter2")):
        problem = unread(error, trace_id="t1")

        assert (problem.status, problem.code) == (500, "internal")
        assert "hunter2" not in str(problem)


def test_an_unauthorized_answer_names_the_scheme() -> None:
    assert describe(Unauthorized("no"), **HERE).headers == {"WWW-Authenticate": 'Bearer realm="signalbox"'}


def test_an_absent_database_is_told_without_its_address() -> None:
    problem = unavailable(**HERE)

    assert (problem.status, problem.code) == (503, "unavailable")
    assert problem.headers == {"Retry-After": "1"}


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [(NoRoute(), 404, "route.not_found"), (MethodNotAllowed(["GET"]), 405, "method.not_allowed")],
)
def test_what_routing_refuses_is_a_problem_too(error: HTTPException, status: int, code: str) -> None:
    problem = describe(error, **HERE)

    assert (problem.status, problem.code) == (status, code)


def test_a_refused_method_is_answered_with_those_that_are_taken() -> None:
    problem = describe(MethodNotAllowed(["GET", "HEAD"]), **HERE)

    assert problem.headers["Allow"] == "GET, HEAD"
    assert "GET, HEAD" in problem.detail


def test_an_item_of_a_batch_has_the_same_problem() -> None:
    assert item_problem(NotFound("no"), **HERE) == describe(NotFound("no"), **HERE).body


def test_the_catalogue_has_a_title_for_the_code_of_every_error_class() -> None:
    shown = {Invalid, LimitExceeded, Unauthorized, Forbidden, Unavailable}

    assert {kind.code for kind in shown} <= set(CATALOGUE)
