"""What nobody works on: a duty that no living worker has, and task types that no living runner takes.

An installation's workers serve all tenants. So what is told here is about duties and types, never about a worker.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from common.catalogue import CATALOGUE
from common.store.overview import WorkerRecord, offered_types

ORCHESTRATOR, TASK_RUNNER = "orchestrator", "task-runner"
SYSTEM = "SYSTEM"


@dataclass(frozen=True, slots=True)
class Unattended:
    """A duty that no living worker has; for task runners the type, and of SYSTEM the function, that none takes."""

    duty: str
    type: str | None = None
    name: str | None = None

    @property
    def reason(self) -> str:
        """What is missing and what to do, in words."""
        start = f"start one: `signalbox worker {self.duty}`"
        if self.type is None:
            return f"no {self.duty} is alive; {start}"
        kind = f'"{self.type}"' if self.name is None else f'{self.type} tasks of the function "{self.name}"'
        is_ours = self.type in CATALOGUE and self.name is None
        module = "" if is_ours else ", with the module of its handler in SIGNALBOX_HANDLERS"
        return f"no living task runner takes {kind}; {start}{module}"


def find_unattended(
    workers: Iterable[WorkerRecord], due: Iterable[tuple[str, str]], *, is_stepped: bool
) -> list[Unattended]:
    """Who is missing among `workers` for tasks of these (type, name) and, where somebody waits for steps, to make them."""
    here = list(workers)
    found = []
    if is_stepped and not any(one.is_alive and one.duty == ORCHESTRATOR for one in here):
        found.append(Unattended(ORCHESTRATOR))
    offered = offered_types(here)
    for type_, name in dict.fromkeys((type_, name if type_ == SYSTEM else None) for type_, name in due):
        # A function of SYSTEM is offered by those who offer the type of its name.
        if (type_ if name is None else name) not in offered:
            found.append(Unattended(TASK_RUNNER, type_, name))
    return found
