"""Signed links: what somebody may do once, with a link and without a key.

A link carries its whole action, signed under a sub-key of the installation's secret: tenant, instance, person, expiry, and
a task to complete or reject or an event to send. Nothing of it is stored before it is used. The token is not secret from
whom it names; it is everything that they need, so it is as good as what it allows. Pure: no I/O.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Literal

from itsdangerous import BadData, URLSafeSerializer

from common.canonical import dumps, read
from common.credentials import Secret, derive, read_secret
from common.errors import Invalid
from common.ids import InstanceId, TenantId
from common.people import PERSON

MAX_TOKEN = 2_048
MAX_PERSON = 200
PATH = "/links/"

Verb = Literal["complete", "reject", "send"]


@dataclass(frozen=True, slots=True)
class Link:
    """What a link does: `complete` (with `value` as the output) or `reject` (with it as the reason) a HUMAN task, or
    `send` it as an event.

    `task` is a task's id or, from a definition, the name of an open one. `nonce` makes the link one of its own: two with the
    same are one link, used once.
    """

    tenant_id: TenantId
    instance_id: InstanceId
    person: str
    verb: Verb
    value: Any
    nonce: str
    expires_at: datetime
    task: str | None = None

    @property
    def actor(self) -> str:
        """How the person of the link stands in the inbox and in the history."""
        return f"{PERSON}{self.person}"

    @property
    def digest(self) -> bytes:
        """Under what it is noted as used."""
        return sha256(dumps([self.instance_id, self.nonce]).encode()).digest()


@dataclass(frozen=True, slots=True)
class Links:
    """Writes and reads links. `base` is the address of the API as people reach it, without a slash at its end."""

    base: str | None
    _serializer: URLSafeSerializer = field(repr=False)

    @classmethod
    def of(cls, secret: Secret, base: str | None, *, older: Sequence[Secret] = ()) -> Links:
        """Links signed under `secret`; those that were signed under an `older` one are still read."""
        serializer = URLSafeSerializer(
            [derive(one, "links") for one in (*older, secret)],  # the last one signs
            salt=b"signalbox.link.1",
            serializer=_Canonical,
            signer_kwargs={"key_derivation": "hmac", "digest_method": sha256},
        )
        return cls(base.rstrip("/") if base else None, serializer)

    @classmethod
    def read_secrets(cls, written: str | None, older: str | None, base: str) -> Links:
        """From `SIGNALBOX_SECRET`, `SIGNALBOX_OLD_SECRETS` (separated by commas) and `SIGNALBOX_PUBLIC_URL` as they are written.

        Raises `Misconfigured`.
        """
        olds = [part.strip() for part in (older or "").split(",") if part.strip()]
        readable = [read_secret(part, "SIGNALBOX_OLD_SECRETS") for part in reversed(olds)]
        return cls.of(read_secret(written), base or None, older=readable)

    def url(self, link: Link) -> str:
        """The address of a link. Raises `Invalid` (`link.no_public_url`, `link.too_large`)."""
        if self.base is None:
            raise Invalid(
                "links need the address at which people reach the API; set SIGNALBOX_PUBLIC_URL",
                code="link.no_public_url",
            )
        return f"{self.base}{PATH}{self.token(link)}"

    def token(self, link: Link) -> str:
        """The signed text of a link. Raises `Invalid` (`link.too_large`) for more than an address should hold."""
        payload = {
            "e": int(link.expires_at.timestamp()),
            "i": link.instance_id,
            "n": link.nonce,
            "p": link.person,
            "t": link.tenant_id,
            "v": link.verb,
            "x": link.value,
            **({"k": link.task} if link.task is not None else {}),
        }
        token: str = self._serializer.dumps(payload)
        if len(token) > MAX_TOKEN:
            raise Invalid(
                f"the link would have {len(token):,} characters, at most {MAX_TOKEN:,} are allowed; "
                "let it carry less, and a definition the rest",
                code="link.too_large",
            )
        return token

    def read(self, token: str) -> Link | None:
        """The link behind a token, expired or not; None for everything that was not signed here."""
        if len(token) > MAX_TOKEN or not token.isascii():
            return None
        try:
            payload: Mapping[str, Any] = self._serializer.loads(token)
        except BadData:
            return None
        return Link(
            TenantId(payload["t"]),
            InstanceId(payload["i"]),
            payload["p"],
            payload["v"],
            payload["x"],
            payload["n"],
            datetime.fromtimestamp(payload["e"], UTC),
            payload.get("k"),
        )


class _Canonical:
    """How itsdangerous writes and reads a payload, before it signs and after it has checked the signature."""

    @staticmethod
    def dumps(value: Any) -> str:
        return dumps(value)

    @staticmethod
    def loads(text: str | bytes) -> Any:
        return read(text)


def person_name(text: str) -> str:
    """The person that a link is for, as it is written into it: an address. Raises `Invalid` (`link.invalid`)."""
    name = text.removeprefix(PERSON)
    if (
        not 0 < len(name) <= MAX_PERSON
        or name != name.strip()
        or not name.isprintable()
        or name.startswith("key:")
    ):
        raise Invalid(
            f"person: expected an address of 1 to {MAX_PERSON} printable characters", code="link.invalid"
        )
    return name
