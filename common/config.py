"""Settings: read once at the start of a process from the environment (and `.env`), frozen, logged redacted.

Functions take the value they need, never the settings object; only the outermost layer of a process sees it.
"""

from __future__ import annotations

from datetime import timedelta
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any, Literal, Self, TypeVar
from urllib.parse import urlsplit, urlunsplit

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

from common.ai_providers import read_providers
from common.breaker import BreakerPolicy
from common.errors import Misconfigured
from statechart.expected import expected, found


class Limits(BaseSettings):
    """Bounds on every input (design: security). Past one: 413 or 422 with the limit's name."""

    model_config = SettingsConfigDict(env_prefix="SIGNALBOX_", frozen=True, extra="ignore")

    max_body_bytes: int = Field(2_000_000, ge=1_000)
    max_definition_bytes: int = Field(1_000_000, ge=1_000)
    max_event_bytes: int = Field(1_000_000, ge=1_000)
    max_context_bytes: int = Field(4_000_000, ge=1_000)
    max_output_bytes: int = Field(1_000_000, ge=1_000)
    max_json_depth: int = Field(64, ge=4, le=200)
    max_child_depth: int = Field(16, ge=1, le=1_000, description="parents that a workflow may have above it")
    max_ai_events: int = Field(
        100, ge=0, le=1_000_000, description="events that AI tasks may emit in the life of an instance"
    )
    max_schedules: int = Field(10_000, ge=1, le=1_000_000, description="schedules of one tenant")
    max_triggers: int = Field(1_000, ge=1, le=100_000, description="triggers of one tenant")
    max_breakers: int = Field(
        1_000,
        ge=1,
        le=100_000,
        description="circuit breakers of one tenant; the calls of further targets go unwatched",
    )
    max_batch: int = Field(1_000, ge=1, le=10_000)
    max_page: int = Field(200, ge=1, le=1_000)

    @classmethod
    def load(cls) -> Self:
        """Read the environment. Raises `Misconfigured` naming each bad setting."""
        return _loaded(cls)


@lru_cache(maxsize=1)
def limits_of_process() -> Limits:
    """The limits of this process, read from its environment when first asked for: to read them costs as much as all else that a start does.

    Raises what `Limits.load()` raises.
    """
    return Limits.load()


class Settings(BaseSettings):
    """One process's settings. Environment names are `SIGNALBOX_<NAME>` unless an alias says otherwise."""

    model_config = SettingsConfigDict(
        env_prefix="SIGNALBOX_", env_file=".env", frozen=True, extra="ignore", populate_by_name=True
    )

    database_url: str = Field(
        "sqlite:///.signalbox/signalbox.db", validation_alias=AliasChoices("DATABASE_URL", "database_url")
    )
    redis_url: str = Field("redis://127.0.0.1:6379", validation_alias=AliasChoices("REDIS_URL", "redis_url"))
    smtp_url: SecretStr | None = Field(None, validation_alias=AliasChoices("SMTP_URL", "smtp_url"))
    secret: SecretStr | None = None
    old_secrets: SecretStr | None = Field(
        None, description="older values of `secret`, separated by commas: what they sealed can be opened"
    )
    data: Path = Path(".signalbox")
    mail_from: str = "signalbox@localhost"
    templates: Path | None = Field(None, description="the folder with the templates of EMAIL tasks")
    http_allow: str = Field("", description="special networks that HTTP tasks may reach, separated by commas")
    http_proxy: SecretStr | None = Field(None, description="the proxy of HTTP tasks; no other is used")
    http_timeout_seconds: float = Field(
        30.0, gt=0, le=3_600, description="of an HTTP task, redirects included"
    )
    ai_providers: SecretStr | None = Field(
        None, description="providers of models: {name: {kind?, url?, key?, models?, prices?}}"
    )
    ai_timeout_seconds: float = Field(120.0, gt=0, le=3_600, description="of one question to a model")
    handlers: str = ""
    log_format: Literal["auto", "json", "text"] = "auto"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    look_seconds: float = Field(
        1.0, ge=0, le=60, description="how often a worker looks by itself; 0: only at due instants"
    )
    doorbells: bool = True
    reserve: bool = Field(
        False,
        description="an orchestrator that steps when others have more than they can do, and else looks a quarter as often",
    )
    alive_folder: Path | None = Field(
        None, description="where a worker touches a file named after its duty while it goes on"
    )
    slots: int = Field(32, ge=1, le=1_000, description="handlers that a task-runner process calls at once")
    isolated_memory_mb: int = Field(
        1_024,
        ge=128,
        le=1_000_000,
        description="address space of an isolated handler that names no memory_limit",
    )
    lease_seconds: float = Field(8.0, ge=1, le=3_600)
    beat_seconds: float = Field(2.0, gt=0, le=600)
    drain_seconds: float = Field(8.0, ge=0, le=3_600)
    breaker: bool = Field(True, description="whether circuit breakers watch the calls of tasks")
    breaker_failures: int = Field(5, ge=1, le=1_000_000, description="in a row that open a circuit breaker")
    breaker_rate: float = Field(
        0.5, gt=0, le=1, description="the share of failed calls that opens a circuit breaker"
    )
    breaker_calls: int = Field(10, ge=1, le=1_000_000, description="how many calls that share is taken of")
    breaker_window_seconds: float = Field(60.0, gt=0, le=86_400, description="in which calls are counted")
    breaker_cool_down_seconds: float = Field(
        60.0, gt=0, le=86_400, description="until one call tries a target again"
    )
    retention_days_completed: float | None = Field(
        None, gt=0, le=36_500, description="days that completed instances are kept; without it, for ever"
    )
    retention_days_cancelled: float | None = Field(None, gt=0, le=36_500)
    retention_days_timed_out: float | None = Field(None, gt=0, le=36_500)
    retention_look_seconds: float = Field(
        60.0, ge=0.1, le=86_400, description="how often an orchestrator deletes what was kept long enough"
    )
    public_url: str = Field(
        "", description="the address at which people reach the API: what links begin with"
    )
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65_535)
    listen_fd: int | None = Field(
        None, ge=3, description="a socket that the starter of the API listens on for it"
    )
    faults: str = ""

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, url: str) -> str:
        if url.startswith("postgres://"):  # what several hosting services hand out
            url = "postgresql://" + url.removeprefix("postgres://")
        if not url.startswith(("postgresql://", "postgresql+psycopg://", "sqlite:///")):
            raise ValueError('expected "postgresql://…" or "sqlite:///path"')
        return url

    @field_validator("redis_url")
    @classmethod
    def _known_broker(cls, url: str) -> str:
        """Celery answers what it does not know with a traceback, and takes a mere "host:6379" for a host of another kind of broker."""
        if url and url.partition("://")[0] not in _BROKERS:
            raise ValueError('expected "redis://host:port/0", or "rediss://…" for TLS; for Valkey, too')
        try:
            _ = urlsplit(url).port
        except ValueError:
            raise ValueError(f"{_PORT}, in a password, are written %2F, %23 and %3F") from None
        return url

    @field_validator(
        "retention_days_completed", "retention_days_cancelled", "retention_days_timed_out", mode="before"
    )
    @classmethod
    def _empty_is_for_ever(cls, written: Any) -> Any:
        return None if written == "" else written

    @field_validator("public_url")
    @classmethod
    def _web_address(cls, url: str) -> str:
        parts = urlsplit(url)
        if url and (
            parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment
        ):
            raise ValueError('expected "https://host" or "https://host/path"')
        return url.rstrip("/")

    @field_validator("http_allow")
    @classmethod
    def _networks(cls, written: str) -> str:
        read_networks(written)
        return written

    @field_validator("ai_providers")
    @classmethod
    def _known_providers(cls, written: SecretStr | None) -> SecretStr | None:
        read_providers("" if written is None else written.get_secret_value())
        return written

    @field_validator("http_proxy")
    @classmethod
    def _plain_proxy(cls, written: SecretStr | None) -> SecretStr | None:
        if written is None or not written.get_secret_value():
            return None
        parts = urlsplit(written.get_secret_value())
        if parts.scheme != "http" or not parts.hostname or parts.port == 0:  # .port raises for what is none
            raise ValueError('expected "http://host:port", with user:password@ where it wants them')
        return written

    @classmethod
    def load(cls, **overrides: Any) -> Self:
        """Read the environment. Raises `Misconfigured` naming each bad setting."""
        return _loaded(cls, **overrides)

    def redacted(self) -> dict[str, Any]:
        """The settings as a log line may show them: no password, no secret."""
        shown = self.model_dump(
            mode="json", exclude={"secret", "old_secrets", "smtp_url", "http_proxy", "ai_providers"}
        )
        return shown | {
            "database_url": redact_url(self.database_url),
            "redis_url": redact_url(self.redis_url),
            "smtp": self.smtp_url is not None,
            "http_proxy": self.http_proxy is not None,
            "ai_providers": self.ai_providers is not None,
            "secret": self.secret is not None,
            "old_secrets": self.old_secrets is not None,
        }

    def breaker_policy(self) -> BreakerPolicy | None:
        """When circuit breakers open, as the settings say; None: never."""
        if not self.breaker:
            return None
        return BreakerPolicy(
            self.breaker_failures,
            self.breaker_rate,
            self.breaker_calls,
            timedelta(seconds=self.breaker_window_seconds),
            timedelta(seconds=self.breaker_cool_down_seconds),
        )

    def installation_secrets(self) -> tuple[str | None, str | None]:
        """`SIGNALBOX_SECRET` and `SIGNALBOX_OLD_SECRETS` as they are written, for `SealingKeys.read`."""
        return (
            self.secret.get_secret_value() if self.secret else None,
            self.old_secrets.get_secret_value() if self.old_secrets else None,
        )


_Read = TypeVar("_Read", bound=BaseSettings)


def is_redis(broker_url: str) -> bool:
    """Is a broker one that calls go through (`common.queues.calls`)? Others carry doorbells alone."""
    return broker_url.startswith(("redis://", "rediss://", "unix://"))


_BROKERS = ("redis", "rediss", "redis+socket", "sentinel", "memory", "amqp", "amqps")
_PORT = (
    'expected a host, and a number as its port, found something else, which is not shown; "/", "#" and "?"'
)
_MAY_HOLD_PASSWORDS = ("database_url", "redis_url")


def _loaded(model: type[_Read], **overrides: Any) -> _Read:
    try:
        return model(**overrides)
    except ValidationError as error:
        wrong = "; ".join(_wrong(model, detail) for detail in error.errors(include_url=False))
        # Without the cause: its text would quote the values of secret settings.
        raise Misconfigured(f"{wrong}; see .env.example") from None


def _wrong(model: type[BaseSettings], detail: ErrorDetails) -> str:
    """One bad setting, by its name in the environment; quoted unless it is secret."""
    told = str(detail["loc"][0]) if detail["loc"] else ""
    name = next((name for name in model.model_fields if told in (name, _variable(model, name))), told.lower())
    wanted = expected(detail)
    if wanted is None:
        return f"{_variable(model, name)}: {detail['msg'].removeprefix('Value error, ')}"
    field = model.model_fields.get(name)
    is_secret = field is None or "SecretStr" in str(field.annotation) or name in _MAY_HOLD_PASSWORDS
    shown = "something else, which is not shown" if is_secret else found(detail["input"])
    return f"{_variable(model, name)}: expected {wanted}, found {shown}"


def _variable(model: type[BaseSettings], name: str) -> str:
    field = model.model_fields.get(name)
    alias = field.validation_alias if field is not None else None
    if isinstance(alias, AliasChoices):
        return str(alias.choices[0])
    return f"{model.model_config.get('env_prefix', '')}{name}".upper()


@lru_cache(maxsize=1)
def settings_of_process() -> Settings:
    """The settings of this process, for handlers, whom nobody hands any: read when first asked for.

    Raises what `Settings.load()` raises.
    """
    return Settings.load()


def redact_url(url: str) -> str:
    """Replace a password in a URL by `***`."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{parts.username or ''}:***@{host}"))


def read_networks(written: str) -> tuple[IPv4Network | IPv6Network, ...]:
    """Networks that are separated by commas, such as `127.0.0.0/8, fd00::/8`. Raises `ValueError` for what is none."""
    return tuple(ip_network(part.strip()) for part in written.split(",") if part.strip())
