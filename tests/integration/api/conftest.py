"""The API on a real database, asked by Flask's test client; two tenants, and a key for every role."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from api.app import create_app, services_of
from common.config import Limits, Settings
from common.credentials import make_secret, read_secret
from common.db import Database
from common.db.tables import Role
from common.store import keys
from tests.support.engine import Engine

V1 = "/api/v1"
PUBLIC_URL = "https://signalbox.test"

APPROVAL: dict[str, Any] = {
    "id": "approval",
    "initial": "review",
    "context": {"approved": False},
    "states": {
        "review": {
            "initial": "open",
            "states": {"open": {"on": {"LOOKED": "seen"}}, "seen": {}},
            "on": {
                "APPROVED": {
                    "target": "done",
                    "actions": {"type": "assign", "path": "approved", "value": True},
                }
            },
        },
        "done": {"type": "final"},
    },
}
"""Waits for a person, and ends when told to."""


@dataclass
class Api:
    """An API process of one test, the engine of its tenant, and the keys to it."""

    app: Flask
    engine: Engine
    secret: str
    keys: Mapping[str, str]
    other_key: str

    def get(self, path: str, *, key: str | None = None, **query: Any) -> TestResponse:
        """GET below /api/v1, as an admin unless told otherwise."""
        return self.app.test_client().get(f"{V1}{path}", query_string=query, headers=self._headers(key, {}))

    def post(
        self, path: str, body: Any = None, *, key: str | None = None, headers: Mapping[str, str] | None = None
    ) -> TestResponse:
        """POST JSON below /api/v1, as an admin unless told otherwise; None: without a body."""
        content = {} if body is None else {"data": json.dumps(body), "content_type": "application/json"}
        return self.send_raw("POST", f"{V1}{path}", key=key, headers=headers or {}, **content)

    def put(self, path: str, body: Any, *, key: str | None = None) -> TestResponse:
        """PUT JSON below /api/v1, as an admin unless told otherwise."""
        return self.send_raw(
            "PUT", f"{V1}{path}", key=key, data=json.dumps(body), content_type="application/json"
        )

    def delete(self, path: str, *, key: str | None = None) -> TestResponse:
        """DELETE below /api/v1, as an admin unless told otherwise."""
        return self.send_raw("DELETE", f"{V1}{path}", key=key)

    def send_raw(self, method: str, path: str, *, key: str | None = None, **request: Any) -> TestResponse:
        """Any request to any address, with the admin's key unless told otherwise (an empty text: without one)."""
        headers = self._headers(key, request.pop("headers", {}))
        return self.app.test_client().open(path, method=method, headers=headers, **request)

    def apply(self, document: Mapping[str, Any] = APPROVAL, **more: Any) -> dict[str, Any]:
        answer = self.post("/definitions", {"document": document, **more})
        assert answer.status_code in (200, 201), answer.text
        return dict(answer.json or {})

    def start(self, document: Mapping[str, Any] = APPROVAL, **more: Any) -> str:
        """Apply a document, start an instance of it and let it come to rest; its id."""
        self.apply(document)
        answer = self.post("/instances", {"definitionKey": document["id"], **more})
        assert answer.status_code in (200, 201), answer.text
        self.engine.settle()
        return str((answer.json or {})["id"])

    def _headers(self, key: str | None, more: Mapping[str, str]) -> dict[str, str]:
        text = self.keys["admin"] if key is None else key
        return {**({"Authorization": f"Bearer {text}"} if text else {}), **more}


@pytest.fixture
def limits() -> Limits:
    """The limits of the API under test; a module may shrink them."""
    return Limits()


@pytest.fixture
def api(engine: Engine, database: Database, database_url: str, limits: Limits) -> Iterator[Api]:
    """An API process on the test's database. Nothing runs beside it: a test lets the engine take its turns."""
    secret = make_secret()
    raw = read_secret(secret)
    with database.transaction() as tx:
        other = keys.ensure_tenant(tx, "other")
        issued = {
            role.value: keys.issue_key(tx, engine.tenant_id, name=f"the {role}", role=role, secret=raw).key
            for role in Role
        }
        foreign = keys.issue_key(tx, other, name="stranger", role=Role.ADMIN, secret=raw).key
    settings = Settings(
        database_url=database_url, secret=secret, redis_url="", doorbells=False, public_url=PUBLIC_URL
    )
    app = create_app(settings, limits=limits)
    yield Api(app, engine, secret, issued, foreign)
    services_of(app).close()


def problem_of(answer: TestResponse, status: int, code: str, about: object = "") -> dict[str, Any]:
    """The problem in an answer that must be one; fails with the answer's text and what it was `about`."""
    assert answer.status_code == status, f"{about} {answer.text}"
    assert answer.content_type == "application/problem+json"
    problem = dict(answer.json or {})
    assert problem["code"] == code, f"{about} {problem}"
    assert problem["status"] == status
    return problem
