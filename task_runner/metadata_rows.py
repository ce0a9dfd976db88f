"""The metadata of an instance as rows, for the task of a claim: each call a short transaction, or inside one that is open.

The bounds are said again here: what comes out of an isolated handler's process is not taken on trust.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection

from common.canonical import read
from common.db import Database
from common.db.now import read_now
from common.metadata import MAX_KEYS, key_text, value_text
from common.store import metadata as store
from common.store.claims import TaskClaim
from common.store.metadata import Lease
from task_runner.metadata import Swapped

T = TypeVar("T")


class MetadataRows:
    """A `MetadataPort` on the database. `tx`: the open transaction of a light handler, which has its rows to itself;
    `before_write` is called then before anything is written, which only a lease allows.
    """

    def __init__(
        self,
        claim: TaskClaim,
        database: Database,
        tx: Connection | None = None,
        before_write: Callable[[], None] = lambda: None,
    ) -> None:
        self._claim = claim
        self._lease = Lease(claim.id, claim.token)
        self._database = database
        self._tx = tx
        self._before_write = before_write

    def read(self, key: str) -> str | None:
        claim = self._claim
        return self._reading(lambda tx: store.read_value(tx, claim.tenant_id, claim.instance_id, key))

    def read_all(self) -> dict[str, str]:
        claim = self._claim
        return self._reading(lambda tx: store.read_all(tx, claim.tenant_id, claim.instance_id))

    def write(self, key: str, value: str | None) -> Swapped:
        if value is None:
            return self._writing(lambda tx: self._remove(tx, key))
        return self._writing(lambda tx: self._put(tx, key, value, None))

    def swap(self, key: str, value: str, expected: str | None) -> Swapped:
        return self._writing(lambda tx: self._put(tx, key, value, [expected]))

    def _put(self, tx: Connection, key: str, value: str, only_over: list[str | None] | None) -> Swapped:
        claim = self._claim
        name, text = key_text(key), value_text(read(value))
        written = store.put(
            tx, claim.tenant_id, claim.instance_id, name, text, only_over=only_over, lease=self._lease,
            most=MAX_KEYS, now=read_now(tx), actor=f"task:{claim.id}",
        )  # fmt: skip
        if written:
            return "done"
        if not store.is_held(tx, self._lease):
            return "lost"
        if only_over is None:
            return "full"
        is_as_expected = store.read_value(tx, claim.tenant_id, claim.instance_id, name) in only_over
        return "full" if is_as_expected and only_over == [None] else "changed"

    def _remove(self, tx: Connection, key: str) -> Swapped:
        claim = self._claim
        removed = store.remove(tx, claim.tenant_id, claim.instance_id, key_text(key), lease=self._lease)
        return "done" if removed is not None or store.is_held(tx, self._lease) else "lost"

    def _reading(self, use_case: Callable[[Connection], T]) -> T:
        if self._tx is not None:
            return use_case(self._tx)
        with self._database.reading() as tx:
            return use_case(tx)

    def _writing(self, use_case: Callable[[Connection], T]) -> T:
        if self._tx is None:
            return self._database.run(use_case)
        self._before_write()
        return use_case(self._tx)
