"""Instances that are stepped alone, so that only the one at fault suffers: one that the database refuses alone gets the incident `engine.rejected`."""

from __future__ import annotations

from collections.abc import Sequence

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from common.canonical import storable
from common.db import is_trouble
from common.db.now import read_now
from common.decide import Incident
from common.ids import InstanceId
from common.store import inbox, instances
from orchestrator.advancing import Advancing
from orchestrator.batch import LostRace
from orchestrator.locked import advance_locked, lock_free
from orchestrator.opened import Opened, log_opened
from orchestrator.passed import NOTHING, Pass, in_all
from orchestrator.stepped import give_up

log = structlog.get_logger("signalbox.orchestrator")


def each_alone(advancing: Advancing, ids: Sequence[InstanceId]) -> Pass:
    """Step instances one by one; what was done of those of which anything could be stored."""
    return in_all([done for one in ids if (done := alone(advancing, one)) is not None])


def alone(advancing: Advancing, instance_id: InstanceId) -> Pass | None:
    """Step one instance in a transaction of its own, or give it up; None where not even that could be stored."""
    try:
        done = advancing.database.run(lambda tx: _one(advancing, tx, instance_id))
    except Exception as error:
        if is_trouble(error) or isinstance(error, LostRace):
            raise
        reason = str(error.orig if isinstance(error, DBAPIError) else error)
        log.error("instance.refused", instance_id=instance_id, reason=reason[:500])
        message = f"the database refused this step: {storable(reason)[:1_000]}"
        if instances.is_about_held_key(reason):  # taken between the acceptance of a command and its step
            message = "another live instance holds its business key by now; retry it when that has ended, or cancel it"
        return give_up_alone(advancing, instance_id, Incident("engine.rejected", message, {}))
    advancing.note_committed(done)
    return done


def give_up_alone(advancing: Advancing, instance_id: InstanceId, incident: Incident) -> Pass | None:
    """Give an instance up with an incident, unstepped; None where that could not be stored."""
    try:
        opened = advancing.database.run(lambda tx: _give_up(advancing, tx, instance_id, incident))
    except Exception as error:
        if is_trouble(error):
            raise
        # It stays in the inbox, and in the log at each look; what must not happen is that it stops those behind it.
        log.exception("instance.stuck", instance_id=instance_id, code=incident.code)
        return None
    log_opened(log, opened)
    return Pass(instances=1, changed=(instance_id,))


def _one(advancing: Advancing, tx: Connection, instance_id: InstanceId) -> Pass:
    ready = lock_free(tx, [instance_id])
    return advance_locked(advancing, tx, ready.locked, ready.rows) if ready.locked else NOTHING


def _give_up(
    advancing: Advancing, tx: Connection, instance_id: InstanceId, incident: Incident
) -> tuple[Opened, ...]:
    opened: tuple[Opened, ...] = ()
    for held in instances.lock_ready(tx, [instance_id]):
        rows = inbox.read_ready(tx, [held.id])
        compiled = advancing.charts.fetch(tx, [held.definition_id])[held.definition_id]
        now = read_now(tx)
        batch = give_up(advancing.step_limits, held, rows, compiled, now, incident)
        batch.save(tx, advancing.limits)
        opened += batch.opened
    return opened
