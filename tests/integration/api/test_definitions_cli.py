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


def test_versions_are_compared_put_away_and_restored(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    ways = {"GO": "b", "STOP": "b"}
    first = {"id": "flow", "initial": "a", "states": {"a": {"on": ways}, "b": {"type": "final"}}}
    second = {**first, "timeout": "1h", "states": {**first["states"], "a": {"on": {"GO": "b"}}}}  # type: ignore[dict-item]
    api.apply(first)
    api.apply(second)

    with served(api) as url:
        cli = Cli(api, url, monkeypatch)
        told = cli.text("definitions", "diff", "flow")
        same = cli.text("definitions", "diff", "flow", "--from", "2", "--to", "2")
        cli.json("definitions", "archive", "flow", "1")
        restored = cli.json("definitions", "restore", "flow", "1")
        there_and_back = cli.json("definitions", "diff", "flow", "--from", "1")

    assert told.splitlines() == [
        "flow version 1 → 2",
        '- states.a.on.STOP: "b"',
        '+ timeout: "1h"',
    ]
    assert same.splitlines() == ["flow version 2 → 2", "the same document"]
    assert (restored["version"], restored["status"], restored["document"]) == (3, "active", first)
    assert (there_and_back["to"], there_and_back["changes"]) == (3, [])


def test_the_list_may_be_searched(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("order", "reorder", "mail"):
        api.apply({"id": key, "initial": "a", "states": {"a": {"type": "final"}}})

    with served(api) as url:
        cli = Cli(api, url, monkeypatch)
        found = cli.json("definitions", "list", "--search", "order")
        none = cli.text("definitions", "list", "--search", "zebra")

    assert [one["key"] for one in found["items"]] == ["order", "reorder"]
    assert none.strip() == 'no definition has "zebra" in its key'
