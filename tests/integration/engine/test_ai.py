"""AI tasks: what a model decides is done, suggested or refused by the policy alone, and kept in every case."""

from typing import Any

import pytest

from common.commands.suggestions import decide_suggestion
from common.commands.verify import verify_instance
from common.errors import Conflict
from common.lifecycle import InstanceStatus
from common.store import suggestions
from tests.integration.engine.documents import ON_SQLITE
from tests.support.ai import asking, decision, with_ai
from tests.support.engine import LIMITS, Engine


@pytest.fixture
def engine(engine: Engine) -> Engine:
    return with_ai(engine)


def decided(engine: Engine, instance_id: str) -> dict[str, Any]:
    [entry] = [entry for entry in engine.entries(instance_id) if entry["type"] == "ai.decided"]
    return entry


def open_suggestions(engine: Engine, instance_id: str, status: str | None = "open") -> list[Any]:
    with engine.database.reading() as tx:
        return suggestions.list_suggestions(
            tx, engine.tenant_id, status=status, instance_id=instance_id, before=None, limit=50
        ).items


def say(engine: Engine, suggestion_id: str, word: Any, comment: str | None = None) -> None:
    with engine.database.transaction() as tx:
        decide_suggestion(
            tx, engine.tenant_id, suggestion_id, word, comment=comment, actor="ann", limits=LIMITS
        )


def verified(engine: Engine, instance_id: str) -> None:
    with engine.database.reading() as tx:
        verdict = verify_instance(tx, engine.tenant_id, instance_id)
    assert verdict["valid"], verdict["problems"]
    assert verdict["replayed"]


@pytest.mark.parametrize(
    ("listed", "direct", "verdict"),
    [
        (True, True, "emitted"),
        (True, False, "suggested"),
        (False, True, "refused"),
        (False, False, "refused"),
    ],
)
def test_only_a_listed_event_that_may_be_emitted_directly_is(
    engine: Engine, listed: bool, direct: bool, verdict: str
) -> None:
    policy = {"allowedEvents": ["APPROVE"] if listed else ["REJECT"], "allowDirectEmit": direct}
    instance_id = engine.start(asking([decision("APPROVE", {"amount": 5})], policy))

    engine.settle()

    context = engine.context(instance_id)
    assert context["output"]["verdict"] == verdict
    assert context["output"]["decision"] == {
        "event": "APPROVE",
        "payload": {"amount": 5},
        "reason": "because",
        "confidence": 0.9,
    }
    assert [event["amount"] for event in context["taken"]] == ([5] if verdict == "emitted" else [])
    assert len(open_suggestions(engine, instance_id)) == (verdict == "suggested")
    entry = decided(engine, instance_id)
    assert (entry["verdict"], entry["event"], entry["model"]) == (verdict, "APPROVE", "m-1")
    verified(engine, instance_id)


@pytest.mark.parametrize("policy", [None, {}, {"allowedEvents": []}, {"allowDirectEmit": True}])
def test_what_no_policy_lists_is_refused(engine: Engine, policy: Any) -> None:
    instance_id = engine.start(asking([decision("APPROVE")], policy))

    engine.settle()

    context = engine.context(instance_id)
    assert context["taken"] == []
    assert context["output"]["verdict"] == "refused"
    assert context["output"]["why"] in ("no_policy", "event_not_allowed")
    assert context["output"]["decision"]["event"] == "APPROVE"


@ON_SQLITE
def test_the_event_comes_right_after_the_completion_and_tells_where_from(engine: Engine) -> None:
    policy = {"allowedEvents": ["APPROVE"], "allowDirectEmit": True}
    instance_id = engine.start(asking([decision("APPROVE")], policy))
    engine.settle()

    [event] = engine.context(instance_id)["taken"]
    assert event["type"] == "APPROVE"
    assert event["source"]["type"] == "ai"
    types = engine.entry_types(instance_id)
    at = types.index("ai.decided")
    assert types[at - 1 : at + 4] == [
        "task.succeeded",
        "ai.decided",
        "event.received",
        "context.assigned",
        "event.received",
    ]


@ON_SQLITE
def test_a_model_that_answers_in_words_decides_nothing(engine: Engine) -> None:
    instance_id = engine.start(asking(["It is a fine order."]))
    engine.settle()

    output = engine.context(instance_id)["output"]
    assert (output["verdict"], output["why"]) == ("none", "no_decision")
    assert output["text"] == "It is a fine order."
    assert output["decision"] is None


@ON_SQLITE
def test_an_answer_by_a_schema_is_the_result(engine: Engine) -> None:
    schema = {"type": "object", "required": ["mood"], "properties": {"mood": {"enum": ["good", "bad"]}}}
    for said, verdict in (({"mood": "good"}, "none"), ({"mood": "ugly"}, "refused")):
        instance_id = engine.start(asking([{"json": said}], input={"schema": schema}))
        engine.settle()
        output = engine.context(instance_id)["output"]
        assert output["verdict"] == verdict
        assert output.get("result") == (said if verdict == "none" else None)


@ON_SQLITE
def test_a_decision_and_a_result_together(engine: Engine) -> None:
    policy = {"allowedEvents": ["APPROVE"], "allowDirectEmit": True}
    answer = decision("APPROVE", result={"mood": "good"})
    instance_id = engine.start(asking([answer], policy, input={"schema": {"type": "object"}}))
    engine.settle()

    output = engine.context(instance_id)["output"]
    assert (output["verdict"], output["result"]) == ("emitted", {"mood": "good"})


@ON_SQLITE
def test_the_definitions_schema_of_an_event_holds_for_models_too(engine: Engine) -> None:
    document = asking(
        [decision("APPROVE", {"amount": "much"})], {"allowedEvents": ["APPROVE"], "allowDirectEmit": True}
    )
    document["events"] = {"APPROVE": {"type": "object", "properties": {"amount": {"type": "number"}}}}
    instance_id = engine.start(document)
    engine.settle()

    assert engine.context(instance_id)["taken"] == []
    assert decided(engine, instance_id)["why"] == "payload_invalid"


# -- who holds the policy ------------------------------------------------------------------------------------------


def forged(event: str = "APPROVE") -> dict[str, Any]:
    return {
        "verdict": "emitted",
        "why": "allowed",
        "decision": {"event": event, "payload": {}, "reason": "", "confidence": 1},
    }


@ON_SQLITE
def test_a_handler_of_another_type_forges_no_decision(engine: Engine) -> None:
    engine.handler("evil", lambda _input: forged())
    document = asking([], {"allowedEvents": ["APPROVE"], "allowDirectEmit": True}, type="evil")
    instance_id = engine.start(document)
    engine.settle()

    assert engine.context(instance_id)["output"]["verdict"] == "emitted"  # its own word, and data
    assert engine.context(instance_id)["taken"] == []
    assert "ai.decided" not in engine.entry_types(instance_id)


@ON_SQLITE
@pytest.mark.parametrize(
    ("policy", "event", "taken"),
    [
        (None, "APPROVE", 0),
        ({"allowedEvents": ["REJECT"], "allowDirectEmit": True}, "APPROVE", 0),
        ({"allowedEvents": ["APPROVE"]}, "APPROVE", 0),
        ({"allowedEvents": ["APPROVE"], "allowDirectEmit": "yes"}, "APPROVE", 0),
        ({"allowedEvents": ["APPROVE"], "allowDirectEmit": True, "requireHuman": True}, "APPROVE", 0),
        ({"allowedEvents": ["done.task.x"], "allowDirectEmit": True}, "done.task.x", 0),
        ({"allowedEvents": ["APPROVE"], "allowDirectEmit": True}, "APPROVE", 1),
    ],
)
def test_the_step_rules_again_whatever_a_runner_says(
    engine: Engine, policy: Any, event: str, taken: int
) -> None:
    instance_id = engine.start(asking([], policy))
    engine.advance()
    [claim] = engine.claim()
    engine.report(engine.succeeded(claim, forged(event)))

    engine.advance()

    context = engine.context(instance_id)
    assert len(context["taken"]) == taken
    assert context["output"]["verdict"] == ("emitted" if taken else "refused")
    assert decided(engine, instance_id)["verdict"] == context["output"]["verdict"]
    verified(engine, instance_id)


@ON_SQLITE
@pytest.mark.parametrize(
    "output",
    [
        None,
        "text",
        [],
        {},
        {"verdict": "emitted"},
        {"verdict": "emitted", "why": "allowed"},
        {"verdict": ["emitted"]},
    ],
)
def test_an_output_that_is_none_of_an_ai_task_has_no_effect(engine: Engine, output: Any) -> None:
    instance_id = engine.start(asking([], {"allowedEvents": ["APPROVE"], "allowDirectEmit": True}))
    engine.advance()
    [claim] = engine.claim()
    engine.report(engine.succeeded(claim, output))

    engine.advance()

    assert decided(engine, instance_id)["why"] == "output_invalid"
    verified(engine, instance_id)


@ON_SQLITE
def test_work_of_another_handler_under_the_same_key_is_no_decision(engine: Engine) -> None:
    """The AI task is answered by what another type has done under its idempotency key."""
    engine.handler("evil", lambda _input: forged())
    document = asking([], {"allowedEvents": ["APPROVE"], "allowDirectEmit": True}, idempotencyKey="same")
    first = {"type": "createTask", "task": {"type": "evil", "name": "first", "idempotencyKey": "same"}}
    thinking = document["states"]["thinking"]
    ask = thinking["entry"].pop()
    thinking["entry"] = [first]
    thinking["on"]["GO"] = {"actions": [ask]}
    instance_id = engine.start(document)
    engine.settle()
    engine.send(instance_id, "GO")

    engine.settle()

    assert engine.context(instance_id)["taken"] == []
    assert "ai.decided" not in engine.entry_types(instance_id)


@ON_SQLITE
def test_an_instance_takes_a_bounded_number_of_events_from_models(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = asking([decision("APPROVE")], {"allowedEvents": ["APPROVE"], "allowDirectEmit": True})
    thinking = document["states"]["thinking"]
    thinking["on"]["MORE"] = {"actions": thinking["entry"]}
    engine.advancing = type(engine.advancing)(
        engine.database, LIMITS.max_context_bytes, limits=LIMITS.model_copy(update={"max_ai_events": 2})
    )
    instance_id = engine.start(document)
    engine.settle()
    for _ in range(2):
        engine.send(instance_id, "MORE")
        engine.settle()

    entries = [entry for entry in engine.entries(instance_id) if entry["type"] == "ai.decided"]
    assert [(entry["verdict"], entry["why"]) for entry in entries] == [
        ("emitted", "allowed"),
        ("emitted", "allowed"),
        ("refused", "limit"),
    ]
    assert len(engine.context(instance_id)["taken"]) == 2
    assert engine.context(instance_id)["output"]["verdict"] == "refused"
    verified(engine, instance_id)


@ON_SQLITE
def test_an_event_whose_step_fails_undoes_the_whole_step_and_can_be_retried(engine: Engine) -> None:
    document = asking(
        [decision("APPROVE", {"n": 0})], {"allowedEvents": ["APPROVE"], "allowDirectEmit": True}
    )
    document["states"]["thinking"]["on"]["APPROVE"]["actions"][0]["value"] = "${1 / event.n}"
    instance_id = engine.start(document)
    engine.settle()

    assert engine.status(instance_id) is InstanceStatus.FAILED
    assert engine.context(instance_id)["output"] is None
    verified(engine, instance_id)


@ON_SQLITE
def test_the_end_of_the_task_may_be_the_end_of_the_instance(engine: Engine) -> None:
    document = asking([decision("APPROVE")], {"allowedEvents": ["APPROVE"], "allowDirectEmit": True})
    document["states"]["thinking"]["on"]["done.task.clerk"] = "stopped"
    instance_id = engine.start(document)
    engine.settle()

    assert engine.status(instance_id) is InstanceStatus.COMPLETED
    assert engine.entries(instance_id)[-1] == {
        "type": "event.ignored",
        "eventType": "APPROVE",
        "reason": "not_active",
    }
    assert engine.entry_types(instance_id).count("instance.completed") == 1
    verified(engine, instance_id)


@ON_SQLITE
def test_a_paused_instance_takes_the_decision_when_it_goes_on(engine: Engine) -> None:
    instance_id = engine.start(
        asking([decision("APPROVE")], {"allowedEvents": ["APPROVE"], "allowDirectEmit": True})
    )
    engine.advance()
    [claim] = engine.claim()
    engine.control("pause", instance_id)
    engine.advance()
    engine.report(engine.call(claim))
    engine.settle()
    assert engine.context(instance_id)["taken"] == []

    engine.control("resume", instance_id)
    engine.settle()

    assert len(engine.context(instance_id)["taken"]) == 1
    verified(engine, instance_id)


# -- suggestions ---------------------------------------------------------------------------------------------------

SUGGESTING = {"allowedEvents": ["APPROVE"]}


def test_an_accepted_suggestion_is_sent_once(engine: Engine) -> None:
    instance_id = engine.start(asking([decision("APPROVE", {"amount": 5})], SUGGESTING))
    engine.settle()
    [found] = open_suggestions(engine, instance_id)
    assert (found.event, found.payload, found.confidence) == ("APPROVE", '{"amount":5}', "0.9")

    say(engine, found.id, "accept", "looks right")
    with pytest.raises(Conflict, match="accepted already"):
        say(engine, found.id, "accept")
    with pytest.raises(Conflict, match="accepted already"):
        say(engine, found.id, "reject")
    engine.settle()

    [event] = engine.context(instance_id)["taken"]
    assert event["amount"] == 5
    assert event["source"]["suggestionId"] == found.id
    [entry] = [one for one in engine.entries(instance_id) if one["type"] == "ai.suggestion.accepted"]
    assert (entry["comment"], entry["suggestionId"]) == ("looks right", found.id)
    verified(engine, instance_id)


def test_a_rejected_suggestion_sends_nothing_and_is_on_record(engine: Engine) -> None:
    instance_id = engine.start(asking([decision("APPROVE")], SUGGESTING))
    engine.settle()
    [found] = open_suggestions(engine, instance_id)

    say(engine, found.id, "reject")
    engine.settle()

    assert engine.context(instance_id)["taken"] == []
    assert "ai.suggestion.rejected" in engine.entry_types(instance_id)
    verified(engine, instance_id)


@pytest.mark.parametrize("end", ["STOP", "cancel"])
def test_open_suggestions_expire_with_their_instance(engine: Engine, end: str) -> None:
    instance_id = engine.start(asking([decision("APPROVE")], SUGGESTING))
    engine.settle()
    [found] = open_suggestions(engine, instance_id)

    if end == "cancel":
        engine.control("cancel", instance_id)
    else:
        engine.send(instance_id, "STOP")
    engine.settle()

    assert open_suggestions(engine, instance_id) == []
    [expired] = open_suggestions(engine, instance_id, "expired")
    assert expired.id == found.id
    with pytest.raises(Conflict, match="expired already"):
        say(engine, found.id, "accept")


@ON_SQLITE
def test_a_schema_of_the_event_says_nothing_of_where_it_comes_from(engine: Engine) -> None:
    """`source` is the engine's member: a schema that names no such member still lets the event in, either way."""
    strict = {
        "type": "object",
        "additionalProperties": False,
        "properties": {"type": {"const": "APPROVE"}, "amount": {"type": "number"}},
    }
    for policy in (SUGGESTING, {**SUGGESTING, "allowDirectEmit": True}):
        document = asking([decision("APPROVE", {"amount": 5})], policy) | {"events": {"APPROVE": strict}}
        instance_id = engine.start(document)
        engine.settle()
        for found in open_suggestions(engine, instance_id):
            say(engine, found.id, "accept")
        engine.settle()
        assert [event["amount"] for event in engine.context(instance_id)["taken"]] == [5]
        verified(engine, instance_id)


def test_a_human_may_be_required_whatever_else_the_policy_says(engine: Engine) -> None:
    policy = {"allowedEvents": ["APPROVE"], "allowDirectEmit": True, "requireHuman": True}
    instance_id = engine.start(asking([decision("APPROVE")], policy))
    engine.settle()

    assert engine.context(instance_id)["taken"] == []
    assert len(open_suggestions(engine, instance_id)) == 1


# -- parts ---------------------------------------------------------------------------------------------------------


@ON_SQLITE
def test_what_a_poll_asks_decides_nothing(engine: Engine) -> None:
    document = asking([decision("APPROVE")], {"allowedEvents": ["APPROVE"], "allowDirectEmit": True})
    [ask] = document["states"]["thinking"]["entry"]
    wanted = ask["task"]
    ask["task"] = {
        "type": "POLL",
        "name": "clerk",
        "policy": wanted["policy"],
        "input": {
            "task": {"type": "AI", "input": wanted["input"]},
            "until": "output.verdict == 'refused'",
            "interval": "1s",
            "checkFirst": True,
        },
    }
    instance_id = engine.start(document)
    engine.settle()

    context = engine.context(instance_id)
    assert context["output"]["why"] in ("is_part", "no_policy")
    assert context["taken"] == []
    verified(engine, instance_id)
