"""`GET /instances/{id}/results` and `signalbox results`."""

from typing import Any

import pytest

from tests.integration.api.cli import Cli, served
from tests.integration.api.conftest import Api
from tests.integration.engine.documents import ON_SQLITE
from tests.integration.engine.test_results import LOOP


def counting(api: Api) -> str:
    api.engine.handler("count", lambda input: {"n": input["total"] + 1})
    return api.start({**LOOP, "states": {**LOOP["states"], "done": _DONE}})


_DONE: dict[str, Any] = {
    "entry": [
        {"type": "createTask", "task": {"type": "HUMAN", "name": "look", "input": {"n": 1}}},
        {"type": "createTask", "task": {"type": "count", "name": "fails", "input": {}, "retry": 1}},
    ],
    "on": {"done.task.look": "failed", "error.task.fails": "failed", "done.task.fails": "failed"},
}


def test_the_newest_task_of_each_place_is_told(api: Api) -> None:
    instance_id = counting(api)

    items = api.get(f"/instances/{instance_id}/results").json["items"]

    failed, look, work = items
    assert (work["key"], work["state"], work["runs"], work["attempts"]) == ("work/1/3", "work", 3, 1)
    assert (work["input"], work["output"], work["error"]) == ({"total": 2}, {"n": 3}, None)
    assert work["startedAt"] <= work["endedAt"]
    assert work["durationMs"] >= 0
    assert (look["name"], look["type"], look["status"]) == ("look", "HUMAN", "running")
    assert (look["startedAt"] is not None, look["endedAt"], look["durationMs"]) == (True, None, None)
    assert (failed["name"], failed["status"], failed["error"]["code"]) == ("fails", "failed", "KeyError")
    assert api.get(f"/tasks/{work['taskId']}").json["name"] == work["name"]


def test_results_are_paged(api: Api) -> None:
    instance_id = counting(api)

    names, cursor = [], None
    while True:
        page = api.get(
            f"/instances/{instance_id}/results", limit=1, **({"cursor": cursor} if cursor else {})
        ).json
        names += [one["name"] for one in page["items"]]
        cursor = page["nextCursor"]
        if cursor is None:
            break

    assert names == ["fails", "look", "count"]


@ON_SQLITE
def test_the_command_shows_them(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    instance_id = counting(api)
    with served(api) as url:
        cli = Cli(api, url, monkeypatch)
        assert [one["runs"] for one in cli.json("results", instance_id)["items"]] == [1, 1, 3]
        assert "fails" in cli.text("results", instance_id)
