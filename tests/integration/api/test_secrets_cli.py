"""`signalbox secrets …`: values come by stdin or from a file, and no command shows one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from common.commands.secrets import set_secret
from common.config import Settings
from common.credentials import make_secret, read_secret
from common.errors import NotFound
from common.sealing import SealingKeys
from common.store.secrets import Named, read_sealed
from signalbox.cli.exits import Exit, UsageError
from tests.integration.api.cli import Cli, served
from tests.integration.api.conftest import Api

VALUE = "sk_live_0123456789"


@pytest.fixture
def cli(api: Api, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cli]:
    with served(api) as url:
        yield Cli(api, url, monkeypatch)


def stored(api: Api, name: str, *secrets: str) -> str:
    keys = SealingKeys.of(*map(read_secret, secrets or [api.secret]))
    named = Named(api.engine.tenant_id, name)
    with api.engine.database.reading() as tx:
        return keys.open(*named, read_sealed(tx, [named])[named])


@pytest.mark.parametrize(
    ("said", "value"), [("a b\n", "a b"), ("a\r\n", "a"), ("a\n\n", "a\n"), (" a", " a")]
)
def test_a_value_comes_from_stdin_without_the_line_feed_at_its_end(
    api: Api, cli: Cli, said: str, value: str
) -> None:
    result = cli.run("secrets", "set", "KEY", stdin=said)

    assert (result.exit_code, result.stdout) == (0, "secret KEY is set, version 1\n")
    assert stored(api, "KEY") == value


def test_a_value_comes_from_a_file_as_it_is(api: Api, cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    file.write_text("one\ntwo\n")

    assert cli.json("secrets", "set", "KEY", "--from-file", str(file))["version"] == 1
    assert stored(api, "KEY") == "one\ntwo\n"


def test_what_is_no_text_is_refused_without_being_shown(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_bytes(b"secret\xff")

    for result in (
        cli.run("secrets", "set", "KEY", stdin=b"secret\xff"),
        cli.run("secrets", "set", "KEY", "--from-file", str(file)),
    ):
        assert "expected text in UTF-8" in str(result.exception)
        assert "secret\\xff" not in str(result.exception)
    assert "cannot read" in str(cli.run("secrets", "set", "KEY", "--from-file", f"{file}.no").exception)


def test_secrets_are_listed_and_deleted(cli: Cli) -> None:
    cli.run("secrets", "set", "KEY", stdin=VALUE)
    cli.run("secrets", "set", "KEY", stdin=VALUE)

    (item,) = cli.json("secrets", "ls")["items"]
    assert (item["name"], item["version"], item["updatedBy"]) == ("KEY", 2, "key:the admin")
    assert "KEY" in cli.text("secrets", "ls")
    assert VALUE not in cli.text("secrets", "ls") + cli.text("secrets", "ls", "--json")
    assert cli.json("secrets", "rm", "KEY") == {"name": "KEY", "deleted": True}
    assert isinstance(cli.run("secrets", "rm", "KEY").exception, NotFound)
    assert "no secrets yet" in cli.text("secrets", "ls")


def test_the_installations_secret_is_rotated(
    api: Api, cli: Cli, database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", database_url)
    for name in ("A", "B"):
        cli.run("secrets", "set", name, stdin=f"value of {name}")
    new = make_secret()
    monkeypatch.setenv("SIGNALBOX_SECRET", new)

    missing = cli.run("secrets", "rotate", "--json")
    assert missing.exit_code == Exit.FAILED
    assert '"secret.unreadable"' in missing.stdout
    assert "does not name" in cli.run("secrets", "rotate").stdout

    monkeypatch.setenv("SIGNALBOX_OLD_SECRETS", api.secret)
    assert cli.json("secrets", "rotate") == {
        "keyId": SealingKeys.read(*Settings.load().installation_secrets()).current,
        "total": 2,
        "resealed": 2,
        "unopened": [],
    }
    assert [stored(api, name, new) for name in ("A", "B")] == ["value of A", "value of B"]
    assert "every secret is sealed" in cli.text("secrets", "rotate")


def test_a_secret_without_a_value_is_refused_before_anybody_is_asked(cli: Cli, tmp_path: Path) -> None:
    empty = tmp_path / "key"
    empty.touch()

    for result, source in (
        (cli.run("secrets", "set", "KEY", stdin="\n"), "stdin"),
        (cli.run("secrets", "set", "KEY", "--from-file", str(empty)), str(empty)),
    ):
        assert isinstance(result.exception, UsageError)
        assert result.exception.message == f"{source}: expected the value of the secret, found nothing"


def test_secrets_that_no_key_here_opens_are_counted_and_named(
    api: Api, cli: Cli, database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("COLUMNS", "400")
    assert cli.json("doctor")["delays"]["unopened"] is None, "without a key nobody can tell"
    monkeypatch.setenv("SIGNALBOX_SECRET", "too short")
    examined = cli.run("doctor", "--json")
    assert examined.exit_code == 0, "all else is examined with a malformed secret, too"
    assert "which secrets can be opened was not examined: " in examined.stderr
    monkeypatch.setenv("SIGNALBOX_SECRET", api.secret)
    cli.run("secrets", "set", "OURS", stdin=VALUE)
    assert cli.json("doctor")["delays"]["unopened"] == {}
    assert "cannot be opened" not in cli.text("doctor") + cli.text("secrets", "ls")
    lost = make_secret()
    keys = SealingKeys.of(read_secret(lost))
    for name in ("A", "B"):
        with api.engine.database.transaction() as tx:
            set_secret(tx, api.engine.tenant_id, name, VALUE, keys=keys, actor="key:test")

    told = (
        "2 secrets cannot be opened, and tasks that use them fail: sealed under a key that neither SIGNALBOX_SECRET nor "
        "SIGNALBOX_OLD_SECRETS is that of. Name the older secret in SIGNALBOX_OLD_SECRETS of every process and run "
        "`signalbox secrets rotate`, or set them again with `signalbox secrets set NAME`"
    )
    assert cli.json("doctor")["delays"]["unopened"] == {keys.current: 2}
    assert f"! {told} (the key's id: {keys.current})" in cli.text("doctor")
    listed = {one["name"]: one["readable"] for one in cli.json("secrets", "ls")["items"]}
    assert listed == {"A": False, "B": False, "OURS": True}
    shown = cli.text("secrets", "ls").splitlines()
    assert [line.split()[0] for line in shown if line.endswith(" ✗")] == ["A", "B"]
    assert f"✗ {told}" in shown

    monkeypatch.setenv("SIGNALBOX_OLD_SECRETS", lost)
    assert cli.json("doctor")["delays"]["unopened"] == {}
    assert cli.json("secrets", "rotate")["resealed"] == 2
    assert {one["readable"] for one in cli.json("secrets", "ls")["items"]} == {True}
