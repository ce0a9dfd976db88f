"""`signalbox apply` against a real API."""

import json
from pathlib import Path

import pytest

from tests.integration.api.cli import Cli, served
from tests.integration.api.conftest import Api
from tests.integration.engine.documents import ON_SQLITE

pytestmark = ON_SQLITE


def test_a_parent_is_not_warned_of_a_child_that_comes_behind_it(
    api: Api, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    child = {"id": "kid", "initial": "a", "states": {"a": {"type": "final"}}}
    invoke = {"src": "WORKFLOW", "input": {"definitionKey": "kid"}, "onDone": "b", "onError": "b"}
    parent = {"id": "flow", "initial": "a", "states": {"a": {"invoke": invoke}, "b": {"type": "final"}}}
    files = [tmp_path / "flow.json", tmp_path / "kid.json"]
    for file, document in zip(files, (parent, child), strict=True):
        file.write_text(json.dumps(document))

    with served(api) as url:
        applied = Cli(api, url, monkeypatch).json("apply", *map(str, files))["items"]

    assert [(one["file"], one["key"], one["warnings"]) for one in applied] == [
        (str(files[0]), "flow", []),
        (str(files[1]), "kid", []),
    ]
