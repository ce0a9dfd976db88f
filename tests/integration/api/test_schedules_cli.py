"""`signalbox schedules …` against a real API."""

import pytest

from common.errors import NotFound
from signalbox.cli.exits import UsageError
from tests.integration.api.cli import Cli, served
from tests.integration.api.conftest import Api
from tests.integration.engine.documents import ON_SQLITE

pytestmark = ON_SQLITE


def test_schedules_are_created_shown_moved_and_deleted(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    api.apply()
    with served(api) as url:
        cli = Cli(api, url, monkeypatch)
        made = cli.json(
            "schedules", "create", "approval", "--cron", "0 9 * * 1-5", "-z", "Europe/Berlin", "--name", "morning",
            "--overlap", "queue", "--catch-up", "all", "--catch-up-limit", "3", "--jitter", "5m",
            "--input", '{"at": "${scheduledAt}"}',
        )  # fmt: skip
        one = made["id"]
        assert (made["timezone"], made["overlap"], made["catchUp"], made["catchUpLimit"], made["jitter"]) == (
            "Europe/Berlin", "queue", "all", 3, 300_000,
        )  # fmt: skip
        assert len(cli.json("schedules", "next", one, "-n", "7")["items"]) == 7
        assert "0 9 * * 1-5 Europe/Berlin" in cli.text("schedules", "list")
        assert "next runs" in cli.text("schedules", "show", one)
        assert cli.text("schedules", "next", one).count("\n") > 10

        assert cli.json("schedules", "pause", one)["status"] == "paused"
        assert [found["id"] for found in cli.json("schedules", "list", "--paused")["items"]] == [one]
        assert cli.json("schedules", "list", "--not-paused")["items"] == []
        assert cli.json("schedules", "trigger", one)["labels"] == {"schedule": "morning"}
        assert cli.json("schedules", "resume", one, "--catch-up")["status"] == "active"
        changed = cli.json("schedules", "create", "approval", "--every", "2h", "--replace", one)
        assert (changed["id"], changed["every"], changed["cron"]) == (one, "2h", None)

        assert cli.json("schedules", "rm", one)["id"] == one
        assert isinstance(cli.run("schedules", "show", one).exception, NotFound)


def test_words_that_are_none_are_refused(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    api.apply()
    with served(api) as url:
        cli = Cli(api, url, monkeypatch)
        for wrong in (
            ["--cron", "* * * * *", "--every", "1h"],
            [],
            ["--every", "1h", "--overlap", "maybe"],
            ["--every", "1h", "--catch-up", "some"],
        ):
            assert isinstance(cli.run("schedules", "create", "approval", *wrong).exception, UsageError)
