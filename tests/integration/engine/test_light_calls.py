"""Light handlers that a step waits for, over a real broker: from start to end in one commit, once, and nothing lost where that does not go well."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import pytest

from common import faults
from common.clock import parse_instant
from common.commands.limits import set_limit
from common.commands.verify import verify_instance
from common.ids import WorkerId, new_id
from common.lifecycle import InstanceStatus
from common.queues.answers import Envelope
from common.queues.calls import Caller, Listener, client_of
from common.queues.light_line import BROKER_SECONDS, LightLine
from orchestrator import light_calls
from orchestrator.light_calls import LightCalls
from orchestrator.sweep import expire_due_leases
from task_runner.registry import Options, Permanent, make_handler
from task_runner.run import Runner
from tests.integration.engine.documents import one_task
from tests.support.engine import Engine
from tests.support.post import Post
from tests.support.runners import MakeRunner
from tests.support.slowdown import assert_within
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until

KEY = bytes(range(32))
COMPLETED, FAILED = InstanceStatus.COMPLETED, InstanceStatus.FAILED
AT_ONCE = {"maxAttempts": 2, "interval": 0, "jitter": 0}
THREE_STEPS = {
    "id": "three-steps",
    "initial": "first",
    "context": {"said": []},
    "states": {
        **{
            name: {
                "invoke": {
                    "src": "work",
                    "input": {"at": name, "said": "${context.said}"},
                    "onDone": {
                        "target": then,
                        "actions": [
                            {"type": "assign", "path": "said", "value": "${context.said + [event.output]}"}
                        ],
                    },
                }
            }
            for name, then in (("first", "second"), ("second", "third"), ("third", "done"))
        },
        "done": {"type": "final"},
    },
}


@dataclass
class Wired:
    """An engine whose steps may have a runner call light handlers, over Valkey."""

    engine: Engine
    post: Post
    url: str
    make_runner: MakeRunner
    ears: list[Listener] = field(default_factory=list)
    lines: list[LightCalls] = field(default_factory=list)

    def lightly(self, work: Callable[..., Any], **options: Any) -> None:
        self.engine.registry.add(make_handler("work", work, options=Options(light=True, **options)))

    def connect(self) -> Runner:
        """A runner that listens and has made its offer, and an orchestrator that can call it."""
        runner = self.make_runner(say=self.post.say, envelope=Envelope(KEY), caller=Caller.open(self.url))
        assert runner.light is not None
        listens = threading.Event()

        def hear(hints: Any) -> None:
            listens.set()
            runner.light.hear(hints)  # type: ignore[union-attr]

        ear = Listener.open(self.url)
        self.ears.append(ear)
        ear.listen({runner.light.address: hear})
        assert listens.wait(5)
        assert runner.claim(until=0.0).counts["claimed"] == 0
        client = client_of(self.url, patience=BROKER_SECONDS)
        assert client is not None
        line = LightCalls(self.engine.advancing.offers, LightLine(client, Envelope(KEY), WorkerId(new_id())))
        self.lines.append(line)
        self.engine.advancing = replace(self.engine.advancing, light=line)
        return runner

    def run(self, runner: Runner, instance_id: str, status: InstanceStatus = COMPLETED) -> None:
        """Let both take turns until the instance stands so."""

        def stands() -> bool:
            self.post.deliver(runner)
            runner.claim(until=0.0)
            self.engine.advance()
            return self.engine.status(instance_id) is status

        wait_until(stands, what=f"the instance to be {status}")

    def is_valid(self, instance_id: str) -> bool:
        with self.engine.database.reading() as tx:
            return bool(verify_instance(tx, self.engine.tenant_id, instance_id)["valid"])

    @property
    def tasks(self) -> list[tuple[Any, ...]]:
        rows = self.engine.execute("SELECT status, attempt, lost FROM tasks ORDER BY id")
        return [tuple(row) for row in rows]


@pytest.fixture
def wired(
    engine: Engine, make_runner: MakeRunner, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Wired]:
    # The machine may be busy; where it matters, a test says less.
    monkeypatch.setattr(light_calls, "PATIENCE", 2.0)
    monkeypatch.setattr("orchestrator.locked.STEP_BUDGET", 5.0)
    monkeypatch.setattr("task_runner.light_calls.BUDGET_SECONDS", 5.0)
    monkeypatch.setattr("task_runner.light.PATIENCE_SECONDS", 5.0)
    wired = Wired(engine, Post(engine), valkey_url, make_runner)
    yield wired
    faults.disarm()
    for ear in wired.ears:
        ear.close()
    for line in wired.lines:
        line.close()


def test_an_instance_of_light_tasks_ends_in_one_commit(wired: Wired) -> None:
    wired.lightly(lambda input: input["at"])
    runner = wired.connect()
    instance_id = wired.engine.start(THREE_STEPS)
    commits: list[Any] = []
    wired.engine.database.listeners.append(commits.append)

    done = wired.engine.advance()

    assert wired.engine.status(instance_id) is COMPLETED
    assert wired.engine.context(instance_id) == {"said": ["first", "second", "third"]}
    assert (done.steps, done.tasks, runner.held) == (4, 3, 0)
    assert commits == [], "nobody had to be rung"
    assert wired.tasks == [("succeeded", 1, 0)] * 3
    assert wired.engine.attempts() == [(1, "succeeded")] * 3
    worker, ended = wired.engine.execute("SELECT worker_id, ended_at FROM attempts")[0]
    assert str(worker) == wired.engine.worker
    assert ended is not None
    assert wired.engine.entry_types(instance_id).count("task.succeeded") == 3
    assert wired.is_valid(instance_id)


def test_it_began_when_its_first_step_did_and_ended_with_its_last(wired: Wired) -> None:
    wired.lightly(lambda input: time.sleep(0.002) or input["at"])
    wired.connect()
    instance_id = wired.engine.start({**THREE_STEPS, "timeout": "1h"})

    wired.engine.advance()

    [(started_at, finished_at, last_step_at)] = wired.engine.execute(
        "SELECT started_at, finished_at, last_step_at FROM instances"
    )
    assert started_at < finished_at == last_step_at
    told = wired.engine.snapshot(instance_id)["instance"]["startedAt"]
    assert parse_instant(told).replace(tzinfo=None) == as_instant(started_at)
    began = [
        as_instant(row[0]) for row in wired.engine.execute("SELECT started_at FROM attempts ORDER BY task_id")
    ]
    assert began == sorted(began)


def as_instant(stored: Any) -> datetime:
    """As both databases store it, in UTC and without its zone, to the millisecond."""
    instant = datetime.fromisoformat(stored) if isinstance(stored, str) else stored.astimezone(UTC)
    return instant.replace(tzinfo=None)


def test_many_instances_go_on_side_by_side(wired: Wired) -> None:
    wired.lightly(lambda input: input["at"])
    runner = wired.connect()
    first = wired.engine.start(THREE_STEPS)
    ids = [first, *(wired.engine.start("three-steps") for _ in range(60))]

    wired.engine.advance()
    for one in ids:  # on a slow machine the time of the batch is over before all have ended
        wired.run(runner, one)

    assert {wired.engine.status(one) for one in ids} == {COMPLETED}
    assert wired.engine.attempts() == [(1, "succeeded")] * 3 * 61
    assert all(wired.is_valid(one) for one in ids[:5])


def test_parallel_tasks_are_called_together_and_each_is_a_step(wired: Wired) -> None:
    wired.lightly(lambda input: input)
    wired.connect()
    region = {
        "initial": "working",
        "states": {
            "working": {"invoke": {"src": "work", "input": 1, "onDone": "done"}},
            "done": {"type": "final"},
        },
    }
    document = {"id": "both", "type": "parallel", "states": {"left": region, "right": region}}

    instance_id = wired.engine.start(document)

    assert wired.engine.advance().steps == 3
    assert wired.engine.status(instance_id) is COMPLETED
    assert wired.is_valid(instance_id)


def test_what_failed_is_on_record_as_any_attempt_and_tried_again(wired: Wired) -> None:
    called: list[int] = []

    def work(_input: Any, context: Any) -> str:
        called.append(context.attempt)
        context.heartbeat({"tried": context.attempt})
        if context.attempt == 1:
            raise RuntimeError("not yet")
        return "well"

    wired.lightly(work, retry=AT_ONCE)
    runner = wired.connect()
    instance_id = wired.engine.start(one_task())
    wired.engine.advance()
    assert wired.tasks == [("running", 1, 0)], "leased as the step was saved"

    wired.run(runner, instance_id)

    assert called == [1, 2]
    assert wired.engine.attempts() == [(1, "failed"), (2, "succeeded")]
    assert wired.is_valid(instance_id)


def test_what_fails_for_good_freezes_its_instance(wired: Wired) -> None:
    def work(_input: Any) -> None:
        raise Permanent("never", code="work.never")

    wired.lightly(work)
    runner = wired.connect()
    instance_id = wired.engine.start(one_task())

    wired.run(runner, instance_id, FAILED)

    assert wired.engine.attempts() == [(1, "failed")]
    assert wired.is_valid(instance_id)


def test_what_takes_too_long_is_leased_and_its_end_counts(
    wired: Wired, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(light_calls, "PATIENCE", 0.05)
    go_on, called = threading.Event(), []

    def work(_input: Any) -> str:
        called.append(1)
        go_on.wait(10)
        return "late"

    wired.lightly(work)
    runner = wired.connect()
    first = wired.engine.advancing.offers.caller_of("work", "work")
    assert first is not None
    instance_id = wired.engine.start(one_task())
    wired.engine.advance()
    assert wired.tasks == [("running", 1, 0)]
    wired.post.deliver(runner)
    assert runner.held == 1, "its lease is beaten from now on"
    go_on.set()

    wired.run(runner, instance_id)

    assert called == [1]
    assert wired.engine.attempts() == [(1, "succeeded")]
    offered = wired.engine.advancing.offers.caller_of("work", "work")
    assert offered is None or offered.number > first.number, "until it offers anew, as it does each second"
    assert wired.is_valid(instance_id)


def test_a_late_end_whose_lease_nobody_has_heard_of_yet_is_kept_for_it(
    wired: Wired, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(light_calls, "PATIENCE", 0.05)
    called: list[int] = []

    def work(_input: Any) -> str:
        called.append(1)
        time.sleep(0.2)
        return "late"

    wired.lightly(work)
    runner = wired.connect()
    instance_id = wired.engine.start(one_task())
    wired.engine.advance()
    time.sleep(0.4)  # the call is over before the lease is told

    wired.run(runner, instance_id)

    assert called == [1]
    assert wired.engine.attempts() == [(1, "succeeded")]


def test_a_handler_that_writes_metadata_is_called_under_a_lease(wired: Wired) -> None:
    called: list[bool] = []

    def work(_input: Any, context: Any) -> Any:
        called.append(True)
        context.metadata.set("seen", len(called))
        return context.metadata.get("seen")

    wired.lightly(work)
    runner = wired.connect()
    first = wired.engine.start(one_task())
    wired.run(runner, first)
    assert [output for (output,) in wired.engine.execute("SELECT output FROM tasks")] == ["2"], (
        "the first call ended where it asked for metadata"
    )
    assert runner.light is not None
    assert runner.light.names() == frozenset()

    second = wired.engine.start("one-work")
    wired.run(runner, second)

    assert len(called) == 3, "not asked by steps any more"
    assert wired.engine.attempts() == [(1, "succeeded")] * 2


def test_more_than_travels_is_reported_by_its_runner(wired: Wired) -> None:
    wired.lightly(lambda _input: "x" * 20_000)
    runner = wired.connect()
    instance_id = wired.engine.start(one_task())

    wired.run(runner, instance_id)

    assert wired.engine.attempts() == [(1, "succeeded")]
    assert wired.is_valid(instance_id)


def test_who_does_not_listen_any_more_has_called_nothing(wired: Wired) -> None:
    wired.lightly(lambda _input: None)
    runner = wired.connect()
    wired.ears[-1].close()
    client = client_of(wired.url)
    assert client is not None
    assert runner.light is not None
    name = f"signalbox:call:{runner.light.address}"
    wait_until(lambda: client.pubsub_numsub(name) == [(name.encode(), 0)], what="the runner to hang up")

    instance_id = wired.engine.start(one_task())
    wired.engine.advance()

    assert wired.tasks == [("pending", 0, 0)], "for whoever claims it"
    wired.run(runner, instance_id)
    assert wired.engine.attempts() == [(1, "succeeded")]


def test_a_broker_that_freezes_holds_no_step_up(
    engine: Engine, make_runner: MakeRunner, valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(light_calls, "PATIENCE", 0.05)
    wired = Wired(engine, Post(engine), valkey.url, make_runner)
    wired.lightly(lambda input: input["at"])
    wired.connect()
    first = engine.start(THREE_STEPS)
    engine.advance()
    assert engine.status(first) is COMPLETED, "the line is open"
    valkey.freeze()
    second = engine.start("three-steps")

    began = time.monotonic()
    engine.advance()
    took = time.monotonic() - began

    valkey.thaw()
    for ear in wired.ears:
        ear.close()
    assert_within(
        took, 1.0, "it waits for the broker's answers, of two seconds each, with locks in its hands"
    )
    assert engine.status(second) is InstanceStatus.RUNNING
    engine.settle()
    for line in wired.lines:
        line.close()


def test_a_step_that_is_undone_asks_for_the_same_work_again(wired: Wired) -> None:
    """What a handler was given as the key of its work stands for the same work then."""
    keys: list[tuple[str, str]] = []

    def work(input: Any, context: Any) -> str:
        keys.append((input["at"], context.idempotency_key))
        return str(input["at"])

    wired.lightly(work)
    wired.connect()
    instance_id = wired.engine.start(THREE_STEPS)

    def fail() -> None:
        faults.disarm()
        raise faults.FaultInjected("before_commit")

    faults.arm("before_commit", fail)
    with pytest.raises(faults.FaultInjected):
        wired.engine.advance()
    assert wired.tasks == []
    assert len(keys) == 3

    wired.engine.advance()

    assert wired.engine.status(instance_id) is COMPLETED
    assert keys[:3] == keys[3:]
    assert {key for _, key in keys} == {str(row[0]) for row in wired.engine.execute("SELECT id FROM tasks")}


def test_a_call_that_is_played_again_calls_nobody(wired: Wired) -> None:
    called: list[int] = []
    wired.lightly(lambda _input: called.append(1))
    runner = wired.connect()
    assert runner.light is not None
    heard: list[bytes] = []
    hear = Listener.open(wired.url)
    wired.ears.append(hear)
    listens = threading.Event()
    hear.listen({runner.light.address: lambda hints: (listens.set(), heard.extend(hints))})
    assert listens.wait(5)
    wired.engine.start(one_task())
    wired.engine.advance()
    wait_until(lambda: heard, what="the call to be overheard")

    runner.light.hear(heard)
    runner.light.hear([heard[0][:-1], b"", b"x" * 100])  # nor does what was not sealed

    assert called == [1]


def test_a_definition_that_never_rests_holds_its_batch_for_no_longer_than_a_step_may_take(
    wired: Wired, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.locked.STEP_BUDGET", 0.5)  # the machine may be busy
    wired.lightly(lambda _input: None)
    wired.connect()
    again = {"a": {"invoke": {"src": "work", "onDone": "b"}}, "b": {"invoke": {"src": "work", "onDone": "a"}}}
    instance_id = wired.engine.start({"id": "restless", "initial": "a", "states": again})

    began = time.monotonic()
    steps = wired.engine.advance().steps

    assert_within(time.monotonic() - began, 4.0)
    assert steps > 3
    assert wired.engine.status(instance_id) is InstanceStatus.RUNNING
    assert wired.is_valid(instance_id)


def test_nothing_is_called_past_a_limit(wired: Wired) -> None:
    called: list[int] = []
    wired.lightly(lambda _input: called.append(1))
    wired.connect()
    with wired.engine.database.transaction() as tx:
        set_limit(tx, wired.engine.tenant_id, "type:work", max_running=1, rate=None, actor="test")
    wired.engine.start(one_task())

    wired.engine.advance()

    assert (wired.tasks, called) == ([("pending", 0, 0)], [])


def test_a_limit_of_others_keeps_no_step_from_calling(wired: Wired) -> None:
    called: list[int] = []
    wired.lightly(lambda _input: called.append(1))
    wired.connect()
    with wired.engine.database.transaction() as tx:
        set_limit(tx, wired.engine.tenant_id, "type:EMAIL", max_running=1, rate=None, actor="test")
        set_limit(tx, wired.engine.tenant_id, "key:crm", max_running=1, rate=None, actor="test")
    instance_id = wired.engine.start(one_task())

    wired.engine.advance()

    assert called == [1]
    assert wired.engine.status(instance_id) is COMPLETED


@pytest.mark.parametrize(
    "task", [{"timeout": "10s"}, {"onLost": "fail"}, {"delay": "PT1H"}, {"idempotencyKey": "k"}]
)
def test_what_needs_a_lease_or_its_time_is_not_called_by_a_step(wired: Wired, task: dict[str, Any]) -> None:
    called: list[int] = []
    wired.lightly(lambda _input: called.append(1))
    wired.connect()
    wired.engine.start(one_task(**task))

    wired.engine.advance()

    assert called == []


def test_a_runner_that_dies_in_a_call_loses_an_attempt_that_is_on_record(
    wired: Wired, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As far as its orchestrator can tell: it was asked, and never answered."""
    monkeypatch.setattr(light_calls, "PATIENCE", 0.05)
    go_on = threading.Event()
    wired.lightly(lambda _input: go_on.wait(10))
    wired.connect()
    instance_id = wired.engine.start(one_task())
    wired.engine.advance()
    wired.post.handed.clear()
    wired.engine.execute("UPDATE tasks SET lease_expires_at = '2000-01-01 00:00:00.000000'")

    expire_due_leases(wired.engine.database)
    go_on.set()

    assert wired.tasks == [("pending", 0, 1)]
    assert wired.engine.attempts() == [(1, "lost")]
    wired.engine.settle()
    assert wired.engine.status(instance_id) is COMPLETED


def test_nobody_is_asked_where_a_runner_has_died_unsaid(wired: Wired) -> None:
    wired.lightly(lambda _input: None)
    runner = wired.connect()
    runner.claiming.is_wary = lambda: True
    assert runner.light is not None

    assert runner.light.names() == frozenset()
    wired.engine.start(one_task())
    wired.engine.advance()

    assert wired.tasks[0][0] == "running", "leased as any other, since it says that it called nothing"


def test_an_engine_s_fault_while_an_answer_is_stepped_leaves_the_answer_for_later(
    wired: Wired, monkeypatch: pytest.MonkeyPatch
) -> None:
    wired.lightly(lambda input: input["at"])
    runner = wired.connect()
    instance_id = wired.engine.start(THREE_STEPS)

    def broken(*_: Any) -> None:
        raise RuntimeError("a fault of the engine")

    with monkeypatch.context() as patched:
        patched.setattr("orchestrator.stepping.Stepping.go_on", broken)
        wired.engine.advance()
    assert wired.engine.status(instance_id) is InstanceStatus.RUNNING

    wired.run(runner, instance_id)
    assert wired.is_valid(instance_id)
