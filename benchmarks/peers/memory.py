"""Proportional memory (PSS) of every process below one, read from `/proc`."""

from __future__ import annotations

from pathlib import Path


def proportional_megabytes(parent: int) -> float:
    """The PSS of all descendants of `parent` without itself, in MB; shared pages count once in the sum."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:
            continue  # it has ended meanwhile
        children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    total, left = 0, list(children.get(parent, ()))
    while left:
        pid = left.pop()
        left.extend(children.get(pid, ()))
        total += _pss_kilobytes(pid)
    return total / 1_024


def _pss_kilobytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
