"""What a model may do: a task's `policy`, read strictly, and the ruling on a decision. Pure, and the same everywhere.

The task runner rules on the parsed answer of the model, and the step that takes the outcome rules again on the policy that
its own snapshot kept: whatever a runner says, nothing that a policy does not list becomes an event. What a policy does not
say is not allowed, and a policy that cannot be read allows nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from typing import Any

import re2

from common.canonical import dumps
from common.errors import Invalid
from common.event_names import is_reserved, is_well_formed
from common.schemas import compile_schema

MAX_TURNS = 8
MOST_TURNS = 50
MAX_LISTED = 200
ENGINES_MEMBERS = ("type", "source")
"""Members of an event that the engine writes; a payload has neither."""

Json = Any


class Verdict(StrEnum):
    """What became of the decision of a model."""

    EMITTED = "emitted"
    SUGGESTED = "suggested"  # a person has to accept it
    REFUSED = "refused"
    NONE = "none"  # the model decided nothing


class Why(StrEnum):
    """The reason of a verdict, to be compared with."""

    ALLOWED = "allowed"
    NEEDS_HUMAN = "needs_human"
    NO_DECISION = "no_decision"
    NO_POLICY = "no_policy"
    POLICY_INVALID = "policy_invalid"
    EVENT_NOT_ALLOWED = "event_not_allowed"
    EVENT_RESERVED = "event_reserved"
    PAYLOAD_INVALID = "payload_invalid"
    ANSWER_INVALID = "answer_invalid"
    RESULT_INVALID = "result_invalid"
    MODEL_NOT_ALLOWED = "model_not_allowed"
    DOMAIN_NOT_ALLOWED = "domain_not_allowed"
    PRICE_UNKNOWN = "price_unknown"
    OVER_TOKENS = "over_tokens"
    OVER_COST = "over_cost"
    OVER_TURNS = "over_turns"
    TOO_LARGE = "too_large"
    LIMIT = "limit"  # of events that AI tasks may emit in the life of an instance
    IS_PART = "is_part"  # of a POLL, which waits for results and not for decisions
    NOT_AWAITED = "not_awaited"  # nobody waits for the task any more
    OUTPUT_INVALID = "output_invalid"


@dataclass(frozen=True, slots=True)
class Ruling:
    """A verdict with its reason, and a sentence for people."""

    verdict: Verdict
    why: Why
    message: str


def refused(why: Why, message: str) -> Ruling:
    return Ruling(Verdict.REFUSED, why, message)


@dataclass(frozen=True, slots=True)
class Price:
    """What a million tokens cost, in whatever currency `maxCost` is in."""

    input: float
    output: float

    def of(self, input_tokens: int, output_tokens: int) -> float:
        return (self.input * input_tokens + self.output * output_tokens) / 1_000_000


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy that could be read. The defaults are those of a policy that says nothing: nothing is allowed.

    `models` and `domains` None: what the operator allows. `tools` None as a schema: the one of the handler itself.
    """

    is_given: bool = False
    events: frozenset[str] = frozenset()
    direct: bool = False
    needs_human: bool = False
    tools: Mapping[str, Json] = field(default_factory=dict)
    models: frozenset[str] | None = None
    domains: tuple[str, ...] | None = None
    max_tokens: int | None = None
    max_cost: float | None = None
    max_turns: int = MAX_TURNS
    prices: Mapping[str, Price] = field(default_factory=dict)
    redact: tuple[str, ...] = ()

    def allows_model(self, model: str) -> bool:
        return self.models is None or model in self.models

    def allows_host(self, host: str, by_default: frozenset[str]) -> bool:
        """May a host (lower case, without its port) be talked to? `by_default` are the operator's."""
        if self.domains is None:
            return host in by_default
        return any(_is_within(host, domain) for domain in self.domains)


def _is_within(host: str, domain: str) -> bool:
    return host.endswith(domain[1:]) if domain.startswith("*.") else host == domain


def policy_hash(policy: Json) -> str:
    """SHA-256 of a policy's canonical text, hex; of `null` where there is none."""
    return sha256(dumps(policy).encode()).hexdigest()


def read_policy(written: Json) -> Policy:
    """Read a policy. None allows nothing. Raises `Invalid` (`ai.policy`) for whatever is not one, member by member."""
    if written is None:
        return Policy()
    if not isinstance(written, Mapping):
        raise _wrong("expected an object")
    unknown = sorted(set(written).difference(_READERS))
    if unknown:
        raise _wrong(f"unknown member {unknown[0]!r:.80}; known are {', '.join(_READERS)}")
    read: dict[str, Any] = {}
    for name, (target, reader) in _READERS.items():
        if name in written:
            try:
                read[target] = reader(written[name])
            except (ValueError, Invalid) as error:
                raise _wrong(f"{name}: {error}") from None
    return Policy(is_given=True, **read)


def rule(written: Json, event: str, payload: Json, schemas: Mapping[str, Json]) -> Ruling:
    """Rule on a decision by the policy as it is written. `schemas` are those of the definition for its events."""
    try:
        policy = read_policy(written)
    except Invalid as error:
        return refused(Why.POLICY_INVALID, str(error))
    return rule_by(policy, event, payload, schemas)


def rule_by(policy: Policy, event: str, payload: Json, schemas: Mapping[str, Json]) -> Ruling:
    """Rule on a decision. Names are compared code point by code point: what looks like one that is listed is not."""
    if is_reserved(event):
        return refused(Why.EVENT_RESERVED, f"events of the engine are not for models: {event!r:.100}")
    if not policy.is_given:
        return refused(Why.NO_POLICY, "the task has no policy, so that it may emit nothing")
    if event not in policy.events:
        return refused(Why.EVENT_NOT_ALLOWED, f"the policy does not list {event!a:.100} in allowedEvents")
    wrong = _payload_problem(event, payload, schemas.get(event))
    if wrong is not None:
        return refused(Why.PAYLOAD_INVALID, f"payload: {wrong}")
    if policy.needs_human:
        return Ruling(Verdict.SUGGESTED, Why.NEEDS_HUMAN, "the policy has a person decide (requireHuman)")
    if not policy.direct:
        message = "the policy lists the event and does not let it be emitted at once (allowDirectEmit)"
        return Ruling(Verdict.SUGGESTED, Why.NEEDS_HUMAN, message)
    return Ruling(Verdict.EMITTED, Why.ALLOWED, "the policy lists the event and lets it be emitted at once")


def _payload_problem(event: str, payload: Json, schema: Json) -> str | None:
    if not isinstance(payload, Mapping):
        return "expected an object"
    for name in ENGINES_MEMBERS:
        if name in payload:
            return f'the member "{name}" is written by the engine'
    if schema is None:
        return None
    try:
        return compile_schema(schema).problem({**payload, "type": event})
    except Invalid as error:
        return f"the definition's schema cannot be used: {error}"


# -- reading -------------------------------------------------------------------------------------------------------


def _wrong(message: str) -> Invalid:
    return Invalid(f"policy: {message}", code="ai.policy", reason=message)


def _flag(value: Json) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"expected true or false, found {value!r:.80}")
    return value


def _texts(value: Json) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > MAX_LISTED:
        raise ValueError(f"expected a list of at most {MAX_LISTED} texts, found {value!r:.80}")
    for one in value:
        if not isinstance(one, str) or not 0 < len(one) <= 1_000:
            raise ValueError(f"expected texts of 1 to 1,000 characters, found {one!r:.80}")
    return tuple(value)


def _events(value: Json) -> frozenset[str]:
    names = _texts(value)
    for name in names:
        if not is_well_formed(name):
            raise ValueError(f"expected exact event types without wildcards, found {name!r:.80}")
    return frozenset(names)


def _domains(value: Json) -> tuple[str, ...]:
    names = _texts(value)
    for name in names:
        host = name.removeprefix("*.")
        if "*" in host or "/" in host or ":" in host or not host.isascii() or host != host.lower().strip("."):
            raise ValueError(
                f'expected hosts such as "api.example.com" or "*.example.com" in small letters, found {name!r:.80}'
            )
    return names


def _tools(value: Json) -> dict[str, Json]:
    if isinstance(value, list):
        return dict.fromkeys(_texts(value))
    if not isinstance(value, Mapping) or len(value) > MAX_LISTED:
        raise ValueError(f"expected names, or an object of names and JSON Schemas, found {value!r:.80}")
    for name, schema in value.items():
        try:
            compile_schema(schema)
        except Invalid as error:
            raise ValueError(f"{name!r:.80}: {error}") from None
    return dict(value)


def _whole(least: int, most: int) -> Any:
    def read(value: Json) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ValueError(f"expected a whole number from {least:,} to {most:,}, found {value!r:.80}")
        return value

    return read


def _amount(value: Json) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1e9:
        raise ValueError(f"expected an amount of 0 or more, found {value!r:.80}")
    return float(value)


def read_prices(value: Json) -> dict[str, Price]:
    """Read `{model: {"input": …, "output": …}}`, for a million tokens each. Raises `ValueError`."""
    if not isinstance(value, Mapping) or len(value) > MAX_LISTED:
        raise ValueError(f"expected an object of models and their prices, found {value!r:.80}")
    prices = {}
    for model, price in value.items():
        if not isinstance(price, Mapping) or set(price) != {"input", "output"}:
            raise ValueError(
                f'{model!r:.80}: expected {{"input": amount, "output": amount}} for a million tokens'
            )
        prices[str(model)] = Price(_amount(price["input"]), _amount(price["output"]))
    return prices


def _patterns(value: Json) -> tuple[str, ...]:
    """Regular expressions in RE2's syntax, which take linear time."""
    options = re2.Options()
    options.log_errors = False  # RE2 would write to standard error
    for pattern in _texts(value):
        try:
            re2.compile(pattern, options)
        except (re2.error, UnicodeEncodeError):
            raise ValueError(f"{pattern!r:.80} is not a regular expression of RE2") from None
    return tuple(value)


_READERS: Mapping[str, tuple[str, Any]] = {
    "allowedEvents": ("events", _events),
    "allowDirectEmit": ("direct", _flag),
    "requireHuman": ("needs_human", _flag),
    "allowedTools": ("tools", _tools),
    "allowedModels": ("models", lambda value: frozenset(_texts(value))),
    "allowedDomains": ("domains", _domains),
    "maxTokens": ("max_tokens", _whole(1, 1_000_000_000)),
    "maxCost": ("max_cost", _amount),
    "maxTurns": ("max_turns", _whole(1, MOST_TURNS)),
    "prices": ("prices", read_prices),
    "redact": ("redact", _patterns),
}
