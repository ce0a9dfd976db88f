"""One transaction a command, and the promises around it: idempotency keys before, waiting after.

Order in the transaction: the idempotency row is claimed first (a second request with the key waits here), the handler
works, the answer is kept, then the commit. A refusal rolls everything back, the claim included: nothing is stored, and
the same key may be tried again. A refusal that itself is kept, for the history of who tried what, comes as an `Answer`
with a `refusal`: it commits without the claim, and is raised then. Doorbells ring after the commit, from the database's
listeners.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TypeVar

import orjson
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from api.operations import JSON, Answer, Follow
from api.shapes import instance_json
from api.waiting import Waiter
from common import faults
from common.db.now import read_now
from common.db.tenants import Tenants
from common.errors import Invalid
from common.ids import TenantId
from common.sealing import Sealed, SealingKeys
from common.store.idempotency import IdempotencyKey, KeptAnswer, claim, forget, keep

T = TypeVar("T")
KEY_LIFETIME = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class Sent:
    """An answer as bytes, on its way to the caller."""

    payload: bytes
    status: int
    headers: Mapping[str, str]
    media_type: str = JSON


@dataclass(frozen=True, slots=True)
class Command:
    """A POST of a tenant that has been read and checked. `handle` runs in a transaction, more than once if that was a deadlock victim.

    `alone` may do the same without a transaction; None, with nothing done, where it may not.
    `wait`: the seconds to wait for the instance that the answer is about, None not to. `was_asked` tells that the
    caller asked for it, and is to be told that it was done. `seals_answer`: who reads the answer can act by it.
    """

    tenant_id: TenantId
    handle: Callable[[Connection], Answer]
    key: IdempotencyKey | None
    alone: Callable[[Connection], Answer | None] | None = None
    wait: float | None = None
    was_asked: bool = False
    seals_answer: bool = False


class Transactions:
    """Runs what was read and checked, on one database, in sessions of the tenant whose it is."""

    def __init__(self, tenants: Tenants, waiter: Waiter, sealing_keys: SealingKeys) -> None:
        self._tenants = tenants
        self._waiter = waiter
        self._sealing_keys = sealing_keys

    def read(
        self,
        tenant_id: TenantId,
        handle: Callable[[Connection], Answer],
        alone: Callable[[Connection], Answer | None] | None = None,
    ) -> Sent:
        """Answer from one reading transaction, or from what `alone` reads."""
        answer = self._try_alone(tenant_id, alone)
        if answer is not None:
            return send(answer)
        with self._tenants.of(tenant_id).reading() as tx:
            return send(handle(tx))

    def calculate(self, command: Command) -> Sent:
        """Answer a POST that stores nothing; with a key, the first answer is kept and given again."""
        with self._tenants.of(command.tenant_id).reading() as tx:
            answer = command.handle(tx)
        if command.key is None:
            return send(answer)
        return self.command(replace(command, handle=lambda _tx: answer))

    def command(self, command: Command) -> Sent:
        """Run a command in a transaction of its own, then wait for what it set in motion, where that is wanted."""
        alone = None if command.key else command.alone
        done: Answer | KeptAnswer | None = self._try_alone(command.tenant_id, alone)
        if done is None:
            done = self._tenants.of(command.tenant_id).run(lambda tx: self._once(tx, command))
        faults.hit("after_accept_commit")
        if isinstance(done, KeptAnswer):
            return self._replay(done, command)
        if done.refusal is not None:
            raise done.refusal
        sent = send(done)
        if command.wait is not None and done.follow is not None:
            sent = self._settle(command, done.follow, sent)
        return sent

    def run(self, tenant_id: TenantId, work: Callable[[Connection], T]) -> T:
        """Run something of a tenant in a transaction of its own."""
        return self._tenants.of(tenant_id).run(work)

    def _try_alone(
        self, tenant_id: TenantId, handle: Callable[[Connection], Answer | None] | None
    ) -> Answer | None:
        if handle is None or self._tenants.is_sqlite:
            return None
        try:
            with self._tenants.of(tenant_id).each_alone() as tx:
                return handle(tx)
        except IntegrityError:
            return None  # what it points at was deleted in between: in a transaction it is told so

    def _settle(self, command: Command, follow: Follow, sent: Sent) -> Sent:
        seconds = command.wait or 0.0
        waited = self._waiter.wait(follow.tenant_id, follow.instance_id, seconds)
        if not (waited.has_settled or waited.has_waited):
            return sent
        status = follow.settled_status if waited.has_settled else follow.unsettled_status
        headers = dict(sent.headers)
        if command.was_asked and waited.has_waited:
            headers["Preference-Applied"] = f"wait={seconds:g}"
        later = send(Answer(instance_json(waited.record), status, headers))
        if command.key is not None:
            self._keep(command.key, later, follow.instance_id)
        return later

    def _keep(self, key: IdempotencyKey, sent: Sent, instance_id: str) -> None:
        """A repeat of the request is to get the answer that was given, not the one from before the wait."""
        kept = _kept_text(sent)
        self._tenants.of(key.tenant_id).run(
            lambda tx: keep(tx, key, status=sent.status, answer=kept, instance_id=instance_id)
        )

    def _once(self, tx: Connection, command: Command) -> Answer | KeptAnswer:
        key = command.key
        if key is None:
            return command.handle(tx)
        now = read_now(tx)
        kept = claim(tx, key, now=now, expires_at=now + KEY_LIFETIME)
        if kept is not None:
            return kept
        answer = command.handle(tx)
        if answer.refusal is not None:
            forget(tx, key)
            return answer
        about = None if answer.follow is None else answer.follow.instance_id
        text = _kept_text(send(answer))
        if command.seals_answer:
            text = self._sealed(key, text)
        keep(tx, key, status=answer.status, answer=text, instance_id=about)
        return answer

    def _sealed(self, key: IdempotencyKey, text: str) -> str:
        sealed = self._sealing_keys.seal(key.tenant_id, _sealed_name(key), text)
        kept = {"keyId": sealed.key_id, "sealed": base64.b64encode(sealed.sealed).decode()}
        return orjson.dumps(kept).decode()

    def _replay(self, kept: KeptAnswer, command: Command) -> Sent:
        if not kept.is_same_request:
            raise Invalid(
                "this Idempotency-Key came with another request before; a new request needs a new key",
                code="idempotency.key_reused",
            )
        stored = orjson.loads(kept.answer)
        key = command.key
        if "sealed" in stored and key is not None:
            sealed = Sealed(stored["keyId"], base64.b64decode(stored["sealed"]))
            stored = orjson.loads(self._sealing_keys.open(key.tenant_id, _sealed_name(key), sealed))
        headers = {**stored["headers"], "Idempotency-Replayed": "true"}
        return Sent(orjson.dumps(stored["body"]), kept.status, headers)


def _sealed_name(key: IdempotencyKey) -> str:
    """What a kept answer is sealed for; no secret can have such a name."""
    return f"answer:{key.principal}:{key.key}"


def send(answer: Answer) -> Sent:
    """An answer as bytes. Stored JSON comes as `orjson.Fragment` and goes out as it is."""
    payload = answer.body if isinstance(answer.body, bytes) else orjson.dumps(answer.body)
    return Sent(payload, answer.status, answer.headers, answer.media_type)


def _kept_text(sent: Sent) -> str:
    kept = {"body": orjson.Fragment(sent.payload), "headers": dict(sent.headers)}
    return orjson.dumps(kept).decode()
