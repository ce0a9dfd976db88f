# ruff: noqa: PLC0415 - what is heavy is loaded by the command that needs it: `signalbox --help` answers at once
"""Where a command goes: the API that it asks, or the database that it opens.

`SIGNALBOX_URL` and `SIGNALBOX_KEY` name an API; without them it is the one of the data folder, where `signalbox up`
wrote both. A key from the folder is shown to the URL from the folder only, never to another one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import Misconfigured, NotFound, Unauthorized, Unavailable
from signalbox.folder import DEFAULT_FOLDER, DataFolder

if TYPE_CHECKING:
    from common.config import Settings
    from common.db import Database
    from common.ids import TenantId
    from signalbox.client import Client


URL, KEY, DATA = "SIGNALBOX_URL", "SIGNALBOX_KEY", "SIGNALBOX_DATA"


def connect() -> Client:
    """A client for the API that the environment or the data folder names."""
    url, key = address()
    from signalbox.client import Client  # httpx2 costs 0.2 s, and `--help` does not need it

    return Client(url, key)


def address() -> tuple[str, str]:
    """(URL, key) of the API. Raises `Unavailable` where nothing says it, `Misconfigured` for what is no URL, `Unauthorized` for a URL without a key."""
    named = _named()
    folder = DataFolder.at(Path(named.get(DATA) or DEFAULT_FOLDER))
    url, key = named.get(URL), named.get(KEY)
    if url is None:
        url = folder.url()
        if url is None:
            raise Unavailable(
                f'no Signalbox is known here: {URL} is not set and "{folder.path}" has none; '
                "start one with `signalbox up`",
                code="client.unreachable",
            )
        key = key or folder.key()
    elif key is None and url.rstrip("/") == folder.url():
        key = folder.key()
    if not url.startswith(("http://", "https://")):
        raise Misconfigured(f'{URL}: expected "http://host:port" or "https://host", found "{url}"')
    if not key:
        raise Unauthorized(f"{KEY} is not set, and no key for {url} is known here")
    return url, key


def _named() -> Mapping[str, str]:
    """What the environment names of URL, key and folder, and `.env` where the environment does not."""
    found = {name: os.environ[name] for name in (URL, KEY, DATA) if os.environ.get(name)}
    if not Path(".env").exists():
        return found
    from pydantic_settings import (
        BaseSettings,
        SettingsConfigDict,
    )  # a third of a second, for those who have a file

    class Target(BaseSettings):
        model_config = SettingsConfigDict(env_prefix="SIGNALBOX_", env_file=".env", extra="ignore")
        url: str = ""
        key: str = ""
        data: str = ""

    target = Target()
    from_file = {URL: target.url, KEY: target.key, DATA: target.data}
    return {name: value for name, value in from_file.items() if value} | found


def local_settings() -> Settings:
    """Settings as every process reads them; what they leave open comes from the data folder of `signalbox up`."""
    from common.config import Settings

    settings = Settings.load()
    folder = DataFolder.at(settings.data)
    found: dict[str, str] = {}
    if "database_url" not in settings.model_fields_set:
        found["database_url"] = folder.database_url
        # The secret belongs to the folder's database. Any other one is asked for its own.
        secret = folder.stored_secret()
        if settings.secret is None and secret is not None:
            found["secret"] = secret
        broker_url = folder.broker_url()
        if "redis_url" not in settings.model_fields_set and broker_url is not None:
            found["redis_url"] = broker_url
    return Settings.load(**found) if found else settings


def local_environment(settings: Settings) -> dict[str, str]:
    """The environment in which another process of ours comes to these settings."""
    found = {
        **os.environ,
        "DATABASE_URL": settings.database_url,
        "REDIS_URL": settings.redis_url,
        "SIGNALBOX_DATA": str(settings.data),
    }
    if settings.secret is not None:
        found["SIGNALBOX_SECRET"] = settings.secret.get_secret_value()
    return found


@contextmanager
def open_database() -> Iterator[Database]:
    """The database that settings or the data folder name, its schema as new as this code."""
    from common.db.schema import require_schema
    from signalbox.access import opened_database

    url = local_settings().database_url
    _require_file(url)
    with opened_database(url, name="signalbox-cli") as database:
        require_schema(database)
        yield database


def _require_file(url: str) -> None:
    """Opening a SQLite file makes it; a command that only looks must not leave an empty database behind."""
    path = Path(url.removeprefix("sqlite:///"))
    if url.startswith("sqlite:") and not path.exists():
        raise Misconfigured(
            f'there is no database at "{path}": `signalbox up` and `signalbox db upgrade` make one, '
            "DATABASE_URL and SIGNALBOX_DATA name another"
        )


def find_tenant(database: Database, name: str) -> TenantId:
    """The tenant of this name. Raises `NotFound`."""
    from common.store import keys

    with database.reading() as tx:
        tenant_id = keys.find_tenant(tx, name)
    if tenant_id is None:
        raise NotFound(f'no tenant "{name}" in this database', code="tenant.not_found")
    return tenant_id
