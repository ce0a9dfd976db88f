"""One turn of an AI task: ask the model once, call the tools that it wants, or rule on what it decided.

Each turn is an attempt of its own, with the conversation so far as its state: a runner that dies repeats one turn, and
tools that were called in it get the same idempotency keys again. Nothing in here sends anything to the instance: what
is emitted is emitted by the step that takes the output, see `common/decide_ai.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from common.ai_policy import Policy, Price, Ruling, Verdict, Why, refused, rule_by
from common.canonical import dumps
from task_runner.context import TaskContext
from task_runner.handlers.ai_answer import Parsed, parse
from task_runner.handlers.ai_input import Asked
from task_runner.handlers.ai_port import Answer, Provider, Request, ToolCall
from task_runner.handlers.ai_prompt import decides
from task_runner.handlers.ai_record import About, Conversation, record
from task_runner.handlers.ai_tools import MAX_SHOWN, Called, Toolbox
from task_runner.registry import Continue, Retryable

Json = Any


@dataclass(frozen=True, slots=True)
class Turn:
    """Everything that a turn needs; `price` None where nobody knows what the model costs."""

    asked: Asked
    policy: Policy
    provider: Provider
    toolbox: Toolbox
    about: About
    event_schemas: Mapping[str, Json]
    price: Price | None
    knows_model: bool
    """Was the model named by a list? Then the answer has to come from it, too."""
    is_part: bool = False
    """Is the task what a POLL asks? Then no step takes its decision."""


def take(turn: Turn, conversation: Conversation, context: TaskContext) -> dict[str, Json] | Continue:
    """Take the next turn. Returns the output of the task, or the state that another turn goes on from."""
    policy = turn.policy
    left = None if policy.max_tokens is None else policy.max_tokens - conversation.tokens
    if left is not None and left <= 0:
        spent = f"the policy allows {policy.max_tokens:,} tokens, and they are spent before turn {conversation.turn + 1}"
        return record(turn.about, refused(Why.OVER_TOKENS, spent), conversation)
    answer = turn.provider.complete(_request(turn, conversation, left)).storable(context.redaction)
    cost = None
    if turn.price is not None:
        cost = turn.price.of(answer.usage.input_tokens, answer.usage.output_tokens)
    conversation.charge(answer.usage, cost)
    stopped = _over_budget(policy, conversation) or _other_model(turn, answer)
    if stopped is None and answer.tool_calls and conversation.turn + 1 >= policy.max_turns:
        stopped = refused(
            Why.OVER_TURNS,
            f"the model wants more tools after {policy.max_turns} turns, which are all that it has",
        )
    if stopped is not None:
        return _stopped(turn, stopped, conversation, answer)
    if not answer.tool_calls:
        return _decided(turn, conversation, answer)
    _call_tools(turn, conversation, answer, context)
    if conversation.is_too_large:
        return _ended(
            turn,
            refused(Why.TOO_LARGE, "the conversation is too large for another turn"),
            conversation,
            answer,
        )
    context.heartbeat(_progress(conversation))
    return Continue(conversation.to_json())


def _progress(conversation: Conversation) -> dict[str, Json]:
    return {"turn": conversation.turn, "tokens": conversation.tokens, "cost": conversation.cost}


def _request(turn: Turn, conversation: Conversation, left: int | None) -> Request:
    asked = turn.asked
    return Request(
        model=asked.model,
        system=turn.about.system,
        messages=conversation.messages,
        tools=turn.toolbox.offered(asked),
        max_tokens=asked.max_tokens if left is None else min(asked.max_tokens, left),
        temperature=asked.temperature,
        turn=conversation.turn + 1,
        wants_json=decides(turn.policy) or asked.schema is not None,
    )


def _over_budget(policy: Policy, conversation: Conversation) -> Ruling | None:
    if policy.max_tokens is not None and conversation.tokens > policy.max_tokens:
        return refused(
            Why.OVER_TOKENS,
            f"the task took {conversation.tokens:,} tokens, and its policy allows {policy.max_tokens:,}",
        )
    if policy.max_cost is not None and (conversation.cost or 0.0) > policy.max_cost:
        return refused(
            Why.OVER_COST, f"the task cost {conversation.cost}, and its policy allows {policy.max_cost}"
        )
    return None


def _other_model(turn: Turn, answer: Answer) -> Ruling | None:
    """The model that answers is the one that was asked, or a dated edition of it, or another that the policy lists."""
    if not turn.knows_model or answer.model == turn.asked.model:
        return None
    edition = answer.model.removeprefix(f"{turn.asked.model}-").replace("-", "")
    is_dated = edition != answer.model and edition.isascii() and edition.isdigit() and len(edition) in (4, 8)
    listed = turn.policy.models or frozenset()
    if is_dated or answer.model in listed:
        return None
    return refused(
        Why.MODEL_NOT_ALLOWED,
        f"{answer.model!a:.100} has answered where {turn.asked.model!a:.100} was asked",
    )


def _call_tools(turn: Turn, conversation: Conversation, answer: Answer, context: TaskContext) -> None:
    calls = [_kept(call) for call in answer.tool_calls]
    conversation.hear(answer, calls)
    called: list[Called] = []
    for index, call in enumerate(answer.tool_calls, 1):
        if context.cancelled:
            raise Retryable("nobody waits for the task any more", code="ai.cancelled")
        one = turn.toolbox.call(call, context, turn=conversation.turn + 1, index=index)
        context.heartbeat()
        called.append(one)
        context.log.info("ai.tool", tool=one.name, outcome=one.outcome, turn=conversation.turn + 1)
        conversation.messages.append(
            {"role": "tool", "toolCallId": calls[index - 1]["id"], "name": one.name, "content": _told(one)}
        )
    conversation.note(answer, called)


def _kept(call: ToolCall) -> dict[str, Json]:
    return {
        "id": call.id,
        "name": call.name,
        "arguments": call.arguments[:MAX_SHOWN],
    }


def _told(called: Called) -> str:
    text = dumps(called.told)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}… ({len(text):,} characters)"


def _stopped(turn: Turn, ruling: Ruling, conversation: Conversation, answer: Answer) -> dict[str, Json]:
    """The end of a task that may not go on; what its last answer says is kept, and not acted on."""
    refusals = [Called(call.name, call.arguments[:2_000], "refused", None) for call in answer.tool_calls]
    conversation.hear(answer, [_kept(call) for call in answer.tool_calls])
    conversation.note(answer, refusals)
    parsed = parse(answer.text, decides=decides(turn.policy), schema=turn.asked.schema)
    return _ended(turn, ruling, conversation, answer, Parsed(decision=parsed.decision))


def _decided(turn: Turn, conversation: Conversation, answer: Answer) -> dict[str, Json]:
    conversation.hear(answer)
    conversation.note(answer, ())
    parsed = parse(answer.text, decides=decides(turn.policy), schema=turn.asked.schema)
    return _ended(turn, _ruling(turn, parsed), conversation, answer, parsed)


def _ruling(turn: Turn, parsed: Parsed) -> Ruling:
    if parsed.why is not None:
        return refused(parsed.why, parsed.message)
    if parsed.decision is None:
        return Ruling(Verdict.NONE, Why.NO_DECISION, parsed.reason or "the model names no event")
    decision = parsed.decision
    ruling = rule_by(turn.policy, decision["event"], decision["payload"], turn.event_schemas)
    if turn.is_part and ruling.verdict is not Verdict.REFUSED:
        return refused(Why.IS_PART, "a task within a POLL gives results and decides nothing")
    return ruling


def _ended(
    turn: Turn, ruling: Ruling, conversation: Conversation, answer: Answer, parsed: Parsed | None = None
) -> dict[str, Json]:
    return record(turn.about, ruling, conversation, parsed=parsed, answer=answer)
