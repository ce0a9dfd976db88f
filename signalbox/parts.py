"""The command line of every process of Signalbox, as `signalbox up`, `signalbox worker` and `signalbox api` start it.

Each is a command that works by hand as well: a Celery worker, a WSGI server, Flower.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Duty = Literal["orchestrator", "task-runner"]

_PACKAGES: dict[Duty, str] = {"orchestrator": "orchestrator", "task-runner": "task_runner"}

# Workers of ours agree through the database. What Celery would have them tell each other at their start costs a
# second (mingle) and a connection (gossip); heartbeats stay, Flower lives on them.
_ALONE = ("--without-mingle", "--without-gossip")


@dataclass(frozen=True)
class Workers:
    """How many processes there are of each duty. Of the orchestrators all but the first are in reserve.

    None: what a machine has use for, see `on`.
    """

    orchestrators: int | None = None
    task_runners: int = 1

    def on(self, *, cores: int, is_shared: bool) -> Workers:
        """The same for a machine with so many cores, and a database that several may write to at once and a broker by which they call each other."""
        usual = 2 if cores > 1 and is_shared else 1
        return Workers(self.orchestrators or usual, self.task_runners)

    def parts(self) -> Iterator[tuple[str, Duty]]:
        """The name of each and its duty, the first of each duty before all others; it has the duty's name."""
        counts: dict[Duty, int] = {"orchestrator": self.orchestrators or 1, "task-runner": self.task_runners}
        yield from ((duty, duty) for duty in counts)
        for duty, count in counts.items():
            yield from ((another(duty, number), duty) for number in range(2, count + 1))


USUAL = Workers()
"""What a machine has use for."""


def is_reserve(name: str) -> bool:
    """Is a part a worker that steps only when it is called? All orchestrators but the first are."""
    return name.startswith("orchestrator-")


def another(duty: Duty, number: int) -> str:
    """The name of one more worker beside the first."""
    return f"{duty}-{number}"


def worker_command(
    duty: Duty, options: Sequence[str] = (), *, name: str | None = None, in_reserve: bool = False
) -> tuple[str, ...]:
    """Celery's worker for one duty. `options` are Celery's own and win over ours; `name` is its node name.

    It is what `celery -A orchestrator.worker worker …` starts, without what else Celery's command line loads. Without a
    name, Celery's pattern `%h` and the process id keep several workers of one machine apart. An orchestrator in reserve
    (`SIGNALBOX_RESERVE`) has a queue of its own.
    """
    return (
        *(sys.executable, "-m", _PACKAGES[duty]),
        *("-Q", f"workflow-{duty}-reserve" if in_reserve else f"workflow-{duty}"),
        *("-n", f"{name or duty}@%h"),
        *("--loglevel", "INFO"),
        # Flower counts in these intervals, and each heartbeat is CPU time of a worker that has nothing to do.
        *("--heartbeat-interval", "5"),
        *_ALONE,
        *options,
    )


def flower_command(port: int) -> tuple[str, ...]:
    """Flower on the loopback: who works, and which doorbells rang."""
    celery = (sys.executable, "-m", "celery")
    return (*celery, "-A", "orchestrator.worker", "flower", "--address=127.0.0.1", f"--port={port}")


def api_command() -> tuple[str, ...]:
    """The HTTP API; host and port come from its environment."""
    return (sys.executable, "-m", "api")
