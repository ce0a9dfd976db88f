"""Secrets and keys: what is accepted, what is refused, what is never shown."""

import base64

import pytest

from common.credentials import (
    Principal,
    derive,
    hash_key,
    is_key,
    key_prefix,
    make_key,
    make_secret,
    read_secret,
)
from common.errors import Misconfigured
from common.ids import TenantId

SECRET = read_secret(base64.b64encode(bytes(range(32))).decode())


def test_a_made_secret_is_one_that_can_be_read() -> None:
    assert len(read_secret(make_secret())) == 32
    assert make_secret() != make_secret()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "not set"),
        ("", "not set"),
        ("not base64!", "not base64"),
        (base64.b64encode(bytes(31)).decode(), "holds 31 bytes"),
        (base64.b64encode(bytes(64)).decode(), "holds 64 bytes"),
    ],
)
def test_a_secret_that_is_none_is_refused_in_one_line(text: str | None, said: str) -> None:
    with pytest.raises(Misconfigured, match=said) as refusal:
        read_secret(text)

    assert "SIGNALBOX_SECRET" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_each_purpose_has_a_sub_key_of_its_own() -> None:
    keys = [
        derive(SECRET, "keys"),
        derive(SECRET, "cursors"),
        derive(SECRET, "links"),
        derive(SECRET, "secrets"),
    ]

    assert len(set(keys)) == 4
    assert all(len(key) == 32 for key in keys)
    assert derive(SECRET, "keys") == keys[0]


def test_a_key_is_recognised_by_its_hash_and_by_no_other() -> None:
    key, other = make_key(SECRET), make_key(SECRET)

    assert is_key(SECRET, key.text, key.hash)
    assert not is_key(SECRET, other.text, key.hash)
    assert not is_key(read_secret(make_secret()), key.text, key.hash)
    assert hash_key(SECRET, key.text) == key.hash


def test_a_key_is_looked_up_by_its_prefix() -> None:
    key = make_key(SECRET)

    assert key_prefix(key.text) == key.prefix
    assert key.text.startswith(f"sb_{key.prefix}_")


@pytest.mark.parametrize(
    "text", ["", "sb_", "sb_abc_def", "SB_" + "a" * 65, "sb_aaaaaaaaaaaa_" + "a" * 51 + "\n"]
)
def test_what_cannot_be_a_key_has_no_prefix(text: str) -> None:
    assert key_prefix(text) is None


def test_the_text_of_a_key_is_not_in_its_repr() -> None:
    key = make_key(SECRET)

    assert key.text not in repr(key)


def test_a_principal_stands_in_the_history_as_its_key() -> None:
    assert Principal(TenantId("t"), "k", "deploy", "author").actor == "key:deploy"
