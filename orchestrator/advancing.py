"""What advancing needs of its process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import structlog

from common.config import Limits
from common.db import Database
from common.queues.offers import Offers
from orchestrator.answers import Answers
from orchestrator.behind import Behind
from orchestrator.charts import Charts
from orchestrator.light_calls import LightCalls
from orchestrator.opened import log_opened
from orchestrator.passed import Pass
from orchestrator.places import Vacancies
from orchestrator.stepping import StepLimits

log = structlog.get_logger("signalbox.orchestrator")


@dataclass(frozen=True)
class Advancing:
    """What advancing needs: one a process."""

    database: Database
    max_context_bytes: int
    charts: Charts = field(default_factory=Charts)
    limits: Limits = field(default_factory=Limits)
    publish: Callable[[Sequence[str]], None] = lambda _ids: None
    last_death: Callable[[], datetime | None] = lambda: None
    emitted: threading.Event = field(default_factory=threading.Event)
    """Set when a step of this process has published an event that a trigger answers."""
    offers: Offers = field(default_factory=Offers)
    """What task runners have offered to take without a claim."""
    answers: Answers = field(default_factory=Answers)
    """What task runners have told of tasks that steps of this process leased to them."""
    on_due: Callable[[float], None] = lambda _seconds: None
    """Called when timers have been armed, with the seconds until the first of them is due."""
    on_crowd: Callable[[], None] = lambda: None
    """Called when a whole batch is chosen and half another one is left, beside nobody who is to be protected of it."""
    vacancies: Vacancies = field(default_factory=Vacancies)
    """Keys of `concurrency` where this process has seen an instance ask for a place, or give one back."""
    light: LightCalls = field(default_factory=LightCalls)
    """Who calls the light handlers that steps wait for."""
    behind: Behind = field(default_factory=Behind)
    """Who saves a batch while the next one is stepped."""

    @property
    def step_limits(self) -> StepLimits:
        return StepLimits(self.max_context_bytes, self.limits.max_ai_events)

    def note_committed(self, done: Pass) -> None:
        """Take note of what a pass has left to be done, now that others can see it: who looked before its commit would find nothing."""
        log_opened(log, done.opened)
        self.vacancies.note(done)
        if done.has_published:
            self.emitted.set()
