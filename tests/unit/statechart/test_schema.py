"""The published JSON Schema accepts what the kernel accepts in its documented forms, and refuses slips."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

import statechart
from tests.unit.statechart.charts import document_of
from tests.unit.statechart.test_checks import GOOD
from tests.unit.statechart.test_diagram import ORDER

VALIDATOR = jsonschema.Draft202012Validator(statechart.json_schema())
HELLO = json.loads((Path(__file__).parents[3] / "fixtures/001-hello-workflow.json").read_text())


def test_the_schema_is_a_schema():
    jsonschema.Draft202012Validator.check_schema(statechart.json_schema())


@pytest.mark.parametrize("document", [HELLO, document_of(ORDER), *GOOD.values()])
def test_good_documents_are_valid(document):
    assert [error.message for error in VALIDATOR.iter_errors(document)] == []


@pytest.mark.parametrize(
    "document",
    [
        {"initial": 7},
        {"states": {"a": {"on": {"GO": {"target": "b", "cond": "x"}}}}},
        {"states": {"a": {"entry": {"type": "raise"}}}},
        {"states": {"a": {"type": "compond"}}},
        {"unknown": 1},
    ],
)
def test_slips_are_refused(document):
    assert not VALIDATOR.is_valid(document)


def test_the_schema_in_the_docs_is_this_one():
    # python -c "import json, statechart; print(json.dumps(statechart.json_schema(), indent=1))" writes it anew
    written = (Path(__file__).parents[3] / "docs/definition.schema.json").read_text()

    assert json.loads(written) == statechart.json_schema()


def test_the_schema_names_no_other_place_to_fetch_from():
    references = [value for key, value in _walk(statechart.json_schema()) if key == "$ref"]

    assert references
    assert all(reference.startswith("#/$defs/") for reference in references)


def _walk(value):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key, inner
            yield from _walk(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _walk(inner)
