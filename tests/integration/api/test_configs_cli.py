"""`signalbox config …` against a real API."""

import pytest

from common.errors import NotFound
from signalbox.cli.exits import UsageError
from tests.integration.api.cli import Cli, served
from tests.integration.api.conftest import APPROVAL, Api
from tests.integration.engine.documents import ON_SQLITE

pytestmark = ON_SQLITE


def test_values_are_set_shown_resolved_and_deleted(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    api.apply({**APPROVAL, "config": {"orders": {"currency": "CHF"}}})
    with served(api) as url:
        cli = Cli(api, url, monkeypatch)
        made = cli.json("config", "set", "orders", "limit", '{"amount": 5}', "--description", "why")
        assert (made["value"], made["scope"], made["description"]) == ({"amount": 5}, "module", "why")
        assert cli.json("config", "set", "orders", "limit", "7", "--for", "order-7")["scope"] == "instance"
        assert cli.json("config", "set", "orders", "limit", "9", "--scope", "tenant")["scope"] == "tenant"

        assert cli.json("config", "get", "orders", "limit")["value"] == {"amount": 5}
        assert cli.json("config", "get", "orders", "limit", "--for", "order-7")["value"] == 7
        assert len(cli.json("config", "list")["items"]) == 3
        assert [one["value"] for one in cli.json("config", "list", "--scope", "tenant")["items"]] == [9]
        assert [one["value"] for one in cli.json("config", "list", "--for", "order-7")["items"]] == [7]
        asked = ("config", "resolve", "orders", "limit", "currency", "none", "--for", "order-7")
        assert cli.json(*asked, "--definition", "approval") == {
            "results": {
                "limit": {"value": 7, "source": "instance"},
                "currency": {"value": "CHF", "source": "default"},
                "none": {"value": None, "source": "default"},
            }
        }
        assert "instance" in cli.text(*asked)
        assert '{"amount":5}' in cli.text("config", "list").replace(" ", "")

        assert cli.json("config", "rm", "orders", "limit")["value"] == {"amount": 5}
        missing = cli.run("config", "rm", "orders", "limit")
        assert isinstance(missing.exception, NotFound)
        assert cli.json("config", "resolve", "orders", "limit")["results"]["limit"]["source"] == "tenant"


def test_a_scope_that_is_none_is_refused(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    with served(api) as url:
        result = Cli(api, url, monkeypatch).run("config", "set", "orders", "limit", "1", "--scope", "planet")

    assert isinstance(result.exception, UsageError)
