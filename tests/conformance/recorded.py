"""What XState answered, kept beside the tests, so that they need no node.

`vectors/GROUP.jsonl.gz` holds random cases, `machines/*.json` hand-written ones; each `{"id", "spec", "events",
"snapshots"}`, where the snapshots are XState's.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

Json: TypeAlias = Any
HERE = Path(__file__).resolve().parent
VECTORS = HERE / "vectors"
MACHINES = HERE / "machines"


def vector_files() -> list[Path]:
    return sorted(VECTORS.glob("*.jsonl.gz"))


def machine_files() -> list[Path]:
    return sorted(MACHINES.glob("*.json"))


def read_vectors(path: Path) -> list[Json]:
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]


def write_vectors(group: str, cases: Iterable[Json]) -> Path:
    """The same cases give the same bytes."""
    path = VECTORS / f"{group}.jsonl.gz"
    lines = "".join(f"{json.dumps(case, separators=(',', ':'))}\n" for case in cases)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress(lines.encode(), compresslevel=9, mtime=0))
    return path


def read_machines(path: Path) -> list[Json]:
    machines: list[Json] = json.loads(path.read_text())
    return machines


def all_recorded() -> Iterator[Json]:
    for path in vector_files():
        yield from read_vectors(path)
    for path in machine_files():
        yield from read_machines(path)


def recorded_answer(case: Mapping[str, Json]) -> Json:
    return {"id": case["id"], "snapshots": case["snapshots"]}
