"""`Prefer: wait=N`: answer once an instance has settled, or after N seconds with the state so far.

Changes come by pub/sub; a look every 250 ms makes sure of them, broker or not. Between two looks no connection is held.
A wait holds a server thread, so at most `most` wait at once: whoever comes beyond that is answered without waiting,
which a preference allows.
"""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass

from common.commands.absent import absent_instance
from common.db.tenants import Tenants
from common.ids import TenantId
from common.queues.changes import LOOK_SECONDS, Changes
from common.store.listing import InstanceRecord
from common.store.overview import read_settling

LONGEST_SECONDS = 60.0
_WAIT = re.compile(r'wait\s*=\s*"?(\d{1,9}(?:\.\d{1,3})?)"?', re.IGNORECASE)


def wait_seconds(prefer: str | None) -> float | None:
    """The seconds that a `Prefer` header asks to wait, at most 60; None where it does not ask (RFC 7240)."""
    for preference in (prefer or "").split(","):
        found = _WAIT.fullmatch(preference.partition(";")[0].strip())
        if found:
            return min(float(found[1]), LONGEST_SECONDS)
    return None


@dataclass(frozen=True, slots=True)
class Waited:
    """How a wait ended. `record` is the instance as last seen; `has_waited` is False when no thread was to be had."""

    record: InstanceRecord
    has_settled: bool
    has_waited: bool


class Waiter:
    """Waits for instances on behalf of requests, for as many at once as the process can spare threads."""

    def __init__(self, tenants: Tenants, changes: Changes, *, most: int) -> None:
        self._tenants = tenants
        self._changes = changes
        self._places = threading.BoundedSemaphore(most)
        self._stopping = False

    def wait(self, tenant_id: TenantId, instance_id: str, seconds: float) -> Waited:
        """Wait until an instance of this tenant, which exists, has settled, at most `seconds`."""
        if not self._places.acquire(blocking=False):
            record, settled = self._look(tenant_id, instance_id)
            return Waited(record, settled, has_waited=False)
        try:
            return self._wait(tenant_id, instance_id, seconds)
        finally:
            self._places.release()

    def stop(self) -> None:
        """Answer everyone who waits with the state so far: the process is about to end."""
        self._stopping = True

    def close(self) -> None:
        """Stop, and let go of the channel."""
        self.stop()
        self._changes.close()

    def _wait(self, tenant_id: TenantId, instance_id: str, seconds: float) -> Waited:
        deadline = time.monotonic() + seconds
        with self._changes.subscribe(instance_id) as changed:
            while True:
                changed.clear()  # before the look: what changes from here on ends the pause below
                record, settled = self._look(tenant_id, instance_id)
                left = deadline - time.monotonic()
                if settled or left <= 0 or self._stopping:
                    return Waited(record, settled, has_waited=True)
                changed.wait(min(left, LOOK_SECONDS))

    def _look(self, tenant_id: TenantId, instance_id: str) -> tuple[InstanceRecord, bool]:
        database = self._tenants.of(tenant_id)
        with database.looking() as tx:
            found = read_settling(tx, tenant_id, instance_id)
        if found is None:
            with database.reading() as tx:
                raise absent_instance(tx, tenant_id, instance_id)
        return found
