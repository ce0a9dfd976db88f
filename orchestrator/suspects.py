"""Instances that may have ended the process that stepped them: who has a row from before a process of this duty died without a word.

Whoever is stepped while that is so is noted first, in a committed transaction, so that the next death finds who was at it. A few of them go
alone, behind a strike each. Of many, `TOGETHER` are doubted at once and stepped in one transaction, which costs a fraction of that; only if the
process dies at it do they go alone. The third strike is the incident `engine.poison`, and that instance is not stepped: to have been
doubted with others is no strike, since nothing tells which of them it was.

On both ways turns keep others from noting of an instance between our note and our step; they would count a death that nobody died.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog
from sqlalchemy import Connection

from common.db import is_trouble
from common.decide import Incident
from common.ids import InstanceId
from common.store import instances
from orchestrator.advancing import Advancing
from orchestrator.alone import alone, each_alone, give_up_alone
from orchestrator.batch import LostRace
from orchestrator.locked import advance_locked, lock_free
from orchestrator.passed import NOTHING, Pass, in_all

log = structlog.get_logger("signalbox.orchestrator")

STRIKES = 3
TOGETHER = 25
"""So many are doubted at once. After a death among them each goes alone, at about 10 ms."""
FEW = 10
"""So few are sooner done alone, and who is at fault is found a death earlier."""


def step_suspects(advancing: Advancing, ids: Sequence[InstanceId]) -> Pass:
    """Step suspected instances, `TOGETHER` at a time, and then alone those of whom something was noted before."""
    if len(ids) <= FEW:
        return in_all([_alone(advancing, one) for one in ids])
    done: list[Pass] = []
    noted: list[InstanceId] = []
    for at in range(0, len(ids), TOGETHER):
        portion, known = _together(advancing, ids[at : at + TOGETHER])
        done.append(portion)
        noted += known
    # Last, so that the others have had their turn when somebody deadly has his.
    return in_all([*done, *(_alone(advancing, one) for one in noted)])


def _together(advancing: Advancing, ids: Sequence[InstanceId]) -> tuple[Pass, list[InstanceId]]:
    """Step those of `ids` in one transaction of whom nothing is noted; what was done, and the others that may be stepped."""
    with advancing.database.reading() as turn:
        ours = sorted(instances.take_turns(turn, ids))
        doubted, noted = advancing.database.run(lambda tx: _doubt(tx, ours))
        return (_step(advancing, doubted) if doubted else NOTHING), noted


def _doubt(tx: Connection, ids: Sequence[InstanceId]) -> tuple[list[InstanceId], list[InstanceId]]:
    locked = {held.id: held.strikes for held in instances.lock_ready(tx, ids)}
    doubted = instances.doubt(tx, list(locked))
    return sorted(doubted), [one for one, strikes in locked.items() if strikes]


def _step(advancing: Advancing, ids: Sequence[InstanceId]) -> Pass:
    def step(tx: Connection) -> Pass:
        ready = lock_free(tx, ids)
        return advance_locked(advancing, tx, ready.locked, ready.rows) if ready.locked else NOTHING

    try:
        done = advancing.database.run(step)
    except Exception as error:
        if is_trouble(error) or isinstance(error, LostRace):
            raise
        log.warning("batch.refused", error=type(error).__name__)
        return each_alone(advancing, ids)
    advancing.note_committed(done)
    return done


def _alone(advancing: Advancing, instance_id: InstanceId) -> Pass:
    """Strike an instance and step it alone, before the next one is struck: only who was being stepped pays for a death.

    Nothing, where somebody else has its turn or holds it, or has stepped it since we looked.
    """
    with advancing.database.reading() as turn:
        if not instances.take_turns(turn, [instance_id]):
            return NOTHING
        strikes = advancing.database.run(lambda tx: _strike(tx, instance_id))
        if strikes is None:
            return NOTHING
        if strikes < STRIKES:
            return alone(advancing, instance_id) or NOTHING
    message = (
        f"stepping this instance alone ended its process {STRIKES - 1} times; it is not tried again by itself"
    )
    log.error("instance.poison", instance_id=instance_id)
    return give_up_alone(advancing, instance_id, Incident("engine.poison", message, {})) or NOTHING


def _strike(tx: Connection, instance_id: InstanceId) -> int | None:
    return instances.strike(tx, instance_id) if instances.lock_ready(tx, [instance_id]) else None
