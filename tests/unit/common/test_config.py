"""Settings that are wrong are named as people write them, with what was expected and found; secret ones are not quoted."""

import pytest

from common.config import Limits, Settings
from common.errors import Misconfigured


def refusal(model: type[Settings] | type[Limits]) -> str:
    with pytest.raises(Misconfigured) as refused:
        model.load()
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__, "a traceback would quote every value"
    return str(refused.value)


@pytest.mark.parametrize(
    ("name", "written", "said"),
    [
        ("SIGNALBOX_LEASE_SECONDS", "abc", "expected a number, found 'abc'"),
        ("SIGNALBOX_LEASE_SECONDS", "0.5", "expected at least 1, found '0.5'"),
        ("SIGNALBOX_SLOTS", "2.5", "expected a whole number, found '2.5'"),
        ("SIGNALBOX_PORT", "70000", "expected at most 65,535, found '70000'"),
        ("SIGNALBOX_BREAKER", "perhaps", "expected true or false, found 'perhaps'"),
        ("SIGNALBOX_LOG_LEVEL", "loud", "expected 'DEBUG', 'INFO', 'WARNING' or 'ERROR', found 'loud'"),
        ("DATABASE_URL", "mysql://me:hush@host/db", 'expected "postgresql://…" or "sqlite:///path"'),
        ("REDIS_URL", "127.0.0.1:6379", 'expected "redis://host:port/0", or "rediss://…" for TLS; for Valkey, too'),
        ("REDIS_URL", "valkey://me:hush@host", 'expected "redis://host:port/0", or "rediss://…" for TLS; for Valkey, too'),
        ("REDIS_URL", "redis://:hu/sh@host", 'expected a host, and a number as its port, found something else, which is not shown; "/", "#" and "?", in a password, are written %2F, %23 and %3F'),
        ("SIGNALBOX_HTTP_PROXY", "https://me:hush@host", 'expected "http://host:port", with user:password@ where it wants them'),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_named_with_what_was_expected_and_found(
    monkeypatch: pytest.MonkeyPatch, name: str, written: str, said: str
) -> None:
    monkeypatch.setenv(name, written)

    assert refusal(Settings) == f"{name}: {said}; see .env.example"


def test_every_wrong_setting_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGNALBOX_SLOTS", "many")
    monkeypatch.setenv("SIGNALBOX_PORT", "-1")

    said = refusal(Settings)

    assert (
        "SIGNALBOX_SLOTS: expected a whole number, found 'many'; SIGNALBOX_PORT: expected at least 0" in said
    )


def test_a_wrong_limit_is_told_like_any_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGNALBOX_MAX_PAGE", "all")

    assert refusal(Limits) == "SIGNALBOX_MAX_PAGE: expected a whole number, found 'all'; see .env.example"


def test_no_value_that_may_hold_a_password_is_quoted() -> None:
    with pytest.raises(Misconfigured) as refused:
        Settings.load(secret=["hush"], redis_url=["redis://me:hush@host"])

    assert "SIGNALBOX_SECRET: expected a text, found something else, which is not shown" in str(refused.value)
    assert "REDIS_URL: expected a text, found something else" in str(refused.value)
    assert "hush" not in str(refused.value)
