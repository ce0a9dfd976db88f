"""AI: asks a model, lets it use tools, and brings back what it decided, ruled on by the task's policy.

`ai_input` checks what is asked, `ai_prompt` adds our instructions, `ai_providers` knows the ways to models, `ai_loop` takes
the turns, `ai_answer` reads the last answer, `ai_record` keeps all of it. The rules are `common/ai_policy.py`. A model can do
nothing here but call tools that the policy lists: its decision is taken by the instance's next step, which rules again.
"""

from __future__ import annotations

from typing import Any

from common.ai_policy import Ruling, Why, policy_hash, read_policy, refused
from common.errors import Invalid
from task_runner.context import TaskContext
from task_runner.handlers.ai_input import INPUT_SCHEMA, check_input
from task_runner.handlers.ai_loop import Turn, take
from task_runner.handlers.ai_prompt import prompt_hash, system_text
from task_runner.handlers.ai_providers import Ways, operators_ways
from task_runner.handlers.ai_record import OUTPUT_SCHEMA, About, Conversation, Redaction, record
from task_runner.handlers.ai_tools import Toolbox
from task_runner.registry import REGISTRY, Continue, Options, Registry, make_handler

Json = Any


def ask_model(input: Any, context: TaskContext) -> dict[str, Json] | Continue:
    """Ask a model, under the task's `policy`, and return what it decided and what became of that.

    Input {provider, model, messages, schema?, tools?, script?, maxTokens?, temperature?, baseUrl?, apiKey?}. Returns {decision:
    {event, payload, reason, confidence} | null, verdict: emitted | suggested | refused | none, why, …} in every case
    that is not a failure of the way to the model. Without a policy the model may think, and nothing else.
    """
    return answer(input, context, operators_ways(), REGISTRY)


def answer(input: Json, context: TaskContext, ways: Ways, registry: Registry) -> dict[str, Json] | Continue:
    """Do what `ask_model` promises, by the ways to models that there are, with the tools of a registry."""
    asked = check_input(input)
    options = context.options
    written = options.get("policy")
    schemas = options.get("eventSchemas") or {}
    try:
        policy = read_policy(written)
    except Invalid as error:
        about = About(asked.provider, asked.model, None, policy_hash(written), "", Redaction(()))
        return record(about, refused(Why.POLICY_INVALID, str(error)), Conversation())
    toolbox = Toolbox(registry, policy)
    system = system_text(asked, policy, schemas)
    started = Conversation.begun(asked.messages)
    digest = prompt_hash(asked.model, system, started.messages, toolbox.offered(asked))
    redaction = Redaction(policy.redact, context.redaction)
    about = About(asked.provider, asked.model, digest, policy_hash(written), system, redaction)
    way = ways.to(asked, policy, lambda: context.cancelled, context.redaction)
    if isinstance(way, Ruling):
        return record(about, way, started)
    price = policy.prices.get(asked.model) or way.price
    if policy.max_cost is not None and price is None:
        unknown = f"the policy bounds the cost, and nobody says what {asked.model!a:.100} costs"
        return record(about, refused(Why.PRICE_UNKNOWN, unknown), started)
    conversation = started if context.state is None else Conversation.going_on(context.state)
    turn = Turn(
        asked,
        policy,
        way.provider,
        toolbox,
        about,
        schemas,
        price,
        knows_model=policy.models is not None or way.is_listed,
        is_part="poll" in options,
    )
    return take(turn, conversation, context)


def target(input: Any) -> str | None:
    """What an AI task calls: the place of its provider, or of its own `baseUrl`."""
    return (
        operators_ways().place(input.get("provider"), input.get("baseUrl"))
        if isinstance(input, dict)
        else None
    )


REGISTRY.add(
    make_handler(
        "AI", ask_model, None, INPUT_SCHEMA, OUTPUT_SCHEMA, built_in=True, options=Options(breaker=target)
    )
)
