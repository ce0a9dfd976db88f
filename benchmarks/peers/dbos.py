"""DBOS Transact for Python on PostgreSQL, started directly in the process that runs it, and by its queue."""

from __future__ import annotations

from benchmarks.peers.port import PROGRAMS, Port

PORTS = (
    Port(
        name="dbos",
        title="DBOS, direct",
        program=("{folder}/bin/python", str(PROGRAMS / "dbos" / "program.py")),
        user_code=("workflow.py",),
        servers=frozenset({"postgres"}),
        settings=(
            {"callers": 8, "pool": 20},
            {"callers": 4, "pool": 20},
            {"callers": 16, "pool": 20},
            {"callers": 32, "pool": 50},
        ),
        lacks={"backlog": "a direct start runs in the process that makes it, so nothing waits for a worker"},
        environment_of="dbos",
    ),
    Port(
        name="dbos-queue",
        title="DBOS, queue",
        program=("{folder}/bin/python", str(PROGRAMS / "dbos" / "program_queued.py")),
        user_code=("workflow_queued.py",),
        servers=frozenset({"postgres"}),
        settings=(
            {"processes": 2, "concurrency": 16, "poll": 0.05, "pool": 20},
            {"processes": 1, "concurrency": 32, "poll": 0.05, "pool": 20},
            {"processes": 2, "concurrency": 32, "poll": 0.01, "pool": 20},
            {"processes": 3, "concurrency": 16, "poll": 0.05, "pool": 20},
        ),
        environment_of="dbos",
    ),
)
