"""Where a command goes, and which key it shows there."""

from pathlib import Path

import pytest

from common.errors import Misconfigured, Unauthorized, Unavailable
from signalbox.cli.target import address, local_settings
from signalbox.folder import DataFolder

LOCAL = "http://127.0.0.1:8000"


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (
        "SIGNALBOX_URL",
        "SIGNALBOX_KEY",
        "SIGNALBOX_DATA",
        "SIGNALBOX_SECRET",
        "DATABASE_URL",
        "REDIS_URL",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    folder = DataFolder.at(tmp_path / ".signalbox")
    folder.create()
    return folder


@pytest.fixture
def used_folder(folder: DataFolder) -> DataFolder:
    folder.store_url(LOCAL)
    folder.store_key("sb_local")
    return folder


def test_the_folder_of_up_says_where(used_folder: DataFolder) -> None:
    assert address() == (LOCAL, "sb_local")


def test_the_environment_wins(used_folder: DataFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGNALBOX_URL", "https://example.org")
    monkeypatch.setenv("SIGNALBOX_KEY", "sb_other")

    assert address() == ("https://example.org", "sb_other")


def test_a_key_alone_is_shown_to_the_url_of_the_folder(
    used_folder: DataFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIGNALBOX_KEY", "sb_viewer")

    assert address() == (LOCAL, "sb_viewer")


def test_the_key_of_the_folder_is_never_shown_to_another_url(
    used_folder: DataFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIGNALBOX_URL", "https://example.org")

    with pytest.raises(Unauthorized, match=r"SIGNALBOX_KEY is not set, and no key for https://example\.org"):
        address()


def test_the_url_of_the_folder_in_the_environment_takes_its_key(
    used_folder: DataFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIGNALBOX_URL", f"{LOCAL}/")

    assert address() == (f"{LOCAL}/", "sb_local")


def test_a_file_of_settings_says_what_the_environment_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("SIGNALBOX_URL=https://example.org\nSIGNALBOX_KEY=sb_file\nSMTP_URL=x\n")
    assert address() == ("https://example.org", "sb_file")

    monkeypatch.setenv("SIGNALBOX_KEY", "sb_environment")
    assert address() == ("https://example.org", "sb_environment")


def test_the_environment_names_the_folder(used_folder: DataFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = DataFolder.at(used_folder.path.parent / "elsewhere")
    elsewhere.create()
    elsewhere.store_url("http://127.0.0.1:9000")
    elsewhere.store_key("sb_elsewhere")
    monkeypatch.setenv("SIGNALBOX_DATA", "elsewhere")

    assert address() == ("http://127.0.0.1:9000", "sb_elsewhere")


def test_where_nothing_says_it_up_is_suggested(folder: DataFolder) -> None:
    with pytest.raises(Unavailable, match="start one with `signalbox up`"):
        address()


def test_local_commands_use_the_database_of_the_folder_with_its_secret(folder: DataFolder) -> None:
    secret = folder.secret()

    settings = local_settings()

    assert settings.database_url == folder.database_url
    assert settings.secret is not None
    assert settings.secret.get_secret_value() == secret


def test_another_database_is_not_opened_with_the_secret_of_the_folder(
    folder: DataFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.secret()
    monkeypatch.setenv("DATABASE_URL", "postgresql://somewhere/else")

    settings = local_settings()

    assert settings.database_url == "postgresql://somewhere/else"
    assert settings.secret is None


def test_workers_beside_up_ring_its_broker(folder: DataFolder) -> None:
    folder.store_broker_url("redis://:password@127.0.0.1:1/0")

    assert local_settings().redis_url == "redis://:password@127.0.0.1:1/0"


def test_what_is_no_url_is_a_wrong_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGNALBOX_URL", "127.0.0.1:8000")
    monkeypatch.setenv("SIGNALBOX_KEY", "sb_other")

    with pytest.raises(Misconfigured, match='SIGNALBOX_URL: expected "http://host:port" or "https://host"'):
        address()
