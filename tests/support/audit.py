"""The audit of a load: its book of acknowledged events against the histories, event by event.

Found are lost and doubled events, an order that the acknowledgements contradict, gaps, results that count twice, and
events between instances that did not arrive exactly once. Each finding is a sentence; no finding is the goal.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from common.canonical import read
from tests.support.cluster import Cluster
from tests.support.load import Load, Sent

SHOWN = 20
ERASED = "erased"
"""The type of an entry whose body is gone."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One consumed inbox row as the history tells it."""

    instance_id: str
    sequence: int
    type: str
    body: Any
    changes: list[dict[str, Any]]

    @property
    def event_id(self) -> str | None:
        return self.body.get("id") if self.type == "event" else None

    @property
    def was_applied(self) -> bool:
        return any(change["type"] == "event.received" for change in self.changes)


def read_entries(cluster: Cluster) -> list[Entry]:
    """Every consumed inbox row of every instance, in the order of the histories."""
    rows = cluster.query(
        "SELECT instance_id, sequence, input, changes FROM history ORDER BY instance_id, sequence"
    )
    entries = []
    for instance_id, sequence, input_text, changes in rows:
        if input_text is None:
            entries.append(Entry(str(instance_id), sequence, ERASED, None, []))
            continue
        consumed = read(input_text)
        entries.append(Entry(str(instance_id), sequence, consumed["type"], consumed["body"], read(changes)))
    return entries


def find_gaps(entries: Sequence[Entry], cluster: Cluster) -> list[str]:
    """Histories that do not run from 1 to their instance's sequence, one by one."""
    found: dict[str, list[int]] = defaultdict(list)
    for entry in entries:
        found[entry.instance_id].append(entry.sequence)
    return [
        f"gap in the history of {instance_id}, whose sequence is {sequence}"
        for instance_id, sequence in cluster.query("SELECT id, sequence FROM instances")
        if found[str(instance_id)] != list(range(1, sequence + 1))
    ]


@dataclass
class Audit:
    """What the histories say of a load, and what is wrong with it."""

    load: Load
    entries: list[Entry]
    findings: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, load: Load, cluster: Cluster) -> Audit:
        """Read every history and compare it with the book."""
        audit = cls(load, read_entries(cluster))
        audit.findings += find_gaps(audit.entries, cluster)
        audit._check_each_once()
        audit._check_order()
        audit._check_passed_on()
        audit._check_starts_and_cancels()
        audit._check_results(cluster)
        return audit

    def assert_clean(self) -> None:
        count = len(self.findings)
        assert not count, "\n".join([f"{count} findings:", *self.findings[:SHOWN]])

    @property
    def late(self) -> int:
        """Results that came after their lease was lost: refused, and on record."""
        return sum(entry.type == "task.late" for entry in self.entries)

    def _check_each_once(self) -> None:
        consumed = Counter(
            (entry.instance_id, entry.event_id)
            for entry in self.entries
            if entry.event_id is not None and not entry.event_id.startswith("passed-")
        )
        acknowledged = {(one.instance_id, one.event_id): one for one in self.load.sent}
        for key, sent in acknowledged.items():
            if consumed[key] != 1:
                self.findings.append(f"consumed {consumed[key]} times: {sent}")
        self.findings += [
            f"never acknowledged, yet consumed: {key}" for key in consumed.keys() - acknowledged.keys()
        ]

    def _check_order(self) -> None:
        """A before B in time means A before B in the history, whoever sent them."""
        acknowledged = {one.event_id: one for one in self.load.sent}
        latest: dict[str, Sent] = {}
        for entry in self.entries:
            sent = acknowledged.get(entry.event_id or "")
            if sent is None:
                continue
            before = latest.get(entry.instance_id)
            if before is not None and sent.acknowledged < before.began:
                self.findings.append(
                    f"order: {before} stands before {sent}, which was acknowledged before it was sent"
                )
            if before is None or sent.began > before.began:
                latest[entry.instance_id] = sent

    def _check_passed_on(self) -> None:
        """An applied PASS arrives once as PASSED where it was sent to; an ignored or rejected one nowhere."""
        targets = {one.event_id: str(one.to) for one in self.load.sent if one.type == "PASS"}
        expected: Counter[tuple[str, str]] = Counter(
            (targets[entry.event_id], f"passed-{entry.event_id}")
            for entry in self.entries
            if entry.event_id in targets and entry.was_applied
        )
        arrived: Counter[tuple[str, str]] = Counter(
            (entry.instance_id, entry.event_id)
            for entry in self.entries
            if entry.event_id is not None and entry.event_id.startswith("passed-")
        )
        for key in expected.keys() | arrived.keys():
            if expected[key] != arrived[key]:
                self.findings.append(f"passed on {expected[key]} times, arrived {arrived[key]} times: {key}")

    def _check_starts_and_cancels(self) -> None:
        for kind, expected in (("start", self.load.started), ("cancel", self.load.cancelled)):
            consumed = Counter(entry.instance_id for entry in self.entries if entry.type == kind)
            if consumed != Counter(expected):
                self.findings.append(
                    f"{kind}: acknowledged and consumed differ: {consumed - Counter(expected)}"
                    f" and {Counter(expected) - consumed}"
                )

    def _check_results(self, cluster: Cluster) -> None:
        """Each ended task has its one event for each obligation that it answers; each late result its one entry."""
        told = Counter(
            (entry.body["entry"]["taskId"], entry.body["key"])
            for entry in self.entries
            if entry.type == "task"
        )
        expected: Counter[tuple[str, str]] = Counter()
        for task_id, key, joined in cluster.query(
            "SELECT id, key, joined_keys FROM tasks WHERE status IN ('succeeded', 'failed')"
        ):
            expected.update((str(task_id), one) for one in (key, *(read(joined) if joined else ())))
        for pair in expected:
            if told[pair] != 1:
                self.findings.append(f"the result of task {pair} is on record {told[pair]} times")
        twice = [pair for pair, times in told.items() if times != 1]
        self.findings += [f"told {told[pair]} times: task {pair}" for pair in twice if pair not in expected]
        if self.late != cluster.attempts("late"):
            self.findings.append(f"{cluster.attempts('late')} late attempts, {self.late} on record")
