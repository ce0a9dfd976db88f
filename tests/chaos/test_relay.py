"""The relay between the processes and their broker doubles and drops exactly what it is told to, and passes on the rest."""

from collections.abc import Iterator

import pytest
import redis

from common.db import ORCHESTRATOR_QUEUE
from common.queues.app import ADVANCE, make_app
from tests.support.chaos_relay import CommandReader, Mode, Relay, encode
from tests.support.valkey import ValkeyServer


@pytest.fixture
def relay(valkey: ValkeyServer) -> Iterator[Relay]:
    with Relay(valkey.port) as relay:
        yield relay


@pytest.fixture
def broker(valkey: ValkeyServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey.url) as client:
        yield client


@pytest.mark.parametrize(("mode", "copies"), [("pass", 1), ("double", 2), ("drop", 0)])
def test_a_celery_message_arrives_as_often_as_the_mode_says(
    relay: Relay, broker: redis.Redis, mode: Mode, copies: int
) -> None:
    app = make_app(relay.url, name="test", queue=ORCHESTRATOR_QUEUE)
    relay.mode = mode

    with app.connection_for_write() as connection:
        app.send_task(
            ADVANCE, kwargs={"ids": [], "count": 1}, queue=ORCHESTRATOR_QUEUE, connection=connection
        )

    arrived = broker.lrange(ORCHESTRATOR_QUEUE, 0, -1)
    assert len(arrived) == copies
    assert len(set(arrived)) <= 1, "a double is the same message, under the same delivery tag"


def test_who_calls_into_the_dropping_relay_is_heard_by_nobody(relay: Relay, broker: redis.Redis) -> None:
    channel = f"signalbox:call:{ORCHESTRATOR_QUEUE}"
    with broker.pubsub() as listener, redis.Redis.from_url(relay.url) as caller:
        listener.subscribe(channel)
        assert listener.get_message(timeout=5), "the subscription is confirmed"
        assert caller.publish(channel, b"") == 1

        relay.mode = "drop"

        assert caller.publish(channel, b"") == 0
        assert caller.set("other", "commands") is True
        assert broker.get("other") == b"commands"


def test_a_caller_is_cut_off_when_the_broker_ends(relay: Relay, valkey: ValkeyServer) -> None:
    with redis.Redis.from_url(relay.url) as caller:
        assert caller.ping()

        valkey.kill()

        with pytest.raises(redis.ConnectionError):
            caller.ping()
        valkey.start()
        assert caller.ping()


@pytest.mark.parametrize("size", [1, 3, 7, 1_000])
def test_commands_are_read_whole_however_they_come_in(size: int) -> None:
    commands = [(b"PING",), (b"LPUSH", b"queue", b"\r\n*1\r\n$4\r\nPING\r\n"), (b"SET", b"empty", b"")]
    stream = b"".join(map(encode, commands))
    reader = CommandReader()

    read = [command for at in range(0, len(stream), size) for command in reader.feed(stream[at : at + size])]

    assert read == commands


def test_what_no_client_says_is_refused() -> None:
    with pytest.raises(ValueError, match="expected"):
        list(CommandReader().feed(b"GET / HTTP/1.1\r\n\r\n"))
