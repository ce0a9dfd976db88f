"""`signalbox send --wait`: what became of an event, also where that is nothing."""

from collections.abc import Iterator

import pytest

from tests.integration.api.cli import Cli, served
from tests.integration.api.conftest import Api
from tests.integration.api.test_prefer import engine_running
from tests.integration.engine.documents import ON_SQLITE

pytestmark = ON_SQLITE
GUARDED = {
    "id": "guarded",
    "initial": "a",
    "context": {"paid": False},
    "states": {
        "a": {
            "on": {
                "GO": {"target": "b", "guard": "event.sure"},
                "PAID": {"target": "b", "guard": "context.paid"},
                "STOP": {},
            }
        },
        "b": {"type": "final"},
    },
}


@pytest.fixture
def cli(api: Api, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cli]:
    with served(api) as url, engine_running(api):
        yield Cli(api, url, monkeypatch)


def test_an_event_that_nothing_takes_is_told_with_what_is_taken(api: Api, cli: Cli) -> None:
    instance_id = api.start()

    told = cli.text("send", instance_id, "APPROVD", "--wait", "20").splitlines()

    assert told[1:] == ["ignored: no active state takes APPROVD; taken now: LOOKED, APPROVED"]
    assert cli.json("send", instance_id, "APPROVD", "--wait", "20")["untaken"] == {
        "event": "APPROVD",
        "entry": "event.ignored",
        "reason": "no_transition",
        "taken": ["LOOKED", "APPROVED"],
        "guarded": [],
    }


def test_one_that_is_taken_says_only_how_the_instance_stands(api: Api, cli: Cli) -> None:
    instance_id = api.start()
    cli.text("send", instance_id, "LATER", "--wait", "20")  # one before it that was ignored

    assert "untaken" not in cli.json("send", instance_id, "LOOKED", "--wait", "20")
    assert len(cli.text("send", instance_id, "APPROVED", "--wait", "20").splitlines()) == 1


def test_a_guard_that_does_not_hold_and_a_state_that_forbids(api: Api, cli: Cli) -> None:
    instance_id = api.start(GUARDED)

    told = cli.text("send", instance_id, "GO", "--data", '{"sure": false}', "--wait", "20")
    assert "ignored: GO is taken under a condition, which this one does not meet; taken now: GO" in told
    told = cli.text("send", instance_id, "PAID", "--wait", "20")
    assert (
        "ignored: PAID is taken under a condition, which does not hold: "
        f"`signalbox explain {instance_id}` shows it; taken now: GO" in told
    )
    assert "context.paid: does not hold" in cli.text("explain", instance_id)
    assert "ignored: an active state forbids STOP; taken now: GO" in cli.text(
        "send", instance_id, "STOP", "--wait", "20"
    )


def test_one_that_waits_is_not_said_to_be_ignored(api: Api, cli: Cli) -> None:
    instance_id = api.start()
    cli.text("pause", instance_id)

    assert "ignored" not in cli.text("send", instance_id, "APPROVD", "--wait", "0.1")
