"""Instances that are stepped alone: of a batch that the database refused, and where one may have ended the process that stepped it.

One that is refused alone gets the incident `engine.rejected`, so that only the one at fault suffers. Who is suspected of a death
is struck first, in a committed transaction; a further death finds the strike, and the third is the incident `engine.poison`.
"""

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
from orchestrator.passed import NOTHING, Pass
from orchestrator.stepped import give_up

log = structlog.get_logger("signalbox.orchestrator")

STRIKES = 3


def step_suspect(advancing: Advancing, instance_id: InstanceId) -> int | None:
    """Strike an instance and step it alone, before the next one is struck: only who was being stepped pays for a death.

    The turn keeps others from striking it between our strike and our step; they would count a death that nobody died.
    Returns its steps, or None when somebody else has its turn or holds it.
    """
    with advancing.database.reading() as turn:
        if not instances.take_turn(turn, instance_id):
            return None
        strikes = _strike(advancing, instance_id)
        if strikes is None:
            return None
        if strikes < STRIKES:
            return _alone(advancing, instance_id)
    message = f"stepping this instance ended its process {STRIKES - 1} times; it is not tried again by itself"
    log.error("instance.poison", instance_id=instance_id)
    return _give_up_alone(advancing, instance_id, Incident("engine.poison", message, {}))


def _strike(advancing: Advancing, instance_id: InstanceId) -> int | None:
    """Count, in a transaction of its own, that this instance is about to be stepped.

    None where somebody else holds it, or has stepped it since we looked: no step would take such a strike back.
    """

    def count(tx: Connection) -> int | None:
        locked = instances.lock_ready(tx, [instance_id])
        if not locked or not inbox.count_waiting(tx, instance_id):
            return None
        instances.strike(tx, [instance_id])
        return locked[0].strikes + 1

    return advancing.database.run(count)


def each_alone(advancing: Advancing, ids: Sequence[InstanceId]) -> Pass:
    """Step instances one by one, so that only the one at fault suffers."""
    done = {id_: steps for id_ in ids if (steps := _alone(advancing, id_)) is not None}
    return Pass(sum(done.values()), len(done), changed=tuple(done))


def _alone(advancing: Advancing, instance_id: InstanceId) -> int | None:
    """Step one instance in a transaction of its own, or give it up; its steps, None where not even that could be stored."""
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
        return _give_up_alone(advancing, instance_id, Incident("engine.rejected", message, {}))
    advancing.note_committed(done)
    return done.steps


def _give_up_alone(advancing: Advancing, instance_id: InstanceId, incident: Incident) -> int | None:
    try:
        opened = advancing.database.run(lambda tx: _give_up(advancing, tx, instance_id, incident))
    except Exception as error:
        if is_trouble(error):
            raise
        # It stays in the inbox, and in the log at each look; what must not happen is that it stops those behind it.
        log.exception("instance.stuck", instance_id=instance_id, code=incident.code)
        return None
    log_opened(log, opened)
    return 0


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
