"""A model's last answer, read strictly: one JSON object of known members, or plain text. Pure.

Nothing is looked for inside of prose, no fence is peeled off, and nothing is made of an answer that is nearly right:
whoever takes what he can find in a text takes what somebody else has put there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from common.ai_policy import Why
from common.canonical import loads, storable
from common.errors import SignalboxError
from common.schemas import compile_schema

MAX_ANSWER = 200_000
"""Bytes of an answer that is read as JSON."""
MAX_REASON = 2_000
MAX_EVENT = 1_000
_DECISION = ("event", "payload", "reason", "confidence")
# Control characters, and what turns the direction of text: a reason is shown to people, on terminals too.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")

Json = Any


@dataclass(frozen=True, slots=True)
class Parsed:
    """What an answer says. `why` stands where it cannot be used, with a sentence; `decision` where it names an event."""

    decision: dict[str, Json] | None = None
    result: Json = None
    reason: str = ""
    why: Why | None = None
    message: str = ""


def parse(text: str, *, decides: bool, schema: Json) -> Parsed:
    """Read the text of an answer.

    `decides`: the model was told that it may name an event, and answers with {event, payload, reason, confidence}, with
    `schema` also {result}. Else the answer is the result, or text where there is no `schema`; but a text that
    names an event all the same is read as that, so that it is refused on record.
    """
    if decides:
        return _decision(text, schema)
    if schema is not None:
        parsed = _result(text, schema)
        named = parsed if parsed.why is None else _names_event(text)
        return named or parsed
    return _names_event(text) or Parsed()


def _names_event(text: str) -> Parsed | None:
    if not text.lstrip().startswith("{"):
        return None
    value = _read(text)
    if isinstance(value, Mapping) and value.get("event") is not None:
        return _decision(text, None)
    return None


def _read(text: str) -> Json:
    try:
        return loads(text, max_bytes=MAX_ANSWER, limit="answer")
    except SignalboxError:
        return None


def _result(text: str, schema: Json) -> Parsed:
    try:
        value = loads(text, max_bytes=MAX_ANSWER, limit="answer")
    except SignalboxError as error:
        return Parsed(why=Why.RESULT_INVALID, message=f"expected JSON and nothing else: {_said(error)}")
    return _checked(value, schema) or Parsed(result=value)


def _checked(result: Json, schema: Json) -> Parsed | None:
    wrong = compile_schema(schema).problem(result)
    return None if wrong is None else Parsed(why=Why.RESULT_INVALID, message=storable(f"result: {wrong}"))


def _decision(text: str, schema: Json) -> Parsed:
    try:
        value = loads(text, max_bytes=MAX_ANSWER, limit="answer")
    except SignalboxError as error:
        return _invalid(f"expected one JSON object and nothing else: {_said(error)}")
    if not isinstance(value, dict):
        return _invalid("expected one JSON object")
    known = _DECISION if schema is None else (*_DECISION, "result")
    unknown = sorted(set(value).difference(known))
    if unknown:
        return _invalid(f"unknown member {unknown[0]!a:.100}; known are {', '.join(known)}")
    if "event" not in value:
        return _invalid('expected a member "event", a name or null')
    wrong = _wrong_member(value)
    if wrong is not None:
        return _invalid(wrong)
    result = value.get("result")
    if schema is not None:
        refused = _checked(result, schema)
        if refused is not None:
            return refused
    reason = _UNSEEN.sub("�", value.get("reason") or "")[:MAX_REASON]
    if value["event"] is None:
        return Parsed(result=result, reason=reason)
    decision = {
        "event": value["event"],
        "payload": value.get("payload") or {},
        "reason": reason,
        "confidence": value.get("confidence"),
    }
    return Parsed(decision, result, reason)


def _wrong_member(value: Mapping[str, Json]) -> str | None:
    event, confidence = value["event"], value.get("confidence")
    if event is not None and (not isinstance(event, str) or not 0 < len(event) <= MAX_EVENT):
        return f"event: expected a name or null, found {event!a:.100}"
    if not isinstance(value.get("payload"), dict | None):
        return f"payload: expected an object, found {value['payload']!a:.100}"
    if not isinstance(value.get("reason"), str | None):
        return f"reason: expected text, found {value['reason']!a:.100}"
    if confidence is None:
        return None
    if isinstance(confidence, bool) or not isinstance(confidence, int | float) or not 0 <= confidence <= 1:
        return f"confidence: expected a number from 0 to 1, found {confidence!a:.100}"
    return None


def _invalid(message: str) -> Parsed:
    return Parsed(why=Why.ANSWER_INVALID, message=message)


def _said(error: SignalboxError) -> str:
    return str(error).removeprefix("body is not JSON: ")[:300]
