"""Sealing: the values of secrets as they stand in the database, AES-256-GCM under a sub-key of `SIGNALBOX_SECRET`. Pure.

A sealed value is a random nonce of 96 bits and the ciphertext with its tag. Tenant and name are authenticated with it, so
that a row which was put into another's place does not open. Random nonces are safe for 2^32 values under one key.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from common.credentials import Secret, derive, read_secret
from common.errors import SignalboxError

NONCE_BYTES = 12


class Unopened(SignalboxError):
    """A sealed value that cannot be opened: sealed under a key that is not here, or not what was sealed."""

    code = "secret.unreadable"


@dataclass(frozen=True, slots=True)
class Sealed:
    """A value that nobody can read without the key whose short fingerprint is `key_id`."""

    key_id: str
    sealed: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class SealingKeys:
    """The key that seals, by its id, and all keys that open: it and those of older installation secrets."""

    current: str
    _keys: Mapping[str, bytes] = field(repr=False)

    @classmethod
    def of(cls, secret: Secret, older: Iterable[Secret] = ()) -> Self:
        """The keys of an installation's secret, and of `older` ones for opening only."""
        keys = [derive(one, "secrets") for one in (secret, *older)]
        return cls(fingerprint(keys[0]), {fingerprint(key): key for key in keys})

    @classmethod
    def read(cls, secret: str | None, older: str | None) -> Self:
        """From `SIGNALBOX_SECRET` and `SIGNALBOX_OLD_SECRETS` (separated by commas) as they are written.

        Raises `Misconfigured`.
        """
        written = [part.strip() for part in (older or "").split(",") if part.strip()]
        return cls.of(read_secret(secret), [read_secret(part, "SIGNALBOX_OLD_SECRETS") for part in written])

    def opens(self, key_id: str) -> bool:
        """Tell whether a key of this id is here, so that what was sealed under it can be opened."""
        return key_id in self._keys

    def seal(self, tenant_id: str, name: str, value: str) -> Sealed:
        """Seal the value of a tenant's secret; each time into other bytes."""
        nonce = os.urandom(NONCE_BYTES)
        cipher = AESGCM(self._keys[self.current])
        return Sealed(self.current, nonce + cipher.encrypt(nonce, value.encode(), _about(tenant_id, name)))

    def open(self, tenant_id: str, name: str, sealed: Sealed) -> str:
        """Open what was sealed for this tenant and name. Raises `Unopened`."""
        key = self._keys.get(sealed.key_id)
        if key is None:
            raise Unopened(
                f'secret "{name}" is sealed under the key {sealed.key_id}, and SIGNALBOX_SECRET is that of '
                f"{self.current}: name the older secret in SIGNALBOX_OLD_SECRETS, or set the secret again with "
                f"`signalbox secrets set {name}`"
            )
        nonce, text = sealed.sealed[:NONCE_BYTES], sealed.sealed[NONCE_BYTES:]
        try:
            return AESGCM(key).decrypt(nonce, text, _about(tenant_id, name)).decode()
        except (InvalidTag, ValueError):
            raise Unopened(
                f'what is stored as secret "{name}" was not sealed for it, or was changed: set it again with '
                f"`signalbox secrets set {name}`",
                code="secret.damaged",
            ) from None


def fingerprint(key: bytes) -> str:
    """A short name for a key, which tells nothing about it."""
    return blake2b(b"fingerprint", key=key, digest_size=8).hexdigest()


def _about(tenant_id: str, name: str) -> bytes:
    return f"{tenant_id}\0{name}".encode()  # neither can hold a NUL
