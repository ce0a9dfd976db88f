"""Answers: a runner tells the process that leased it a task how that ended, and the step that goes on from it writes both.

Without it, the runner's own transaction ends the task and puts a row into the inbox, which the step deletes: a commit and a row for
every task, between two steps that follow each other. What is told is no truth yet. The runner holds its lease until the step's
process says with a receipt that it is stored, and stores the outcome by itself where no receipt comes in time, or nobody
hears. Whichever commits first ends the task, under its lease token; the other finds that it does not hold any more.

An answer carries what a handler returned, where calls carry hints else. So it is sealed under a sub-key of `SIGNALBOX_SECRET`: who
reaches the broker can neither read one nor make one, and one that is played again finds its lease gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Self

import orjson
import structlog
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from common.config import Settings
from common.credentials import derive, read_secret
from common.ids import InstanceId, LeaseToken, TaskId, TenantId, WorkerId
from common.randomness import random_bytes
from common.sealing import NONCE_BYTES, fingerprint
from common.store.leased import KnownEnd
from statechart.record import record

ANSWER_BYTES = 16_384
"""Of output and event; what is longer, its runner stores by itself."""
LONGEST = 4_000_000
"""Bytes of one call that are read."""
log = structlog.get_logger("signalbox.answers")


@record
class Answer:
    """How a task ended, told by `worker`, who wants to hear the `receipt` once that is stored."""

    worker: WorkerId
    receipt: str
    end: KnownEnd


class Envelope:
    """Seals answers to one process, and opens them there. Both must have the same installation secret."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)
        self._key_id = fingerprint(key)

    @classmethod
    def of(cls, settings: Settings) -> Self | None:
        """The envelope of an installation; None where it has no secret, and nothing is told. Raises `Misconfigured`."""
        secret, _ = settings.installation_secrets()
        return None if secret is None else cls(derive(read_secret(secret), "answers"))

    def address(self, orchestrator: WorkerId) -> str:
        """Whom to call with answers for an orchestrator."""
        return self.address_of("answers", orchestrator)

    def address_of(self, what: str, whom: str) -> str:
        """Where a process listens to `what` is sealed for it."""
        return f"{what}:{whom}:{self._key_id}"

    def may_seal(self, address: str) -> bool:
        """Can whoever listens there open what is sealed here?"""
        return address.endswith(f":{self._key_id}")

    def seal(self, address: str, answers: Sequence[Answer]) -> bytes:
        """What to call `address` with."""
        told = [
            (
                one.worker, one.receipt, one.end.task_id, one.end.token, one.end.tenant_id, one.end.instance_id,
                one.end.output, one.end.ended_at, one.end.body,
            )
            for one in answers
        ]  # fmt: skip
        return self.seal_value(address, told)

    def open(self, address: str, said: bytes) -> list[Answer]:
        """Open what `address` was called with. Raises `ValueError` for what was not sealed for it."""
        told = self.open_value(address, said)
        return [
            Answer(
                WorkerId(worker), receipt,
                KnownEnd(
                    TaskId(task), LeaseToken(token), TenantId(tenant), InstanceId(instance), output,
                    datetime.fromisoformat(ended_at), body,
                ),
            )
            for worker, receipt, task, token, tenant, instance, output, ended_at, body in told
        ]  # fmt: skip

    def seal_value(self, address: str, value: Any) -> bytes:
        """JSON that only who knows the secret can open, as what `address` was called with."""
        nonce = random_bytes(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, orjson.dumps(value), address.encode())

    def open_value(self, address: str, said: bytes) -> Any:
        """Open JSON that was sealed for `address`. Raises `ValueError` for what was not."""
        if len(said) > LONGEST:
            raise ValueError(f"not sealed for us: {len(said):,} bytes, where {LONGEST:,} are read")
        nonce, text = said[:NONCE_BYTES], said[NONCE_BYTES:]
        try:
            return orjson.loads(self._cipher.decrypt(nonce, text, address.encode()))
        except (InvalidTag, ValueError):
            raise ValueError(
                "not sealed for us: under another key, for another address, or changed"
            ) from None
