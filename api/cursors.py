"""Cursors: opaque, signed positions in a list.

A cursor is good for the tenant, the list and the filters that it was made for, and for nothing else: the signature
covers all of them, so a cursor can neither be made by hand nor carried to another tenant.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

from common.canonical import dumps, read
from common.credentials import Secret, derive
from common.errors import Invalid
from common.ids import TenantId

_SIGNATURE_BYTES = 16
_LONGEST = 1_000

Position = Sequence[str | int]


@dataclass(frozen=True, slots=True)
class ListName:
    """Which list a cursor belongs to: the address with its filters, without `limit` and `cursor`."""

    tenant_id: TenantId
    address: str


@dataclass(frozen=True, slots=True)
class Cursors:
    """Makes and reads cursors with the sub-key of their purpose."""

    key: bytes = field(repr=False)

    @classmethod
    def of(cls, secret: Secret) -> Cursors:
        return cls(derive(secret, "cursors"))

    def write(self, name: ListName, position: Position) -> str:
        """The cursor that goes on after `position`."""
        payload = dumps(list(position)).encode()
        return base64.urlsafe_b64encode(self._sign(name, payload) + payload).decode().rstrip("=")

    def read(self, name: ListName, cursor: str | None) -> Position | None:
        """The position behind a cursor, or None without one. Raises `Invalid` (`cursor.invalid`) for any other text."""
        if cursor is None:
            return None
        raw = _decode(cursor)
        signature, payload = raw[:_SIGNATURE_BYTES], raw[_SIGNATURE_BYTES:]
        if not payload or not hmac.compare_digest(signature, self._sign(name, payload)):
            raise _refused()
        position: Position = read(payload)
        return position

    def _sign(self, name: ListName, payload: bytes) -> bytes:
        signed = dumps([name.tenant_id, name.address]).encode() + b"\0" + payload
        return blake2b(signed, key=self.key, digest_size=_SIGNATURE_BYTES).digest()


def _decode(cursor: str) -> bytes:
    if len(cursor) > _LONGEST or not cursor.isascii():
        raise _refused()
    try:
        return base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise _refused() from error


def _refused() -> Invalid:
    return Invalid(
        'this cursor is not one that this list gave out; pass on "nextCursor" unchanged, with the same filters',
        code="cursor.invalid",
    )
