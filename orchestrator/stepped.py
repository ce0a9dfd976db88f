"""One locked instance in a batch: stepped through its rows, taken on by what its light tasks return, and whatever goes wrong with it is its own incident.

How rows are stepped is told in `stepping.py`, who calls light handlers in `light_calls.py`.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from datetime import datetime

import structlog

from common.canonical import storable
from common.decide import Incident
from common.errors import SignalboxError
from common.queues.offers import Offer
from common.queues.told_task import ToldTask
from common.store.inbox import InboxRow
from common.store.instances import LockedInstance
from common.store.leased import CalledHere
from orchestrator.batch import Batch, LostRace
from orchestrator.charts import CompiledChart
from orchestrator.lent import CallerOf
from orchestrator.stepping import Config, StepLimits, Stepping

log = structlog.get_logger("signalbox.orchestrator")


def step_instance(
    limits: StepLimits,
    held: LockedInstance,
    rows: list[InboxRow],
    compiled: CompiledChart,
    now: datetime,
    deadline: float,
    config: Config | None,
    is_full: bool = False,
) -> Batch:
    """Step one instance through its rows. Never raises for what its definition or its events can cause.

    `config` are the values that its chart names; None where they are too large, and then nothing of it is stepped that
    could read them. `is_full`: it has failed, and there is no place for it to go on.
    """
    return begin_instance(limits, held, rows, compiled, now, deadline, config, is_full).settled()


def begin_instance(
    limits: StepLimits,
    held: LockedInstance,
    rows: list[InboxRow],
    compiled: CompiledChart,
    now: datetime,
    deadline: float,
    config: Config | None,
    is_full: bool = False,
) -> Stepped:
    """Step one instance through its rows, as `step_instance` does, to be taken on by what its light tasks return before it is settled."""

    def stepping() -> Stepping:
        one = Stepping(limits, held, compiled, now, config, is_full)
        one.through(rows, deadline)
        return one

    def given_up(error: Exception) -> Stepping:
        log.error("step.raised", instance_id=held.id, tenant_id=held.tenant_id, exc_info=error)
        trace = "".join(traceback.format_exception(error, limit=-8))
        incident = Incident(
            error.code if isinstance(error, SignalboxError) else "engine.error",
            storable(f"{type(error).__name__}: {error}")[:2_000],
            {"trace": storable(trace)[-4_000:], "inboxIds": [row.id for row in rows]},
        )
        one = Stepping(limits, held, compiled, now)
        one.give_up(incident, rows)
        return one

    return Stepped(stepping, given_up)


class Stepped:
    """An instance that has been stepped through its rows in a batch, and may go on by answers that come while the batch waits."""

    def __init__(self, step: Callable[[], Stepping], give_up: Callable[[Exception], Stepping]) -> None:
        self._step = step
        self._give_up = give_up
        self._goes_on = True
        self._stepping = self._stepped()

    def _stepped(self) -> Stepping:
        try:
            return self._step()
        except LostRace:
            raise
        except Exception as error:  # noqa: BLE001 - whatever an instance does wrong is its own incident
            self._goes_on = False
            return self._give_up(error)

    def light_tasks(self, caller_of: CallerOf) -> list[tuple[ToldTask, Offer]]:
        """Tasks that a light handler may end at once, those that nobody was asked to call."""
        return self._stepping.light_tasks(caller_of) if self._goes_on else []

    def lend(self, task: ToldTask, offer: Offer) -> None:
        """A runner is asked to call a task's handler."""
        self._stepping.batch.lent.lend(task, offer)

    def take_back(self, task: ToldTask) -> None:
        """The runner did not call it."""
        self._stepping.batch.lent.take_back(task)

    def go_on(self, task: ToldTask, called: CalledHere) -> None:
        """Go on from how a task ended. Where that raises, the rows are stepped as if nobody had called anything: the answer comes alone, later."""
        if not self._goes_on:
            return
        try:
            self._stepping.go_on(task, called)
        except LostRace:
            raise
        except Exception as error:  # noqa: BLE001 - as above
            log.warning(
                "light.undone", instance_id=task.instance_id, error=f"{type(error).__name__}: {error}"[:300]
            )
            self._stepping = self._stepped()
            self._goes_on = False

    def settled(self) -> Batch:
        """What it writes. Once."""
        try:
            return self._stepping.settled()
        except LostRace:
            raise
        except Exception as error:  # noqa: BLE001 - as above
            return self._give_up(error).settled()


def give_up(
    limits: StepLimits,
    held: LockedInstance,
    rows: list[InboxRow],
    compiled: CompiledChart,
    now: datetime,
    incident: Incident,
) -> Batch:
    """Record an incident of the engine itself; the rows are parked, for `retry` to take up again."""
    stepping = Stepping(limits, held, compiled, now)
    stepping.give_up(incident, rows)
    return stepping.settled()
