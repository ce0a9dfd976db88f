"""Policies: read member by member, and a ruling for every decision; whatever cannot be read allows nothing."""

from itertools import product
from typing import Any

import pytest

from common.ai_policy import Price, Verdict, Why, read_policy, rule
from common.errors import Invalid

OPEN = {"allowedEvents": ["APPROVE"], "allowDirectEmit": True}


def test_no_policy_allows_nothing() -> None:
    policy = read_policy(None)

    assert not policy.is_given
    assert (policy.events, policy.direct, policy.tools, policy.max_turns) == (frozenset(), False, {}, 8)
    assert rule(None, "APPROVE", {}, {}).why is Why.NO_POLICY


def test_a_policy_that_says_everything() -> None:
    policy = read_policy(
        {
            **OPEN,
            "requireHuman": False,
            "allowedTools": {"look.up": {"type": "object"}},
            "allowedModels": ["m-1"],
            "allowedDomains": ["api.example.com", "*.example.org"],
            "maxTokens": 1_000,
            "maxCost": 0.5,
            "maxTurns": 3,
            "prices": {"m-1": {"input": 1, "output": 4}},
            "redact": ["[0-9]{16}"],
        }
    )

    assert policy.prices["m-1"] == Price(1.0, 4.0)
    assert policy.prices["m-1"].of(1_000_000, 500_000) == 3.0
    assert (policy.max_tokens, policy.max_cost, policy.max_turns) == (1_000, 0.5, 3)
    assert policy.allows_model("m-1")
    assert not policy.allows_model("m-10")
    assert rule({**OPEN, "requireHuman": False}, "APPROVE", {}, {}).verdict is Verdict.EMITTED


MALFORMED: list[Any] = [
    [],
    "allow",
    True,
    {"allow": True},
    {"allowedEvents": "APPROVE"},
    {"allowedEvents": {"APPROVE": True}},
    {"allowedEvents": ["*"]},
    {"allowedEvents": ["APPROVE*"]},
    {"allowedEvents": [" APPROVE"]},
    {"allowedEvents": [1]},
    {"allowedEvents": [""]},
    {"allowDirectEmit": "true"},
    {"allowDirectEmit": 1},
    {"requireHuman": 0},
    {"allowedTools": "all"},
    {"allowedTools": {"x": "any"}},
    {"allowedTools": {"x": {"type": "nonsense"}}},
    {"allowedTools": {"x": {"$ref": "file:///etc/passwd"}}},
    {"allowedTools": {"x": {"$ref": "https://example.com/schema.json"}}},
    {"allowedModels": "gpt"},
    {"allowedDomains": ["*"]},
    {"allowedDomains": ["https://example.com"]},
    {"allowedDomains": ["Example.com"]},
    {"allowedDomains": ["a.*.com"]},
    {"allowedDomains": ["exаmple.com"]},
    {"maxTokens": 0},
    {"maxTokens": "many"},
    {"maxTokens": True},
    {"maxTokens": 1.5},
    {"maxCost": -1},
    {"maxCost": "1"},
    {"maxTurns": 51},
    {"maxTurns": 0},
    {"prices": {"m": 1}},
    {"prices": {"m": {"input": 1}}},
    {"redact": ["("]},
    {"redact": ["(?=look)"]},
]


@pytest.mark.parametrize("member", MALFORMED)
def test_what_cannot_be_read_refuses_and_never_opens(member: Any) -> None:
    written = {**OPEN, **member} if isinstance(member, dict) else member

    with pytest.raises(Invalid, match="policy: "):
        read_policy(written)
    ruling = rule(written, "APPROVE", {}, {})
    assert (ruling.verdict, ruling.why) == (Verdict.REFUSED, Why.POLICY_INVALID)


@pytest.mark.parametrize(("listed", "direct", "human"), list(product((True, False), repeat=3)))
def test_every_combination_of_the_three_switches(listed: bool, direct: bool, human: bool) -> None:
    policy = {
        "allowedEvents": ["APPROVE"] if listed else [],
        "allowDirectEmit": direct,
        "requireHuman": human,
    }
    wanted = Verdict.REFUSED
    if listed:
        wanted = Verdict.EMITTED if direct and not human else Verdict.SUGGESTED

    assert rule(policy, "APPROVE", {}, {}).verdict is wanted


@pytest.mark.parametrize(
    "name", ["xstate.done.actor.x", "error.task.x", "done.task.x", "done.", "error.execution", "due.task.x"]
)
def test_the_engines_events_are_refused_even_where_a_policy_lists_them(name: str) -> None:
    assert rule({**OPEN, "allowedEvents": [name]}, name, {}, {}).why is Why.EVENT_RESERVED


@pytest.mark.parametrize("payload", [None, [], "text", 1, {"type": "PAY_OUT"}, {"source": {"type": "human"}}])
def test_payloads_that_are_none_or_say_what_the_engine_says(payload: Any) -> None:
    assert rule(OPEN, "APPROVE", payload, {}).why is Why.PAYLOAD_INVALID


def test_the_schema_of_an_event_bounds_its_payload() -> None:
    schemas = {
        "APPROVE": {
            "type": "object",
            "additionalProperties": False,
            "properties": {"type": True, "n": {"maximum": 5}},
        }
    }

    assert rule(OPEN, "APPROVE", {"n": 5}, schemas).verdict is Verdict.EMITTED
    for payload in ({"n": 6}, {"m": 1}):
        assert rule(OPEN, "APPROVE", payload, schemas).why is Why.PAYLOAD_INVALID
    for broken in ({"type": "nonsense"}, "text", {"$ref": "file:///etc/passwd"}):
        assert rule(OPEN, "APPROVE", {}, {"APPROVE": broken}).why is Why.PAYLOAD_INVALID


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("api.example.com", True),
        ("example.com", False),
        ("xapi.example.com", False),
        ("a.example.org", True),
        ("a.b.example.org", True),
        ("example.org", False),
        ("evilexample.org", False),
        ("operator.test", False),
    ],
)
def test_domains_are_exact_or_suffixes(host: str, allowed: bool) -> None:
    policy = read_policy({"allowedDomains": ["api.example.com", "*.example.org"]})

    assert policy.allows_host(host, frozenset({"operator.test"})) is allowed


def test_without_domains_the_operators_hosts_are_allowed() -> None:
    policy = read_policy({})

    assert policy.allows_host("operator.test", frozenset({"operator.test"}))
    assert not policy.allows_host("elsewhere.test", frozenset({"operator.test"}))
