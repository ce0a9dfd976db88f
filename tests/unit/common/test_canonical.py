"""The doors of JSON: what may come in, what is refused and with which words, and that what is in stays what it is."""

import json
import math
from collections import OrderedDict
from datetime import UTC, datetime
from enum import IntEnum, StrEnum
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.canonical import MAX_INTEGER, clean, dumps, loads, read
from common.errors import Invalid, LimitExceeded

ROOM = 10_000


def test_bytes_become_values() -> None:
    assert loads(b' {"a": [1, 2.5, true, null, "\xc3\xa9"]} ', max_bytes=ROOM) == {
        "a": [1, 2.5, True, None, "é"]
    }


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b'{"a": 1, "a": 2}', 'duplicate key "a"'),
        (b'{"x": {"a": 1, "b": 2, "a": 1}}', 'duplicate key "a"'),
        (b"[NaN]", "NaN is not JSON"),
        (b"[Infinity]", "Infinity is not JSON"),
        (b"[-Infinity]", "-Infinity is not JSON"),
        (b"[1e400]", "number too large"),
        (b"[-1e400]", "number too large"),
        (b'["a\\u0000b"]', "NUL"),
        (b'{"a\\u0000": 1}', "NUL"),
        (b'["\\ud800"]', "lone surrogate"),
        (b'["\\udc00\\ud800"]', "lone surrogate"),
        (b'{"\\ud800": 1}', "lone surrogate"),
        (b"9007199254740993", "beyond"),
        (b"-9007199254740993", "beyond"),
        (b"1" * 5_000, "beyond"),
        (b'["\xff"]', "not UTF-8"),
        (b'["\xed\xa0\x80"]', "not UTF-8"),
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[1,]", "not JSON"),
        (b"{'a': 1}", "not JSON"),
        (b"[01]", "not JSON"),
        (b"[1] 2", "not JSON"),
        (b'["tab\there"]', "not JSON"),
        (b"\xef\xbb\xbf[]", "not JSON"),
        (b"undefined", "not JSON"),
    ],
)
def test_what_is_not_strict_json_is_refused(raw: bytes, said: str) -> None:
    with pytest.raises(Invalid, match=said) as refused:
        loads(raw, max_bytes=ROOM)
    assert refused.value.code == "json.invalid"


@pytest.mark.parametrize(
    "raw", [b'{"\\ud800": 1, "\\ud800": 2}', b'{"a\\u0000": 1, "a\\u0000": 2}', b'["\\ud800"]']
)
def test_a_refusal_can_itself_be_told(raw: bytes) -> None:
    with pytest.raises(Invalid) as refused:
        loads(raw, max_bytes=ROOM)
    assert "\x00" not in refused.value.message
    refused.value.message.encode("utf-8")


@pytest.mark.parametrize(
    "raw", [b"9007199254740992", b"-9007199254740992", b'"\\ud83d\\ude00"', b"1e15", b"-0"]
)
def test_what_is_just_inside_is_taken(raw: bytes) -> None:
    assert loads(raw, max_bytes=ROOM) == json.loads(raw)


def test_the_size_is_counted_in_bytes_and_names_its_limit() -> None:
    assert loads('"éé"', max_bytes=6) == "éé"
    for raw in ('"éé"', '"éé"'.encode()):
        with pytest.raises(LimitExceeded, match="6 bytes of JSON, at most 5") as refused:
            loads(raw, max_bytes=5, limit="max_event_bytes")
        assert refused.value.fields == {"limit": "max_event_bytes", "allowed": 5}


@pytest.mark.parametrize("levels", [65, 1_000, 4_000])
def test_deeper_than_the_limit_is_refused_however_deep(levels: int) -> None:
    with pytest.raises(LimitExceeded, match="deeper than 64") as refused:
        loads(b"[" * levels + b"]" * levels, max_bytes=ROOM)
    assert refused.value.fields["limit"] == "max_json_depth"


def test_as_deep_as_the_limit_is_taken() -> None:
    raw = b"[" * 64 + b"]" * 64
    assert dumps(loads(raw, max_bytes=ROOM)).encode() == raw


def test_more_members_than_the_limit_are_refused() -> None:
    with pytest.raises(LimitExceeded, match="more than 3 members") as refused:
        clean([1, [2, 3]], max_members=3)
    assert refused.value.fields["limit"] == "max_json_members"
    assert clean([1, [2]], max_members=3) == [1, [2]]


class Colour(StrEnum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


def test_python_values_become_plain_json() -> None:
    given_ = OrderedDict(tuple_=(1, (2,)), whole=3.0, colour=Colour.RED, level=Level.HIGH, no=None, yes=True)

    cleaned = clean(given_)

    assert cleaned == {"tuple_": [1, [2]], "whole": 3, "colour": "red", "level": 3, "no": None, "yes": True}
    assert [type(value) for value in cleaned.values()] == [list, int, str, int, type(None), bool]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({1: "a"}, "object keys are text, found 1"),
        ({"a": {None: 1}}, "a: object keys are text"),
        ({"a": [0, {"b": "\x00"}]}, r"a\.1\.b: text contains NUL"),
        ({"a": "\ud800"}, "a: text contains a lone surrogate"),
        ({"a": "é\x00"}, "NUL"),
        ([math.nan], "nan is not a JSON number"),
        ([math.inf], "inf is not a JSON number"),
        (2**53 + 1, "integer beyond"),
        (-(2**53) - 1, "integer beyond"),
        ({1, 2}, 'type "set" is not JSON'),
        (b"bytes", 'type "bytes"'),
        (datetime(2026, 1, 1, tzinfo=UTC), 'type "datetime"'),
        (object(), 'type "object"'),
        (complex(1, 2), 'type "complex"'),
    ],
)
def test_values_that_are_not_json_are_refused_with_their_path(value: Any, said: str) -> None:
    with pytest.raises(Invalid, match=said) as refused:
        clean(value)
    assert refused.value.code == "json.invalid"


def test_a_value_that_holds_itself_is_too_deep() -> None:
    knot: list[Any] = []
    knot.append(knot)
    with pytest.raises(LimitExceeded, match="deeper"):
        clean(knot)


def test_canonical_text_has_sorted_keys_and_no_spaces() -> None:
    assert (
        dumps({"b": [1, 2.5, "é"], "a": {"d": None, "c": True}})
        == '{"a":{"c":true,"d":null},"b":[1,2.5,"é"]}'
    )


@pytest.mark.parametrize(
    "value", [2**53 + 1, {"a": "\x00"}, {"\x00": 1}, "\ud800", {1: 2}, object(), b"x", {1, 2}]
)
def test_what_came_through_no_door_is_refused_when_it_is_stored(value: Any) -> None:
    with pytest.raises(Invalid) as refused:
        dumps(value)
    assert refused.value.code == "json.invalid"


@pytest.mark.parametrize("number", [2**53, -(2**53)])
def test_the_largest_integers_that_a_door_lets_in_can_be_stored(number: int) -> None:
    assert dumps({"a": [loads(str(number), max_bytes=ROOM)]}) == f'{{"a":[{number}]}}'


def test_text_that_only_looks_like_an_escaped_nul_is_stored_as_it_is() -> None:
    value: Any = "\\u0000"
    for _ in range(80):  # deeper than a door allows: a snapshot stands around what came through one
        value = [value]
    assert read(dumps(value)) == value


_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=8)
_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-MAX_INTEGER, MAX_INTEGER)
    | st.floats(allow_nan=False, allow_infinity=False)
    | _TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=300, deadline=None)
@given(_JSON)
def test_canonical_text_is_stable_and_loses_nothing(value: Any) -> None:
    through = loads(json.dumps(value), max_bytes=100_000)

    text = dumps(through)

    assert through == value
    assert read(text) == through
    assert dumps(read(text)) == text
    assert dumps(clean(value)) == text
    assert dumps(clean(read(text))) == text


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(_TEXT, st.integers(0, 9), max_size=8), st.randoms())
def test_the_order_of_keys_does_not_matter(value: dict[str, int], random: Any) -> None:
    shuffled = list(value.items())
    random.shuffle(shuffled)
    assert dumps(dict(shuffled)) == dumps(value)
