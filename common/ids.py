"""Identifiers: UUIDv7 text, so that rows made later sort later.

Ids travel as their canonical 36-character text everywhere; PostgreSQL stores them as `uuid`, SQLite as text.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from hashlib import blake2b
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


def derived_id(at: datetime, sequence: int, count: int, *names: str) -> str:
    """The UUIDv7 of what step `sequence` of something named `names` makes as its `count`th, caused at `at`: always the same one.

    Ids of one millisecond sort by step and count. What they do not fill, 46 bits, is a digest of all of it (RFC 9562, section 6.2).
    """
    said = "\n".join((*names, str(sequence), str(count))).encode()
    digest = int.from_bytes(blake2b(said, digest_size=8).digest()) & (1 << 46) - 1
    milliseconds = int(at.timestamp() * 1_000) & (1 << 48) - 1
    number = (
        milliseconds << 80 | 7 << 76 | (sequence & 0xFFF) << 64 | 2 << 62 | min(count, 0xFFFF) << 46 | digest
    )
    text = f"{number:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def new_token() -> LeaseToken:
    """Return a random UUIDv4 as text: a lease token must not be guessable from the row's id."""
    return LeaseToken(str(_uuid4()))


def is_id(text: str) -> bool:
    """Tell whether `text` is a canonical lowercase UUID, before a database would refuse it."""
    return _UUID.fullmatch(text) is not None
