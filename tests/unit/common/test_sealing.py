"""Sealed values: nobody opens them without the key, or in another's place."""

import pytest

from common.credentials import SECRET_BYTES, Secret, make_secret, read_secret
from common.errors import Misconfigured
from common.sealing import NONCE_BYTES, Sealed, SealingKeys, Unopened

OURS, OTHERS = Secret(b"o" * SECRET_BYTES), Secret(b"p" * SECRET_BYTES)
KEYS = SealingKeys.of(OURS)


@pytest.mark.parametrize("value", ["x", "sk_live_4711", "Grüße 🔑\n", "a" * 65_536])
def test_what_is_sealed_opens_for_the_same_tenant_and_name(value: str) -> None:
    sealed = KEYS.seal("tenant", "NAME", value)

    assert KEYS.open("tenant", "NAME", sealed) == value
    assert value.encode() not in sealed.sealed or len(value) == 1


def test_the_same_value_is_sealed_into_other_bytes_each_time() -> None:
    sealed = [KEYS.seal("tenant", "NAME", "value") for _ in range(100)]

    assert len({one.sealed[:NONCE_BYTES] for one in sealed}) == 100
    assert len({one.sealed[NONCE_BYTES:] for one in sealed}) == 100


@pytest.mark.parametrize(
    ("tenant", "name"), [("other", "NAME"), ("tenant", "OTHER"), ("tenan", "tNAME"), ("tenantN", "AME")]
)
def test_a_row_in_anothers_place_does_not_open(tenant: str, name: str) -> None:
    sealed = KEYS.seal("tenant", "NAME", "value")

    with pytest.raises(Unopened, match="was not sealed for it") as refused:
        KEYS.open(tenant, name, sealed)

    assert refused.value.code == "secret.damaged"


@pytest.mark.parametrize("position", [0, NONCE_BYTES, -1])
def test_a_changed_byte_does_not_open(position: int) -> None:
    sealed = KEYS.seal("tenant", "NAME", "value")
    changed = bytearray(sealed.sealed)
    changed[position] ^= 1

    with pytest.raises(Unopened, match="or was changed"):
        KEYS.open("tenant", "NAME", Sealed(sealed.key_id, bytes(changed)))


@pytest.mark.parametrize("rest", [b"", b"short", b"x" * NONCE_BYTES])
def test_what_is_too_short_to_be_sealed_does_not_open(rest: bytes) -> None:
    with pytest.raises(Unopened):
        KEYS.open("tenant", "NAME", Sealed(KEYS.current, rest))


def test_another_installations_secret_opens_nothing_and_says_what_to_do() -> None:
    sealed = KEYS.seal("tenant", "NAME", "value")

    with pytest.raises(Unopened, match="SIGNALBOX_OLD_SECRETS") as refused:
        SealingKeys.of(OTHERS).open("tenant", "NAME", sealed)

    assert refused.value.code == "secret.unreadable"
    assert KEYS.current in str(refused.value)


def test_older_secrets_open_and_never_seal() -> None:
    before = KEYS.seal("tenant", "NAME", "value")
    now = SealingKeys.of(OTHERS, [OURS])

    assert now.open("tenant", "NAME", before) == "value"
    assert now.seal("tenant", "NAME", "value").key_id == SealingKeys.of(OTHERS).current != before.key_id


def test_keys_are_read_as_they_are_written() -> None:
    first, second, third = make_secret(), make_secret(), make_secret()
    sealed = SealingKeys.read(third, None).seal("tenant", "NAME", "value")

    keys = SealingKeys.read(first, f" {second}, {third} ,")

    assert keys.current == SealingKeys.of(read_secret(first)).current
    assert keys.open("tenant", "NAME", sealed) == "value"


def test_settings_that_are_no_secrets_are_named() -> None:
    with pytest.raises(Misconfigured, match="SIGNALBOX_SECRET is not set"):
        SealingKeys.read(None, None)
    with pytest.raises(Misconfigured, match="SIGNALBOX_OLD_SECRETS is not base64"):
        SealingKeys.read(make_secret(), "a secret!")


def test_neither_keys_nor_sealed_values_show_themselves() -> None:
    sealed = KEYS.seal("tenant", "NAME", "value")

    assert repr(KEYS) == f"SealingKeys(current='{KEYS.current}')"
    assert repr(sealed) == f"Sealed(key_id='{KEYS.current}')"
