"""Instances of a batch whose bodies go, on demand: their history before the row that tells of it, and what else has any.

Their children are asked to erase themselves, by rows in their inboxes; who has not ended is cancelled first, where that was asked.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from common.canonical import dumps
from common.db.tables import InboxType
from common.decision import Erasure
from common.lifecycle import FINAL
from common.store import erasure, inbox


@dataclass(frozen=True, slots=True)
class _Erased:
    """An instance whose bodies go: `sequence` is that of the history row that tells of it, and stays."""

    asked: Erasure
    sequence: int
    actor: str


@dataclass
class Erasures:
    """What a batch erases, by instance."""

    _erased: dict[str, _Erased] = field(default_factory=dict)

    def add(self, instance_id: str, asked: Erasure, *, sequence: int, actor: str) -> None:
        before = self._erased.get(instance_id)
        if before is not None:  # asked for twice in one batch: the second one may want less of the children
            asked = replace(
                asked,
                with_children=asked.with_children or before.asked.with_children,
                cancels=asked.cancels or before.asked.cancels,
            )
        self._erased[instance_id] = _Erased(asked, sequence, actor)

    def merge(self, other: Erasures) -> None:
        self._erased.update(other._erased)

    def requests(self, tx: Connection, *, now: datetime) -> list[dict[str, Any]]:
        """Inbox rows that erase the children of what is erased; who has not ended is cancelled first, where that was asked."""
        parents = [id_ for id_, erased in self._erased.items() if erased.asked.with_children]
        rows = []
        for child in erasure.read_children(tx, sorted(parents)) if parents else ():
            asked, actor = self._erased[child.parent_id].asked, self._erased[child.parent_id].actor
            if asked.cancels and child.status not in FINAL:
                body = dumps({"reason": asked.reason})
                new = (child.tenant_id, child.id, InboxType.CANCEL, body, actor, now)
                rows.append(inbox.new_row(*new, lane=inbox.CONTROL))
            body = dumps({"cancel": asked.cancels, "children": True, "reason": asked.reason})
            rows.append(inbox.new_row(child.tenant_id, child.id, InboxType.ERASE, body, actor, now))
        return rows

    def erase(self, tx: Connection, *, now: datetime) -> None:
        """Take bodies away when everything of the batch is written, and the instances stand there as ended."""
        if not self._erased:
            return
        for instance_id, erased in sorted(self._erased.items()):
            erasure.erase_history(tx, instance_id, before=erased.sequence)
        erasure.erase_bodies(tx, sorted(self._erased), now=now)
