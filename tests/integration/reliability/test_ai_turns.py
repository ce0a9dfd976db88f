"""Turns of an AI task: each is an attempt of its own, tools are what the policy lists, budgets end what goes too far."""

from typing import Any

import pytest

from orchestrator.sweep import expire_due_leases
from task_runner.context import TaskContext
from task_runner.registry import Continue, Options, Permanent, make_handler
from tests.integration.engine.documents import ON_SQLITE
from tests.support.ai import asking, decision, with_ai
from tests.support.engine import Engine

pytestmark = ON_SQLITE

FIND = {
    "type": "object",
    "required": ["id"],
    "additionalProperties": False,
    "properties": {"id": {"type": "integer"}},
}
DIRECT = {"allowedEvents": ["APPROVE"], "allowDirectEmit": True}
WITH_TOOL = {**DIRECT, "allowedTools": {"orders.find": FIND}}


def call(name: str = "orders.find", arguments: Any = None, **more: Any) -> dict[str, Any]:
    return {"toolCalls": [{"name": name, "arguments": {"id": 7} if arguments is None else arguments}], **more}


class Tool:
    """A tool that keeps what it was called with."""

    def __init__(self, result: Any = None) -> None:
        self.result = {"total": 12} if result is None else result
        self.calls: list[tuple[Any, str]] = []

    def __call__(self, input: Any, context: TaskContext) -> Any:
        self.calls.append((input, context.idempotency_key))
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


@pytest.fixture
def engine(engine: Engine) -> Engine:
    return with_ai(engine)


def tooled(engine: Engine, tool: Tool, name: str = "orders.find") -> Tool:
    engine.handler(name, tool.__call__)
    return tool


def outcomes(engine: Engine) -> list[str]:
    return [row[0] for row in engine.execute("SELECT outcome FROM attempts ORDER BY started_at, token")]


def output_of(engine: Engine, instance_id: str) -> dict[str, Any]:
    return dict(engine.context(instance_id)["output"])


def test_a_tool_is_called_and_its_result_comes_back_as_data(engine: Engine) -> None:
    tool = tooled(engine, Tool())
    usage = {"inputTokens": 10, "outputTokens": 5}
    prices = {"m-1": {"input": 1_000_000, "output": 2_000_000}}
    script = [call(usage=usage), {**decision("APPROVE", {"amount": 12}), "usage": usage}]
    instance_id = engine.start(asking(script, {**WITH_TOOL, "prices": prices, "maxCost": 100}))

    engine.settle()

    output = output_of(engine, instance_id)
    assert output["verdict"] == "emitted"
    assert [input for input, _ in tool.calls] == [{"id": 7}]
    assert outcomes(engine) == ["continued", "succeeded"]
    assert [one["toolCalls"] for one in output["turns"]] == [
        [{"name": "orders.find", "arguments": {"id": 7}, "outcome": "done", "told": {"total": 12}}],
        [],
    ]
    assert output["messages"][-2] == {
        "role": "tool",
        "toolCallId": "call-1",
        "name": "orders.find",
        "content": '{"total":12}',
    }
    assert output["usage"] == {"inputTokens": 20, "outputTokens": 10, "isEstimated": False}
    assert output["cost"] == 40
    [(progress, state)] = engine.execute("SELECT progress, state FROM tasks")
    assert progress == '{"cost":20,"tokens":15,"turn":1}'
    assert state is None, "the conversation is kept redacted, in the output"


def test_a_turn_whose_runner_dies_is_taken_again_and_no_other(engine: Engine) -> None:
    tool = tooled(engine, Tool())
    instance_id = engine.start(asking([call(), call(), decision("APPROVE")], WITH_TOOL))
    engine.advance()
    [first] = engine.claim()
    engine.report(engine.call(first))
    [second] = engine.claim()
    engine.call(second)  # its tool was called, and its runner dies before it reports
    engine.execute(
        "UPDATE tasks SET lease_expires_at = '2000-01-01 00:00:00.000000' WHERE lease_token IS NOT NULL"
    )
    expire_due_leases(engine.database)

    engine.settle()

    assert outcomes(engine) == ["continued", "lost", "continued", "succeeded"]
    keys = [key for _, key in tool.calls]
    assert len(keys) == 3
    assert keys[1] == keys[2] != keys[0]
    assert output_of(engine, instance_id)["verdict"] == "emitted"
    assert len(output_of(engine, instance_id)["turns"]) == 3


def test_a_way_to_the_model_that_fails_for_a_moment_costs_one_attempt_of_its_turn(engine: Engine) -> None:
    failing = {"error": {"code": "ai.503", "retryable": True}}
    instance_id = engine.start(
        asking([failing], DIRECT, retry={"maxAttempts": 2, "interval": 0, "jitter": 0}, failureEvent="FAILED")
    )
    engine.settle()

    assert outcomes(engine) == ["failed", "failed"]
    assert "ai.decided" not in engine.entry_types(instance_id)


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        (call("orders.delete"), "the policy lists no tool"),
        (call("Orders.Find"), "the policy lists no tool"),
        (call("orders.fіnd"), "the policy lists no tool"),
        (call("orders.find "), "the policy lists no tool"),
        (call("AI"), "the policy lists no tool"),
        (call(arguments={"id": "7"}), "not allowed"),
        (call(arguments={"id": 7, "all": True}), "not allowed"),
        (call(arguments={}), "not allowed"),
        (call(arguments=[7]), "not allowed"),
        (call(arguments="{"), "not JSON"),
        (call(arguments='{"id": 7, "id": 8}'), "not JSON"),
        (call(arguments='{"id": NaN}'), "not JSON"),
        (call(arguments='{"id": 7}{"id": 8}'), "not JSON"),
    ],
)
def test_a_tool_that_is_not_allowed_is_not_called(engine: Engine, wanted: Any, told: str) -> None:
    tool = tooled(engine, Tool())
    forbidden = tooled(engine, Tool(), "orders.delete")
    instance_id = engine.start(asking([wanted, "never mind"], WITH_TOOL))

    engine.settle()

    assert tool.calls == forbidden.calls == []
    output = output_of(engine, instance_id)
    [one] = output["turns"][0]["toolCalls"]
    assert one["outcome"] == "refused"
    assert told in one["told"]["error"]["message"]
    assert told in output["messages"][-2]["content"]


@pytest.mark.parametrize(
    ("result", "code"),
    [
        (Permanent("no such order", code="orders.unknown"), "orders.unknown"),
        (ValueError("oops"), "ValueError"),
        (Continue({}), "tool.continues"),
        ("x" * 200_000, "output.too_large"),
        (object(), "output.invalid"),
    ],
)
def test_a_tool_that_fails_is_told_and_the_model_goes_on(engine: Engine, result: Any, code: str) -> None:
    tooled(engine, Tool(result))
    instance_id = engine.start(asking([call(), decision("APPROVE")], WITH_TOOL))

    engine.settle()

    output = output_of(engine, instance_id)
    [one] = output["turns"][0]["toolCalls"]
    assert (one["outcome"], one["told"]["error"]["code"]) == ("failed", code)
    assert output["verdict"] == "emitted"


def test_tools_that_cannot_be_are_refused(engine: Engine) -> None:
    engine.handler("plain", lambda input: input)
    engine.registry.add(
        make_handler("apart", lambda input: input, input_schema={}, options=Options(isolated=True))
    )
    policy = {"allowedTools": ["plain", "apart", "missing", "AI"]}
    names = ["plain", "apart", "missing", "AI"]
    instance_id = engine.start(asking([{"toolCalls": [{"name": name} for name in names]}, "done"], policy))
    engine.settle()

    calls = output_of(engine, instance_id)["turns"][0]["toolCalls"]
    assert [(one["name"], one["outcome"]) for one in calls] == [(name, "refused") for name in names]


def test_the_schema_of_the_handler_holds_where_the_policy_only_names_it(engine: Engine) -> None:
    tool = Tool()
    engine.registry.add(make_handler("orders.find", tool.__call__, input_schema=FIND))
    script = [call(arguments={"id": "x"}), call(), "done"]
    instance_id = engine.start(asking(script, {"allowedTools": ["orders.find"]}))
    engine.settle()

    assert [input for input, _ in tool.calls] == [{"id": 7}]
    assert [one["toolCalls"][0]["outcome"] for one in output_of(engine, instance_id)["turns"][:2]] == [
        "refused",
        "done",
    ]


def test_the_model_is_told_of_its_events_and_tools_and_what_is_data(engine: Engine) -> None:
    instance_id = engine.start(asking(["hm"], WITH_TOOL))
    engine.settle()

    system = output_of(engine, instance_id)["messages"][0]
    assert system["role"] == "system"
    assert '- "APPROVE"' in system["content"]
    assert "are data" in system["content"]


# -- budgets -------------------------------------------------------------------------------------------------------


def test_a_model_that_never_ends_is_stopped_after_its_turns(engine: Engine) -> None:
    tool = tooled(engine, Tool())
    instance_id = engine.start(asking([call()] * 60, {**WITH_TOOL, "maxTurns": 3}))
    engine.settle()

    output = output_of(engine, instance_id)
    assert (output["verdict"], output["why"]) == ("refused", "over_turns")
    assert len(output["turns"]) == 3
    assert len(tool.calls) == 2, "what the last turn wants could not be told to anybody"


def test_eight_turns_are_what_a_policy_gives_that_says_nothing(engine: Engine) -> None:
    tooled(engine, Tool())
    instance_id = engine.start(asking([call()] * 60, WITH_TOOL))
    engine.settle()

    assert len(output_of(engine, instance_id)["turns"]) == 8


@pytest.mark.parametrize(
    ("bound", "why"),
    [
        ({"maxTokens": 29}, "over_tokens"),
        ({"maxTokens": 15}, "over_tokens"),
        ({"maxCost": 29, "prices": {"m-1": {"input": 1_000_000, "output": 1_000_000}}}, "over_cost"),
    ],
)
def test_over_its_budget_nothing_is_done_and_everything_is_kept(engine: Engine, bound: Any, why: str) -> None:
    tool = tooled(engine, Tool())
    usage = {"inputTokens": 10, "outputTokens": 5}
    script = [call(usage=usage), {**decision("APPROVE"), "usage": usage}]
    instance_id = engine.start(asking(script, {**WITH_TOOL, **bound}))
    engine.settle()

    output = output_of(engine, instance_id)
    assert (output["verdict"], output["why"]) == ("refused", why)
    assert engine.context(instance_id)["taken"] == []
    assert len(tool.calls) == 1
    assert len(output["turns"]) == (1 if bound.get("maxTokens") == 15 else 2)


def test_a_cost_that_nobody_knows_cannot_be_bounded(engine: Engine) -> None:
    instance_id = engine.start(asking([decision("APPROVE")], {**DIRECT, "maxCost": 1}))
    engine.settle()

    output = output_of(engine, instance_id)
    assert (output["verdict"], output["why"], output["turns"]) == ("refused", "price_unknown", [])


def test_tokens_that_nobody_counted_are_estimated(engine: Engine) -> None:
    instance_id = engine.start(asking([decision("APPROVE")], {**DIRECT, "maxTokens": 10}))
    engine.settle()

    output = output_of(engine, instance_id)
    assert (output["why"], output["usage"]["isEstimated"]) == ("over_tokens", True)


def test_what_a_policy_redacts_is_in_nothing_that_is_kept(engine: Engine) -> None:
    tooled(engine, Tool({"iban": "DE02120300000000202051"}))
    script = [call(text="I look for DE02120300000000202051"), "It is DE02120300000000202051."]
    policy = {**WITH_TOOL, "redact": ["DE[0-9]{20}"]}
    messages = [{"role": "user", "content": "whose is DE02120300000000202051?"}]
    document = asking(script, policy, input={"messages": messages})
    instance_id = engine.start(document)
    engine.settle()

    [(output, state)] = engine.execute("SELECT output, state FROM tasks")
    assert "DE0212" not in output
    assert state is None
    assert "***" in output_of(engine, instance_id)["text"]
