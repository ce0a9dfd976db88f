"""`signalbox up` says where it is, and does what the command line asks: all tests speak to one stack."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from tests.support.processes import Processes
from tests.support.up_command import HELLO, PARTS, Up, command_line, family, start_up
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One stack for the tests that only talk to it."""
    with Processes(tmp_path_factory.mktemp("up")) as running:
        yield start_up(running)


# --- what it says ---------------------------------------------------------------------------------------------------


def test_up_says_where_it_is_and_keeps_its_secrets(up: Up) -> None:
    log = up.child.log()
    key = (up.data / "key").read_text().strip()

    assert up.url in log
    assert key in log
    assert set(up.pids()) == PARTS
    for name in ("key", "secret", "url", "signalbox.db", "broker/server.conf"):
        assert (up.data / name).stat().st_mode & 0o077 == 0, f"others may read {name}"
    assert up.data.stat().st_mode & 0o077 == 0


def test_everything_listens_on_the_loopback_only(up: Up) -> None:
    listening = {
        connection.laddr
        for process in family(up.child.pid)
        for connection in process.net_connections(kind="tcp")
        if connection.status == psutil.CONN_LISTEN
    }

    assert len(listening) == 2  # the API and the broker
    assert {address.ip for address in listening} == {"127.0.0.1"}


def test_no_password_stands_in_the_arguments_of_a_process(up: Up) -> None:
    settings = (up.data / "broker" / "server.conf").read_text()
    (password,) = re.findall(r"requirepass (\S+)", settings)
    secrets = {password, (up.data / "secret").read_text().strip(), (up.data / "key").read_text().strip()}

    for process in family(up.child.pid):
        assert not secrets & set(" ".join(command_line(process)).split()), process


def test_a_second_up_in_the_same_folder_is_refused(up: Up) -> None:
    second = up.cli("up")

    assert second.returncode == 4
    assert f"another Signalbox (pid {up.child.pid}) already works in" in second.stderr
    assert up.url in second.stderr
    assert up.child.is_alive


def test_a_port_that_is_taken_is_named(up: Up) -> None:
    port = up.url.rpartition(":")[2]

    refused = up.cli("up", "--data", "elsewhere", "--port", port)

    assert refused.returncode == 2
    assert f"port {port} is taken by another program" in refused.stderr


# --- what the command line does with it ------------------------------------------------------------------------------


def test_hello_workflow_from_the_command_line(up: Up) -> None:
    assert up.json("apply", str(HELLO))["items"][0]["version"] == 1

    started = up.json(
        "start", "hello-workflow", "--label", "team=a", "--business-key", "first", "--wait", "60"
    )

    assert started["status"] == "completed"
    identity = started["id"]
    assert up.json("show", identity)["context"] == {"greeted": False}
    assert [one["id"] for one in up.json("ls", "--label", "team=a")["items"]] == [identity]
    assert up.json("tasks", "list", "--instance", identity)["items"][0]["type"] == "EMAIL"
    history = up.json("history", identity, "--verify")
    assert history["verify"]["valid"]
    assert history["items"][-1]["type"] == "instance.completed"
    assert up.json("incidents", "list")["items"] == []
    assert up.json("doctor")["healthy"]


def test_the_client_of_the_guide_starts_sends_and_reads(
    up: Up, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "guides" / "python.md").read_text()
    program = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0]
    paid = {"target": "paid", "actions": {"type": "assign", "path": "amount", "value": "${event.amount}"}}
    states = {"open": {"on": {"PAID": paid}}, "paid": {"type": "final"}}
    (tmp_path / "order.json").write_text(json.dumps({"id": "order", "initial": "open", "states": states}))
    up.json("apply", str(tmp_path / "order.json"))
    monkeypatch.setenv("SIGNALBOX_URL", up.url)
    monkeypatch.setenv("SIGNALBOX_KEY", (up.data / "key").read_text().strip())

    exec(program, {})

    status, history = capsys.readouterr().out.splitlines()
    assert status == "completed {'amount': 30}"
    assert history.startswith("['instance.started', ")
    assert history.endswith(", 'instance.completed']")


def test_watching_shows_the_timeline_and_ends_with_the_instance(up: Up) -> None:
    up.json("apply", str(HELLO))

    watched = up.cli("start", "hello-workflow", "--watch")

    assert watched.returncode == 0, watched.stderr
    assert "instance.started" in watched.stdout
    assert watched.stdout.splitlines()[-1].split()[1] == "completed"
    identity = watched.stdout.splitlines()[-1].split()[0]
    lines = up.cli("watch", identity, "--json").stdout.splitlines()
    assert json.loads(lines[0])["type"] == "instance.started"
    assert json.loads(lines[-1])["type"] == "instance.completed"


def test_an_event_moves_a_waiting_instance(up: Up) -> None:
    document = {
        "id": "approval",
        "initial": "open",
        "states": {"open": {"on": {"APPROVED": "done"}}, "done": {"type": "final"}},
    }
    assert up.cli("apply", "-", stdin=json.dumps(document)).returncode == 0
    identity = up.json("start", "approval", "--wait", "60")["id"]
    timed_out = up.cli("watch", identity, "--timeout", "0.2")
    assert (timed_out.returncode, "is waiting after 0.2 s" in timed_out.stderr) == (6, True)

    sent = up.json("send", identity, "APPROVED", "--data", '{"by": "alice"}')
    assert sent["id"] == identity
    assert up.cli("watch", identity, "--timeout", "60").returncode == 0

    late = up.cli("send", identity, "APPROVED")
    assert late.returncode == 4
    assert "completed" in late.stderr


def test_schedules_and_what_is_emitted_start_instances_by_themselves(up: Up) -> None:
    ticking = {
        "id": "ticking",
        "initial": "tick",
        "triggers": [{"name": "tick", "schedule": {"every": "1s", "overlap": "allow"}}],
        "states": {"tick": {"type": "final", "entry": [{"type": "emit", "event": "ticked"}]}},
    }
    answering = {
        "id": "answering",
        "initial": "over",
        "triggers": ["ticked", "asked"],
        "states": {"over": {"type": "final"}},
    }
    for document in (answering, ticking):
        applied = up.cli("apply", "-", stdin=json.dumps(document))
        assert applied.returncode == 0, applied.stderr

    def ended(key: str) -> list[Any]:
        return list(up.json("ls", "--definition", key, "--status", "completed")["items"])

    wait_until(lambda: len(ended("ticking")) >= 3, what="three ticks", seconds=30)
    (schedule,) = up.json("schedules", "list")["items"]
    up.json("schedules", "pause", schedule["id"])
    fired = up.json("schedules", "show", schedule["id"])["fired"]
    wait_until(
        lambda: len(ended("ticking")) == len(ended("answering")) == fired,
        what="an answer to each tick",
        seconds=30,
    )
    assert {one["labels"]["schedule"] for one in ended("ticking")} == {"tick"}
    assert [one["kind"] for one in up.json("publish", "asked")["items"]] == ["started"]
    wait_until(lambda: len(ended("answering")) == fired + 1, what="one more answer", seconds=30)
    assert up.json("doctor")["healthy"]


REVIEW = {
    "id": "review",
    "initial": "reviewing",
    "states": {
        "reviewing": {
            "invoke": {
                "src": "HUMAN",
                "id": "look",
                "candidates": ["ada", "grace", "ada@example.org"],
                "form": {"type": "object", "required": ["approved"]},
                "onDone": "approved",
                "onError": "rejected",
            },
            "on": {"SKIP": "rejected"},
        },
        "approved": {"type": "final"},
        "rejected": {"type": "final"},
    },
}


def test_people_do_their_tasks_from_the_command_line(up: Up, tmp_path: Path) -> None:
    document = tmp_path / "review.json"
    document.write_text(json.dumps(REVIEW))
    up.json("apply", str(document))
    first, second, third = (up.json("start", "review")["id"] for _ in range(3))

    def task_of(instance_id: str) -> str:
        found: list[dict[str, Any]] = []

        def is_there() -> bool:
            found[:] = up.json("tasks", "list", "--candidate", "ada", "--instance", instance_id)["items"]
            return bool(found)

        wait_until(is_there, what="the task for ada", seconds=20)
        return str(found[0]["id"])

    task = task_of(first)
    assert up.json("tasks", "claim", task, "--for", "ada")["assignee"] == "ada"
    assert [one["id"] for one in up.json("tasks", "list", "--assignee", "ada")["items"]] == [task]
    assert up.json("tasks", "delegate", task, "grace")["assignee"] == "grace"
    assert up.json("tasks", "unclaim", task)["assignee"] is None
    refused = up.cli("tasks", "complete", task, "--output", '{"aproved": true}', "--json")
    assert "approved" in json.loads(refused.stdout)["error"]["problems"][0]["message"]
    assert up.json("tasks", "complete", task, "--output", '{"approved": true}')["status"] == "succeeded"
    twice = up.cli("tasks", "complete", task, "--output", '{"approved": true}')
    assert twice.returncode == 4, twice.stderr
    assert (
        up.json("tasks", "reject", task_of(second), "--reason", "not ours")["error"]["code"]
        == "human.rejected"
    )
    link = up.json("link", third, "SKIP", "--person", "ada@example.org", "--expires-in", "1h")["url"]
    made = up.json(
        "tasks", "link", task_of(third), "--person", "ada@example.org", "--output", '{"approved": true}'
    )
    assert made["url"] != link
    assert httpx2.get(link).status_code == 200
    assert httpx2.post(link).status_code == 200
    assert httpx2.post(link).status_code == 410
    assert httpx2.post(made["url"]).status_code in (409, 410)
    for instance_id, state in ((first, "approved"), (second, "rejected"), (third, "rejected")):
        watched = up.cli("watch", instance_id, "--timeout", "60")
        assert watched.returncode == 0, watched.stderr
        assert up.json("show", instance_id)["configuration"] == [state]
    told = [entry["type"] for entry in up.json("history", first)["items"]]
    assert {"task.claimed", "task.delegated", "task.unclaimed", "human.decided"} <= set(told)


def test_a_cancelled_instance_is_a_no(up: Up) -> None:
    document = {"id": "patience", "initial": "open", "states": {"open": {"on": {"GO": "open"}}}}
    assert up.cli("apply", "-", stdin=json.dumps(document)).returncode == 0
    identity = up.json("start", "patience", "--wait", "60")["id"]

    up.json("cancel", identity, "--reason", "not needed")

    assert up.cli("watch", identity, "--timeout", "60").returncode == 1
    assert up.json("show", identity)["status"] == "cancelled"
    assert "not needed" in up.cli("history", identity).stdout


def test_control_from_the_command_line(up: Up) -> None:
    document = {
        "id": "patience",
        "initial": "open",
        "states": {"open": {"on": {"GO": "shut"}}, "shut": {"on": {"GO": "open"}}},
    }
    assert up.cli("apply", "-", stdin=json.dumps(document)).returncode == 0
    ids = [up.json("start", "patience", "--label", "kind=slow", "--wait", "60")["id"] for _ in range(2)]

    assert up.json("pause", ids[0], "--reason", "a look")["status"] == "paused"
    up.json("send", ids[0], "GO")
    stepped = up.json("step", ids[0])
    assert (stepped["status"], stepped["configuration"]) == ("paused", ["shut"])
    assert up.json("resume", ids[0])["status"] == "waiting"
    assert up.json("restart", ids[0], "--state", "open")["configuration"] == ["open"]
    refused = up.cli("retry", ids[0])
    assert (refused.returncode, f"cannot retry instance {ids[0]}: waiting" in refused.stderr) == (4, True)

    told = up.json("cancel", "--label", "kind=slow", "--dry-run")
    assert set(told["accepted"]) == set(ids)
    unsure = up.cli("cancel", "--label", "kind=slow")
    assert (unsure.returncode, "cancel 2 instances; say --yes" in unsure.stderr) == (2, True)
    assert set(up.json("cancel", "--label", "kind=slow", "--yes")["accepted"]) == set(ids)
    assert {up.cli("watch", one, "--timeout", "60").returncode for one in ids} == {1}
    again = up.cli("cancel", "--label", "kind=slow", "--yes", "--json")
    assert again.returncode == 4
    assert {one["code"] for one in json.loads(again.stdout)["refused"]} == {"instance.finished"}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("show", "01932d2b-7a00-7000-8000-000000000001"), 3, "01932d2b-7a00-7000-8000-000000000001"),
        (("start", "nothing-of-this-name"), 3, "nothing-of-this-name"),
        (("start", "x", "--input", "{"), 2, "--input: not JSON"),
        (("apply", "nowhere.json"), 2, 'cannot read "nowhere.json"'),
        (("tasks", "show", "x"), 3, ""),
        (("frobnicate",), 2, "No such command"),
    ],
)
def test_what_cannot_be_done_has_its_exit_code(
    up: Up, arguments: tuple[str, ...], code: int, said: str
) -> None:
    answer = up.cli(*arguments)

    assert answer.returncode == code, answer.stderr
    assert said in answer.stderr
    assert answer.stdout == ""


def test_a_wrong_key_is_no_access(up: Up) -> None:
    answer = up.cli("ls", SIGNALBOX_KEY="sb_wrong")

    assert answer.returncode == 5
    assert "error:" in answer.stderr


def test_a_refused_definition_shows_path_reason_and_suggestion(up: Up, tmp_path: Path) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text(
        '{"id": "bad", "initial": "open", "states": {"open": {"on": {"GO": "dome"}}, "done": {"type": "final"}}}'
    )

    applied = up.cli("apply", str(bad), str(HELLO))

    assert applied.returncode == 1
    assert "dome" in applied.stdout
    assert 'did you mean "done"?' in applied.stdout
    assert "hello-workflow version 1" in applied.stdout
    checked = up.cli("check", str(bad))
    assert checked.returncode == 1
    assert 'did you mean "done"?' in checked.stdout


def test_a_key_that_was_revoked_opens_nothing(up: Up) -> None:
    issued = up.json("keys", "create", "--name", "temporary", "--role", "viewer")
    assert up.cli("ls", SIGNALBOX_KEY=issued["key"]).returncode == 0

    up.json("keys", "revoke", issued["id"])

    listed = {one["id"]: one for one in up.json("keys", "list")["items"]}
    assert listed[issued["id"]]["revokedAt"] is not None
    # A server may remember a key for a moment; it must forget it soon.
    wait_until(
        lambda: up.cli("ls", SIGNALBOX_KEY=issued["key"]).returncode == 5, what="the key's end", seconds=20
    )


def test_a_worker_beside_up_joins_it(up: Up) -> None:
    with Processes(up.home) as more:
        worker = more.start("second-runner", "signalbox", "worker", "task-runner", "--loglevel", "WARNING")

        def duties() -> list[str]:
            return sorted(one["duty"] for one in up.json("stats")["workers"])

        worker.wait_until_ready(
            lambda: duties() == ["orchestrator", "task-runner", "task-runner"], what="row"
        )
        assert worker.terminate() == 0
