"""BullMQ, XState and PostgreSQL, written as the reference design: what one builds from these parts in Node."""

from __future__ import annotations

from benchmarks.peers.port import Port

PORTS = (
    Port(
        name="bullmq",
        title="BullMQ + XState + PostgreSQL",
        program=("node", "{folder}/program.mjs"),
        user_code=("workflow.mjs",),
        servers=frozenset({"postgres", "valkey-aof"}),
        settings=(
            {"processes": 1, "concurrency": 16, "callers": 8, "pool": 16},
            {"processes": 2, "concurrency": 8, "callers": 8, "pool": 16},
            {"processes": 1, "concurrency": 50, "callers": 16, "pool": 20},
            {"processes": 2, "concurrency": 32, "callers": 16, "pool": 20},
        ),
    ),
)
