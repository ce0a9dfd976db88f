"""Each rule of the language, as data: `vectors/<rule group>.json` holds expressions with their value or error.

A vector is `{"expr", "scope"?, "value" | "error"}`; `scope` replaces roots of the common one. Values are compared as
JSON text, so that 1, 1.0 and true stay apart.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.statechart.common_scope import COMMON, answer


def _vectors() -> list[Any]:
    return [
        pytest.param(vector, id=f"{path.stem}: {vector['expr'][:60]}")
        for path in sorted((Path(__file__).parent / "vectors").glob("*.json"))
        for vector in json.loads(path.read_text(encoding="utf-8"))
    ]


@pytest.mark.parametrize("vector", _vectors())
def test_the_vector_holds(vector):
    found = answer(vector["expr"], COMMON | vector.get("scope", {}))

    expected = {key: vector[key] for key in ("value", "error") if key in vector}
    assert json.dumps(found, sort_keys=True) == json.dumps(expected, sort_keys=True)
