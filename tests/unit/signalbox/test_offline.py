"""`signalbox check` finds without a server all that needs none."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from signalbox.cli.app import app
from signalbox.cli.exits import Exit


def checked(tmp_path: Path, text: str) -> tuple[int, list[dict[str, Any]]]:
    file = tmp_path / "flow.json"
    file.write_text(text)
    told = CliRunner().invoke(app, ["check", str(file), "--json"])
    return told.exit_code, json.loads(told.stdout)["files"][0]["problems"]


def invoking(**invoke: Any) -> str:
    return json.dumps(
        {
            "id": "flow",
            "initial": "a",
            "states": {"a": {"invoke": {"onDone": "b", "onError": "b", **invoke}}, "b": {"type": "final"}},
        }
    )


@pytest.mark.parametrize(
    ("invoke", "found"),
    [
        ({"src": "HUMAN", "form": {"type": "objct"}}, [("task.form", "states.a.invoke.form.type")]),
        ({"src": "HTTP", "input": {"method": "GET", "urll": "https://orders.example"}},
         [("task.input", "states.a.invoke.input"), ("task.input", "states.a.invoke.input.urll")]),
        ({"src": "EMAIL", "input": {}}, [("task.input", "states.a.invoke.input")]),
        ({"src": "LOG", "input": {"level": "loud"}}, [("task.input", "states.a.invoke.input.level")]),
        ({"src": "work", "retry": {"jitter": "0.2"}}, [("retry.invalid", "states.a.invoke.retry.jitter")]),
    ],
    ids=["form", "http", "email", "own type", "literal"],
)  # fmt: skip
def test_what_the_types_that_come_along_refuse_is_found(
    tmp_path: Path, invoke: Any, found: list[tuple[str, str]]
) -> None:
    code, problems = checked(tmp_path, invoking(**invoke))

    assert code == Exit.FAILED
    assert sorted({(one["code"], one["path"]) for one in problems}) == found


@pytest.mark.parametrize("invoke", [{"src": "orders.validate"}, {"src": "SYSTEM", "name": "orders.validate"}])
def test_nothing_is_said_of_types_that_only_an_installation_knows(tmp_path: Path, invoke: Any) -> None:
    assert checked(tmp_path, invoking(**invoke)) == (0, [])


def test_schemas_schedules_and_the_id_are_looked_at_beside_a_chart_that_is_wrong(tmp_path: Path) -> None:
    document = {
        "initial": "a",
        "states": {"a": {"on": {"GO": "nowhere"}}},
        "input": {"type": "objct"},
        "triggers": [{"schedule": {"cron": "99 * * * *"}}],
    }

    code, problems = checked(tmp_path, json.dumps(document))

    assert code == Exit.FAILED
    assert {one["code"] for one in problems} == {"id.missing", "target.unknown", "schema.invalid", "schedule.invalid"}  # fmt: skip


@pytest.mark.parametrize(("text", "code"), [("{", "json.invalid"), ("[]", "document.form")])
def test_a_file_that_holds_no_document_is_one_problem(tmp_path: Path, text: str, code: str) -> None:
    exit_code, problems = checked(tmp_path, text)

    assert (exit_code, [one["code"] for one in problems]) == (Exit.FAILED, [code])
