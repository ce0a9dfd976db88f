"""Restate: its server from npm, one Node service, callers over HTTP. It keeps its own log (RocksDB), no PostgreSQL."""

from __future__ import annotations

from benchmarks.peers.port import Port

PORTS = (
    Port(
        name="restate",
        title="Restate",
        program=("node", "{folder}/program.mjs"),
        user_code=("workflow.mjs",),
        settings=(
            {"callers": 64, "partitions": 4},
            {"callers": 32, "partitions": 4},
            {"callers": 128, "partitions": 4},
            {"callers": 64, "partitions": 24},
        ),
    ),
)
