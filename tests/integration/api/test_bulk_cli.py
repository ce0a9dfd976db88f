"""Commands for all that a filter finds, where it finds none."""

import json
from collections.abc import Iterator

import pytest

from tests.integration.api.cli import Cli, served
from tests.integration.api.conftest import Api
from tests.integration.engine.documents import ON_SQLITE

pytestmark = ON_SQLITE


@pytest.fixture
def cli(api: Api, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cli]:
    with served(api) as url:
        yield Cli(api, url, monkeypatch)


@pytest.mark.parametrize(
    "command",
    [("cancel",), ("retry",), ("cancel", "--dry-run"), ("erase",), ("incidents", "resolve")],
    ids=" ".join,
)
def test_a_definition_that_is_not_there_is_told(cli: Cli, command: tuple[str, ...]) -> None:
    result = cli.run(*command, "--definition", "nosuch", "--yes")

    assert "accepted" not in result.stdout
    assert "none match" not in result.stdout
    assert getattr(result.exception, "code", None) == "definition.not_found"
    assert '"nosuch"' in str(result.exception)


def test_none_that_match_are_told(api: Api, cli: Cli) -> None:
    api.start()

    for more in (("--yes",), ("--dry-run",), ()):
        told = cli.text("retry", "--definition", "approval", *more)
        assert told == "none match the filter: nothing is done\n"
        assert "none match" in cli.text("pause", "--label", "team=blue", *more)
    assert json.loads(cli.run("retry", "--definition", "approval", "--yes", "--json").stdout) == {
        "dryRun": False,
        "accepted": [],
        "refused": [],
    }
    assert "accepted: pause 1 instance\n" in cli.text("pause", "--definition", "approval", "--yes")
