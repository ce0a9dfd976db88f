"""The OpenAPI document and the pages: valid, complete, and the same table that is routed."""

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from openapi_spec_validator import OpenAPIV31SpecValidator

from api.app import create_app, services_of
from api.auth import Permission
from api.operations import Operation
from api.problems import CATALOGUE
from api.routes import OPERATIONS
from common.config import Limits, Settings
from common.credentials import make_secret
from common.errors import Conflict, Forbidden, Invalid, LimitExceeded, NotFound, Unauthorized, Unavailable

ERRORS = (Conflict, Forbidden, Invalid, LimitExceeded, NotFound, Unauthorized, Unavailable)


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Flask:
    path = tmp_path_factory.mktemp("app") / "never-opened.db"
    return create_app(Settings(database_url=f"sqlite:///{path}", secret=make_secret(), doorbells=False))


@pytest.fixture(scope="module")
def document(app: Flask) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(services_of(app).documents.openapi)
    return found


def operations_of(document: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (verb.upper(), path): operation
        for path, verbs in document["paths"].items()
        for verb, operation in verbs.items()
    }


def test_the_document_is_valid_openapi(document: dict[str, Any]) -> None:
    OpenAPIV31SpecValidator(document).validate()

    assert document["openapi"] == "3.1.0"


def test_every_route_is_in_the_document_and_the_reverse(app: Flask, document: dict[str, Any]) -> None:
    def camel(name: str) -> str:
        head, *rest = name.split("_")
        return head + "".join(part.title() for part in rest)

    routed = {
        (method, re.sub(r"<(?:path:)?(\w+)>", lambda found: f"{{{camel(found[1])}}}", rule.rule))
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD"}
    }

    assert routed == set(operations_of(document))


def test_every_operation_is_told_apart_and_refuses_with_problems(document: dict[str, Any]) -> None:
    operations = operations_of(document).values()
    names = [operation["operationId"] for operation in operations]

    assert len(set(names)) == len(names)
    for operation in operations:
        assert operation["responses"]["default"] == {"$ref": "#/components/responses/Problem"}
        assert operation["summary"]
        assert operation["tags"]


def test_every_post_takes_an_idempotency_key(document: dict[str, Any]) -> None:
    for (method, path), operation in operations_of(document).items():
        headers = {parameter["name"] for parameter in operation["parameters"] if parameter["in"] == "header"}
        is_asked = method == "POST" and operation.get("security") != []  # a link is used once by itself
        assert ("Idempotency-Key" in headers) == is_asked, path


def test_only_health_figures_and_documentation_are_open(document: dict[str, Any]) -> None:
    open_paths = {
        path for (_, path), operation in operations_of(document).items() if operation.get("security") == []
    }

    assert open_paths == {
        "/health/live",
        "/health/ready",
        "/openapi.json",
        "/docs",
        "/docs/problems",
        "/docs/style.css",
        "/links/{token}",  # to whoever has a link
        "/metrics",  # to this machine; tests/integration/api/test_metrics.py
    }


@pytest.mark.parametrize("operation", [one for one in OPERATIONS if one.example], ids=lambda one: one.name)
def test_an_example_is_a_body_that_is_accepted(operation: Operation) -> None:
    assert operation.body is not None
    operation.body.model_validate(operation.example)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda one: one.name)
def test_what_writes_asks_for_more_than_reading(operation: Operation) -> None:
    match operation.kind:
        case "command":
            assert operation.permission not in (None, Permission.READ)
            assert operation.method in ("POST", "PUT", "DELETE")
        case "read" | "calculation":
            assert operation.permission in (Permission.READ, Permission.ADMINISTER)
        case "open" | "link":
            assert operation.permission is None


def test_every_reference_in_the_document_leads_somewhere(document: dict[str, Any]) -> None:
    found = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)))

    assert found <= set(document["components"]["schemas"])


# -- pages --------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["reference", "problems"])
def page(request: pytest.FixtureRequest, app: Flask) -> str:
    documents = services_of(app).documents
    return (documents.reference if request.param == "reference" else documents.problems).decode()


def test_a_page_asks_nobody_else_and_runs_nothing(page: str) -> None:
    asked = set(re.findall(r'(?:src|href|action)="([^"]*)"', page))

    assert all(address.startswith(("#", "/docs", "/openapi.json")) for address in asked), asked
    assert "<script" not in page
    assert "style=" not in page
    assert "<style" not in page
    assert not re.search(r"\son\w+=", page), "no event handlers in attributes"


def test_a_page_has_no_link_that_leads_nowhere(page: str) -> None:
    places = set(re.findall(r'id="([^"]+)"', page))
    links = set(re.findall(r'href="#([^"]+)"', page))

    assert links <= places


def test_the_style_sheet_asks_nobody_else(app: Flask) -> None:
    style = services_of(app).documents.style.decode()

    assert "url(" not in style
    assert "@import" not in style


def test_the_reference_shows_every_operation_with_a_curl_line(app: Flask) -> None:
    reference = services_of(app).documents.reference.decode()

    for operation in OPERATIONS:
        assert f'id="{operation.name}"' in reference
        assert operation.path in reference
    assert reference.count("curl") == len(OPERATIONS)


def test_the_page_of_problems_has_a_place_for_every_code(app: Flask) -> None:
    page = services_of(app).documents.problems.decode()

    assert all(f'id="{code}"' in page for code in CATALOGUE)


def codes_in(source: Path) -> set[str]:
    """The constants that a file gives to an argument `code`, in calls of our error classes."""
    calls = [node for node in ast.walk(ast.parse(source.read_text("utf-8"))) if isinstance(node, ast.Call)]
    return {
        str(part.value)
        for call in calls
        if isinstance(call.func, ast.Name) and call.func.id in {kind.__name__ for kind in ERRORS}
        for keyword in call.keywords
        if keyword.arg == "code"
        for part in ast.walk(keyword.value)
        if isinstance(part, ast.Constant)
    }


def test_every_code_that_the_sources_raise_is_in_the_catalogue() -> None:
    """Codes are stable names that callers program against: each has a title and a place on the page."""
    root = Path(__file__).parents[3]
    sources = [*(root / "api").rglob("*.py"), *(root / "common" / "commands").glob("*.py")]
    raised = {code for source in sources for code in codes_in(source)}

    assert {"event.reserved", "definition.not_active", "instance.finished", "cursor.invalid"} <= raised
    assert raised <= set(CATALOGUE)


# -- docs/api.md --------------------------------------------------------------------------------------------------


def page_of_prose() -> str:
    return (Path(__file__).parents[3] / "docs" / "api.md").read_text("utf-8")


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda one: one.name)
def test_the_page_of_prose_names_every_call(operation: Operation) -> None:
    path = operation.path.removeprefix("/api/v1")
    permission = operation.permission or "none"
    lines = [line for line in page_of_prose().splitlines() if f"{path}`" in line and operation.method in line]

    assert any(line.endswith(f"| {permission} |") for line in lines)


def test_the_page_of_prose_explains_every_code() -> None:
    assert set(re.findall(r"^\| `([a-z_.]+)` \| \d{3}", page_of_prose(), re.MULTILINE)) == set(CATALOGUE)


def test_the_page_of_prose_tells_every_limit() -> None:
    told = dict(re.findall(r"^\| `SIGNALBOX_(\w+)` \| ([\d,]+) \|", page_of_prose(), re.MULTILINE))
    defaults = {name.upper(): f"{field.default:,}" for name, field in Limits.model_fields.items()}

    assert told == defaults
