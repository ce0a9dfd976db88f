"""Prefect 3 on Debian's PostgreSQL: flows that are called directly, deployments that are served, background tasks."""

from __future__ import annotations

from benchmarks.peers.port import PROGRAMS, Port
from benchmarks.peers.servers import CONTRIB, Server

_SERVERS: frozenset[Server] = frozenset({CONTRIB})


def _program(name: str) -> tuple[str, str]:
    return "{folder}/bin/python", str(PROGRAMS / "prefect" / name)


PORTS = (
    Port(
        name="prefect",
        title="Prefect 3, direct",
        program=_program("program.py"),
        user_code=("workflow.py",),
        servers=_SERVERS,
        settings=(
            {"processes": 2, "concurrency": 8},
            {"processes": 1, "concurrency": 1},
            {"processes": 1, "concurrency": 16},
            {"processes": 2, "concurrency": 32},
            {"processes": 3, "concurrency": 8},
        ),
        is_durable=False,
        share=0.1,
        latency_share=0.5,
        lacks={"backlog": "a direct call runs in the process that makes it, so nothing waits for a worker"},
        environment_of="prefect",
    ),
    Port(
        name="prefect-serve",
        title="Prefect 3, deployed",
        program=_program("program_served.py"),
        user_code=("workflow.py",),
        servers=_SERVERS,
        settings=(
            {"by": "serve", "limit": 4},
            {"by": "serve", "limit": 8},
            {"by": "worker", "limit": 4},
            {"by": "worker", "limit": 8},
        ),
        is_durable=False,
        share=0.02,
        latency_share=0.1,
        environment_of="prefect",
    ),
    Port(
        name="prefect-tasks",
        title="Prefect 3, background tasks",
        program=_program("program_tasks.py"),
        user_code=("workflow_tasks.py",),
        servers=_SERVERS,
        settings=(
            {"processes": 1, "limit": 10},
            {"processes": 2, "limit": 10},
            {"processes": 2, "limit": 32},
        ),
        is_durable=False,
        share=0.1,
        latency_share=0.5,
        environment_of="prefect",
    ),
)
