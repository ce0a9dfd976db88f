"""Credentials: the secret of an installation, sub-keys for its purposes, API keys, and who a key stands for.

`SIGNALBOX_SECRET` is 32 random bytes in base64. It is never used directly: each purpose has a sub-key of its own
(`derive`), so that a cursor can never be passed off as a key. An API key is 256 random bits, shown once; the database
holds its prefix for look-up and a keyed BLAKE2b of the whole. A slow hash is for passwords that people choose.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
import secrets
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal, NewType

from common.errors import Misconfigured
from common.ids import TenantId

Purpose = Literal["keys", "links", "secrets", "cursors", "answers"]
Secret = NewType("Secret", bytes)
"""The 32 bytes behind `SIGNALBOX_SECRET`."""

SECRET_BYTES = 32
_PREFIX_LETTERS, _TAIL_LETTERS = 12, 52
_KEY = re.compile(rf"sb_([a-z2-7]{{{_PREFIX_LETTERS}}})_[a-z2-7]{{{_TAIL_LETTERS}}}")


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is asking: one API key of one tenant. `role` is one of `common.db.tables.Role`."""

    tenant_id: TenantId
    key_id: str
    name: str
    role: str

    @property
    def actor(self) -> str:
        """How this principal stands in the inbox and in the history."""
        return f"key:{self.name}"


@dataclass(frozen=True, slots=True)
class FreshKey:
    """A key at the only moment at which it can be read. `text` goes to its owner, `prefix` and `hash` to the database."""

    text: str
    prefix: str
    hash: bytes

    def __repr__(self) -> str:
        return f"FreshKey(prefix={self.prefix!r})"


def make_secret() -> str:
    """Return a new `SIGNALBOX_SECRET`: 32 random bytes in base64."""
    return base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def read_secret(text: str | None, setting: str = "SIGNALBOX_SECRET") -> Secret:
    """Decode `SIGNALBOX_SECRET`, or what another `setting` holds of its kind.

    Raises `Misconfigured` when it is missing or is not 32 bytes of base64.
    """
    hint = "make one with `openssl rand -base64 32` (`signalbox up` makes its own)"
    if not text:
        raise Misconfigured(f"{setting} is not set: expected 32 random bytes in base64; {hint}")
    try:
        raw = base64.b64decode(text.strip(), validate=True)
    except binascii.Error as error:
        raise Misconfigured(f"{setting} is not base64: expected 32 random bytes; {hint}") from error
    if len(raw) != SECRET_BYTES:
        raise Misconfigured(f"{setting} holds {len(raw)} bytes, expected {SECRET_BYTES}; {hint}")
    return Secret(raw)


def derive(secret: Secret, purpose: Purpose) -> bytes:
    """Return the 32-byte sub-key for one purpose; knowing one tells nothing about another."""
    return blake2b(b"signalbox", key=secret, digest_size=32, person=purpose.encode()).digest()


def make_key(secret: Secret) -> FreshKey:
    """Return a new API key `sb_<prefix>_<256 random bits>`, in lowercase base32 so that a double click selects it."""
    prefix = _letters(secrets.token_bytes(8))[:_PREFIX_LETTERS]
    text = f"sb_{prefix}_{_letters(secrets.token_bytes(32))}"
    return FreshKey(text, prefix, hash_key(secret, text))


def key_prefix(text: str) -> str | None:
    """The prefix under which a presented key is looked up, or None when this cannot be a key of ours."""
    found = _KEY.fullmatch(text)
    return found[1] if found else None


def hash_key(secret: Secret, text: str) -> bytes:
    """The 32 bytes that the database holds of a key; worthless without the installation's secret."""
    return blake2b(text.encode(), key=derive(secret, "keys"), digest_size=32).digest()


def is_key(secret: Secret, text: str, stored_hash: bytes) -> bool:
    """Tell whether `text` is the key behind `stored_hash`, in time that does not depend on where they differ."""
    return hmac.compare_digest(hash_key(secret, text), stored_hash)


def _letters(raw: bytes) -> str:
    return base64.b32encode(raw).decode().rstrip("=").lower()
