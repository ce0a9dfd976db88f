"""Absurd's Python SDK on PostgreSQL: one SQL schema, workers that poll."""

from __future__ import annotations

from benchmarks.peers.port import PROGRAMS, Port

PORTS = (
    Port(
        name="absurd",
        title="Absurd",
        program=("{folder}/bin/python", str(PROGRAMS / "absurd" / "program.py")),
        user_code=("workflow.py",),
        servers=frozenset({"postgres"}),
        settings=(
            {"processes": 2, "concurrency": 8, "poll": 0.01},
            {"processes": 1, "concurrency": 16, "poll": 0.01},
            {"processes": 3, "concurrency": 4, "poll": 0.01},
            {"processes": 4, "concurrency": 1, "poll": 0.01},
        ),
    ),
)
