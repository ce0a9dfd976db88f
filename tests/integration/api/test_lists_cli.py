"""Lists of the command line that are cut: who sees fifty failed instances of five hundred has to know it."""

import json
from collections.abc import Iterator

import pytest

from tests.integration.api.cli import Cli, served
from tests.integration.api.conftest import Api
from tests.integration.engine.documents import ON_SQLITE

pytestmark = ON_SQLITE
MORE = "these are the first 2, and there are more: --limit N shows N\n"


@pytest.fixture
def cli(api: Api, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cli]:
    with served(api) as url:
        yield Cli(api, url, monkeypatch)


def test_a_list_that_is_cut_says_so_beside_its_answer(api: Api, cli: Cli) -> None:
    newest = [api.start() for _ in range(3)][:0:-1]

    for words in (["ls", "--limit", "2"], ["ls", "--limit", "2", "--json"]):
        cut = cli.run(*words)
        assert cut.stderr == MORE
        assert [id_ in cut.stdout for id_ in newest] == [True, True]
    assert [one["id"] for one in json.loads(cut.stdout)["items"]] == newest

    whole = cli.run("ls", "--limit", "3")
    assert (whole.stderr, newest[0] in whole.stdout) == ("", True)


@pytest.mark.parametrize(
    "make",
    [
        ["triggers", "create", "approval", "ORDERED"],
        ["schedules", "create", "approval", "--every", "1h"],
        ["breakers", "open", "HTTP", "https://a{}.example"],
        ["config", "set", "tests", "key{}", "1"],
    ],
    ids=lambda words: words[0],
)
def test_so_do_the_others(api: Api, cli: Cli, make: list[str]) -> None:
    api.apply()
    for number in range(3):
        cli.text(*(word.format(number) for word in make))

    assert cli.run(make[0], "list", "--limit", "2").stderr == MORE
    assert cli.run(make[0], "list", "--limit", "3").stderr == ""
    assert len(cli.json(make[0], "list", "--limit", "2")["items"]) == 2
