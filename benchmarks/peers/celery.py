"""Celery's canvas on Valkey: a chain and a chord. Not durable: the upper reference of what a broker alone does."""

from __future__ import annotations

from benchmarks.peers.port import PROGRAMS, Port

PORTS = (
    Port(
        name="celery",
        title="Celery chain and chord",
        program=("{folder}/bin/python", str(PROGRAMS / "celery" / "program.py")),
        user_code=("workflow.py",),
        servers=frozenset({"valkey"}),
        settings=(
            {"pool": "prefork", "concurrency": 2, "prefetch": 4},
            {"pool": "prefork", "concurrency": 2, "prefetch": 64},
            {"pool": "prefork", "concurrency": 4, "prefetch": 16},
            {"pool": "threads", "concurrency": 8, "prefetch": 4},
        ),
        is_durable=False,
    ),
)
