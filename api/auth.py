"""Who asks, and what may they do: bearer keys, roles, permissions.

Looking a key up costs a statement, so keys that were found good are remembered for `REMEMBERED_SECONDS` (never past
their expiry): a revoked key may live that much longer in a process that has just seen it. Only good keys are
remembered, at most `REMEMBERED_KEYS`, so that guesses cannot fill the memory. The hash is compared on every request.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from common.credentials import Principal, Secret, is_key, key_prefix
from common.db.tables import Role
from common.errors import Forbidden, Unauthorized
from common.store.keys import StoredKey

REMEMBERED_SECONDS = 5.0
REMEMBERED_KEYS = 1_000


class Permission(StrEnum):
    """What a route asks for."""

    READ = "read"
    OPERATE = "operate"  # start, send, control, complete
    DEFINE = "define"
    WORK = "work"  # claim and report tasks
    ANSWER = "answer"  # end a task: a person's by operating, a leased one by working
    ADMINISTER = "administer"


PERMISSIONS: Mapping[Role, frozenset[Permission]] = {
    Role.VIEWER: frozenset({Permission.READ}),
    Role.OPERATOR: frozenset({Permission.READ, Permission.OPERATE, Permission.ANSWER}),
    Role.AUTHOR: frozenset({Permission.READ, Permission.DEFINE}),
    Role.WORKER: frozenset({Permission.WORK, Permission.ANSWER}),
    Role.ADMIN: frozenset(Permission),
}


def roles_with(permission: Permission) -> list[Role]:
    """The roles that a permission comes with, in the order of `Role`."""
    return [role for role in Role if permission in PERMISSIONS[role]]


def require(principal: Principal, permission: Permission) -> None:
    """Raise `Forbidden` unless the principal's role comes with the permission."""
    if permission not in PERMISSIONS[Role(principal.role)]:
        roles = " or ".join(f'"{role}"' for role in roles_with(permission))
        raise Forbidden(f'this needs a key with the role {roles}; "{principal.name}" has "{principal.role}"')


@dataclass(frozen=True, slots=True)
class _Remembered:
    key: StoredKey
    until: float


class KeyRing:
    """Recognises API keys. `find` reads a usable key by its prefix; `monotonic` is this process's clock in seconds."""

    def __init__(
        self,
        secret: Secret,
        find: Callable[[str], StoredKey | None],
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._secret = secret
        self._find = find
        self._monotonic = monotonic
        self._remembered: dict[str, _Remembered] = {}
        self._turn = threading.Lock()

    def recognise(self, authorization: str | None) -> Principal:
        """The principal behind an `Authorization` header.

        Raises `Unauthorized`, in the same words whether the key is missing, misspelt, unknown, expired or revoked.
        """
        scheme, _, text = (authorization or "").partition(" ")
        text = text.strip()
        prefix = key_prefix(text) if scheme.lower() == "bearer" else None
        key = self._look_up(prefix) if prefix is not None else None
        if key is None or not is_key(self._secret, text, key.hash):
            raise Unauthorized('a valid API key is needed: "Authorization: Bearer sb_…"')
        return key.principal

    def _look_up(self, prefix: str) -> StoredKey | None:
        now = self._monotonic()
        known = self._remembered.get(prefix)
        if known is not None and known.until > now:
            return known.key
        key = self._find(prefix)
        with self._turn:
            self._remembered.pop(prefix, None)
            if key is not None:
                self._remembered[prefix] = _Remembered(key, now + _seconds(key))
            while len(self._remembered) > REMEMBERED_KEYS:
                del self._remembered[next(iter(self._remembered))]
        return key


def _seconds(key: StoredKey) -> float:
    return REMEMBERED_SECONDS if key.seconds_left is None else min(REMEMBERED_SECONDS, key.seconds_left)
