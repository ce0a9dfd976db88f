"""Identifiers: UUIDv7 text, so that rows made later sort later.

Ids travel as their canonical 36-character text everywhere; PostgreSQL stores them as `uuid`, SQLite as text.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import NewType

from uuid_utils import uuid4 as _uuid4
from uuid_utils import uuid7 as _uuid7

TenantId = NewType("TenantId", str)
DefinitionId = NewType("DefinitionId", str)
InstanceId = NewType("InstanceId", str)
TaskId = NewType("TaskId", str)
WorkerId = NewType("WorkerId", str)
LeaseToken = NewType("LeaseToken", str)

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def new_id() -> str:
    """Return a new UUIDv7 as text; ids made by one process sort in the order they were made."""
    return str(_uuid7())


def made_at(id: str) -> datetime:
    """When a UUIDv7 was made, to the millisecond (RFC 9562, section 5.7)."""
    return datetime.fromtimestamp(int(id[:8] + id[9:13], 16) / 1_000, UTC)


def new_token() -> LeaseToken:
    """Return a random UUIDv4 as text: a lease token must not be guessable from the row's id."""
    return LeaseToken(str(_uuid4()))


def is_id(text: str) -> bool:
    """Tell whether `text` is a canonical lowercase UUID, before a database would refuse it."""
    return _UUID.fullmatch(text) is not None
