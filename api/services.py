"""What the handlers of one process share, put together once by `app.create_app`."""

from __future__ import annotations

from dataclasses import dataclass, field

from api.auth import KeyRing
from api.calculating import Calculating
from api.cursors import Cursors
from api.health import Health
from api.link_gate import LinkGate
from api.link_pages import LinkPages
from api.reference import Documents
from api.waiting import Waiter
from common.config import Limits
from common.db import Database
from common.db.tenants import Tenants
from common.links import Links
from common.queues.doorbell import Doorbells
from common.retention import Keeping
from common.sealing import SealingKeys


@dataclass(frozen=True)
class Services:
    """One API process: the database of its callers' tenants, its limits, and what recognises keys, signs cursors, seals secrets and waits for instances."""

    tenants: Tenants
    limits: Limits
    keeping: Keeping
    keys: KeyRing
    cursors: Cursors
    sealing_keys: SealingKeys
    waiter: Waiter
    health: Health
    documents: Documents = field(repr=False)
    links: Links = field(repr=False)
    link_pages: LinkPages = field(repr=False)
    link_gate: LinkGate = field(repr=False)
    calculating: Calculating = field(repr=False)
    doorbells: Doorbells | None = field(default=None, repr=False)

    @property
    def database(self) -> Database:
        """The database for what has no tenant: never for a caller."""
        return self.tenants.database

    def close(self) -> None:
        """Ring what is still to be rung and let go of the connections."""
        if self.doorbells is not None:
            self.doorbells.close()
        self.waiter.close()
        self.tenants.dispose()
