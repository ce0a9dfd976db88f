"""Redaction: a hidden value is found in the forms that it takes, and nothing else is touched."""

import json
import string
import time
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable
from html import escape
from typing import Any
from urllib.parse import quote, quote_plus, unquote, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from task_runner.redact import LEAST, NOTHING_HIDDEN, Redaction
from tests.support.slowdown import assert_within

VALUE = 'p4$$ "wörd"/+\\ünd mehr'
SHOWN = "[secret KEY]"
HIDDEN = Redaction({SHOWN: VALUE})

_PLAIN = frozenset(string.ascii_letters + string.digits + " !#$%()*,-./:;=?@[]^_{|}~")


def as_dot_net_writes(value: str) -> str:
    """What is no plain letter by its numbers, in capitals (System.Text.Json)."""
    units = value.encode("utf-16-be")
    letters = [units[at : at + 2] for at in range(0, len(units), 2)]
    return "".join(
        chr(one[1]) if one[0] == 0 and chr(one[1]) in _PLAIN else f"\\u{one.hex().upper()}" for one in letters
    )


FORMS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "in JSON": json.dumps,
    "in JSON in UTF-8": lambda value: json.dumps(value, ensure_ascii=False),
    "in JSON within JSON": lambda value: json.dumps(json.dumps(value)),
    "in JSON in JSON in a dict": lambda value: repr({"x": json.dumps({"y": json.dumps(value)})}),
    "in a traceback of bytes": lambda value: repr(json.dumps(repr(value.encode()))),
    "in JSON of PHP": lambda value: json.dumps(value).replace("/", "\\/"),
    "as Python shows it": repr,
    "as Python shows its bytes": lambda value: repr(value.encode()),
    "in a query": lambda value: urlencode({"q": value}),
    "in a path": quote,
    "in a URL": lambda value: quote(value, safe=""),
    "in a URL in small letters": lambda value: quote(value, safe="").replace("%C3%B6", "%c3%b6").lower(),
    "in a form": quote_plus,
    "in JSON of .NET": as_dot_net_writes,
    "in JSON of Go in HTML": lambda value: escape(
        json.dumps(value, ensure_ascii=False).replace("+", "\\u002b")
    ),
    "in HTML": escape,
    "in HTML by numbers": lambda value: "".join(
        letter if letter in " mehr" else f"&#{ord(letter)};" for letter in value
    ),
    "in a URL as browsers write it": lambda value: quote(value, safe="$/+\\|^[]"),
    "in a URL in a URL": lambda value: quote(quote(value, safe=""), safe=""),
    "in a URL in JSON": lambda value: json.dumps(quote(value, safe="+$")).replace("+", "\\u002B"),
    "in a URL of a form that is read as none": lambda value: quote(unquote(quote_plus(value)), safe="/"),
    "in base64 of JSON": lambda value: b64encode(json.dumps({"a": value}).encode()).decode(),
    "in base64 of a URL": lambda value: b64encode(f"/find?q={quote(value, safe='')}".encode()).decode(),
    "in base64": lambda value: b64encode(value.encode()).decode(),
    "in base64 for URLs": lambda value: urlsafe_b64encode(value.encode()).decode(),
    "as the password of Basic": lambda value: b64encode(f"me:{value}".encode()).decode(),
    "as another password of Basic": lambda value: b64encode(f"you:{value}".encode()).decode(),
    "as a third password of Basic": lambda value: b64encode(f"them:{value}".encode()).decode(),
    "as the user of Basic": lambda value: b64encode(f"{value}:pass".encode()).decode(),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_value_is_found(form: str) -> None:
    written = FORMS[form](VALUE if "small" not in form else VALUE.lower())
    hidden = HIDDEN if "small" not in form else Redaction({SHOWN: VALUE.lower()})

    shown = hidden.text(f"before {written} after")

    assert SHOWN in shown
    assert shown.startswith("before ")
    assert shown.endswith(" after")
    assert len(shown) < len("before  after") + len(SHOWN) + 40, "hardly more than the marker is left of it"
    assert "mehr" not in shown


@given(st.text(min_size=LEAST), st.text(), st.text())
def test_no_value_stays_whatever_it_is_and_wherever_it_stands(value: str, before: str, after: str) -> None:
    hidden = Redaction({"*": value})

    assert value not in hidden.text(before + value + after).replace("*", "\0") or value in "\0"


@given(st.text(max_size=200))
def test_a_text_without_the_value_stays_as_it_is(text: str) -> None:
    assert Redaction({SHOWN: "a value that hypothesis does not think of"}).text(text) == text


def test_every_line_of_a_key_is_a_secret() -> None:
    hidden = Redaction(
        {SHOWN: "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w0B\nQUFBQUFBQUFBQUFB\n-----END KEY-----\n"}
    )

    assert hidden.text("MIIEvQIBADANBgkqhkiG9w0B") == SHOWN
    assert hidden.text("sent QUFBQUFBQUFBQUFB\r\n") == f"sent {SHOWN}\r\n"


@pytest.mark.parametrize(
    "form",
    [
        "https://hooks.example.com/services/T0001/B0001/s3cret-of-the-path",
        "https://hooks.example.com/services/T0001/B0001/s3cret-of-the-path/",
        "/services/T0001/B0001/s3cret-of-the-path",
        "http://elsewhere.example/services/T0001/B0001/s3cret-of-the-path?x",
        "sig=0123456789%2Babcdef0123456789",
        "0123456789%2Babcdef0123456789",
        "0123456789+abcdef0123456789",
    ],
)
def test_a_url_is_found_as_clients_write_it_and_in_its_long_parts(form: str) -> None:
    url = "HTTPS://Hooks.Example.com:443/services/T0001/B0001/s3cret-of-the-path?v=1&sig=0123456789%2Babcdef0123456789#top"

    shown = Redaction({SHOWN: url}).text(f"before {form} after")

    assert SHOWN in shown
    assert not [part for part in ("s3cret", "0123456789", "abcdef") if part in shown]


def test_the_name_of_a_host_is_found_in_small_letters() -> None:
    assert (
        Redaction({SHOWN: "Tenant-Of-Somebody"}).text('"tenant-of-somebody.example"') == f'"{SHOWN}.example"'
    )


@pytest.mark.parametrize("text", ["v is 1", "the host is hooks.example.com", "tls on port 443"])
def test_short_parts_of_a_url_are_no_secrets(text: str) -> None:
    assert Redaction({SHOWN: "https://hooks.example.com:443/a/b?v=1"}).text(text) == text


def test_a_value_within_another_does_not_spoil_it() -> None:
    hidden = Redaction({"[A]": "abcd", "[B]": "xxabcdyy", "[C]": "[A]["})

    assert hidden.text("1 xxabcdyy 2 abcd 3") == "1 [B] 2 [A] 3"


@pytest.mark.parametrize("value", ["\\" * 4, "\\" * 3 + "a", '\\"' * 2])
def test_a_value_of_backslashes_is_found_and_nothing_else(value: str) -> None:
    hidden = Redaction({SHOWN: value})
    other = 'a \\\\ \\" b'

    assert hidden.text(f"a {value} b") == f"a {SHOWN} b"
    assert hidden.text(other) == other


def test_short_values_are_not_looked_for() -> None:
    hidden = Redaction({SHOWN: "abc"})

    assert not hidden
    assert hidden.text("abc") == "abc"


def test_values_are_found_in_names_numbers_and_deep_within() -> None:
    hidden = Redaction({SHOWN: "4711"})

    assert hidden.json({"a 4711": [1, True, None, 4711, {"b": (-47.11, 14711)}]}) == {
        f"a {SHOWN}": [1, True, None, SHOWN, {"b": [-47.11, f"1{SHOWN}"]}]
    }


def test_nothing_hidden_changes_nothing() -> None:
    value: Any = {"a": [1, "two"]}

    assert NOTHING_HIDDEN.json(value) is value
    assert not NOTHING_HIDDEN


def test_half_a_value_at_the_end_of_a_cut_text_goes_too() -> None:
    hidden = Redaction({SHOWN: "sk_live_0123456789abcdef"})

    assert hidden.cut_text("the key is sk_live_0123456", 100) == f"the key is {SHOWN}"
    assert hidden.cut_text("the key is sk_l", 100) == f"the key is {SHOWN}"
    assert (
        HIDDEN.cut_text(f"the key is {json.dumps(json.dumps(VALUE))}"[:35], 100) == f'the key is "\\"{SHOWN}'
    )
    assert hidden.cut_text("a task", 100) == "a task"
    assert hidden.cut_text("sk_live_0123456789abcdef and more", 20) == f"{SHOWN} and mor"


@pytest.mark.parametrize(
    "cut", ["p4$$ \\u0022w\\u00F", "p4$$ &quot;w&#246;rd&qu", "p4%24$ %22w%C3%B6rd%", "p4%24$ %22w%C3"]
)
def test_half_an_escaped_value_at_the_end_of_a_cut_text_goes_too(cut: str) -> None:
    assert HIDDEN.cut_text(f"the key is {cut}", 100) == f"the key is {SHOWN}"


@given(
    st.text(st.characters(exclude_characters="\\", exclude_categories=["Cs"]), min_size=LEAST),
    st.integers(1, 3),
    st.sampled_from(["in HTML", "in JSON of .NET", "in a URL"]),
)
def test_no_value_stays_however_deep_it_is_escaped(value: str, deep: int, form: str) -> None:
    written = value
    for _ in range(deep):
        written = FORMS[form](written)

    shown = Redaction({"*": value}).text(f"[{written}]")
    # A value that ends in "&" begins "…&amp;" as it is; the rest of the escape tells nothing.
    assert shown == "[*]" or (value in written and value not in shown.replace("*", "\0"))


def test_large_texts_are_searched_in_no_time() -> None:
    hidden = Redaction({f"[{number}]": f"{number:064x}" * 1_000 for number in range(10)})
    text = "0" * 16_000 + "x"
    began = time.process_time()

    assert hidden.cut_text(text, 100) == text[:100]
    for letters in ("y", "\\a", "%41", "&amp;amp;", "\\", "%25"):
        assert hidden.text(letters * 200_000) == letters * 200_000
    assert_within(time.process_time() - began, 5, clock=time.process_time)
