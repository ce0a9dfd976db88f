"""What readiness tells of a real broker: away, or there and taking no messages."""

import pytest
import redis

from api import health
from api.health import Health
from common.db import Database
from tests.integration.engine.documents import ON_SQLITE
from tests.support.valkey import ValkeyServer

pytestmark = ON_SQLITE


@pytest.fixture(autouse=True)
def each_is_asked_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "KEPT_SECONDS", -1.0)


@pytest.fixture
def asked(database: Database, valkey: ValkeyServer) -> Health:
    return Health(database, valkey.url)


def test_a_replica_takes_no_messages_and_says_so_until_it_leads(asked: Health, valkey: ValkeyServer) -> None:
    assert asked.report().broker == "up"

    valkey.follow()
    assert (asked.report().broker, asked.report().is_ready) == ("read-only", True)

    valkey.lead()
    assert asked.report().broker == "up"


def test_a_killed_broker_is_down(asked: Health, valkey: ValkeyServer) -> None:
    valkey.kill()

    assert (asked.report().broker, asked.report().is_ready) == ("down", True)


def test_a_user_who_may_not_ask_for_its_role_finds_it_up(database: Database, valkey: ValkeyServer) -> None:
    with redis.Redis.from_url(valkey.url) as client:
        client.execute_command("ACL", "SETUSER", "bells", "on", ">word", "+ping", "+publish")
    url = valkey.url.replace("redis://", "redis://bells:word@")

    assert Health(database, url).report().broker == "up"
