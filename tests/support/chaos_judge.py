"""The judgement after the chaos: what callers and handlers wrote outside the database, against what the database says.

Each instance has one right end, told by its story. Each acknowledged event stands in its history once, in the order of the
acknowledgements; each result counted once; each attempt that ended was really made, and none was made that nobody claimed; no
timer was early; never did more children of a shelf run than may. A finding is a sentence of one of four kinds: lost, doubled, stuck, wrong.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select

from common.canonical import read
from common.commands.doctor import examine
from common.db.tables import attempts, tasks
from tests.support import chaos_chart, chaos_kinds, chaos_saga
from tests.support.audit import Entry, find_gaps, read_entries
from tests.support.chaos_callers import Story
from tests.support.chaos_chart import CHILD_KEY, CHILDREN_AT_ONCE, LIGHT, LIMIT, context_at_the_end
from tests.support.chaos_report import Fault
from tests.support.cluster import Cluster
from tests.support.ledger import Ledger
from tests.support.overlap import most_at_once

FINAL = ("completed", "cancelled")
SUMS = {
    chaos_chart.KEY: chaos_chart.SUM,
    chaos_kinds.KEY: chaos_kinds.SUM,
    chaos_saga.KEY: chaos_saga.SUM,
}
"""What the work of an instance brings in all, by its definition."""
EXCUSED = ("task.lost", "map.item_failed", "engine.poison", chaos_saga.REFUSED)
"""Incidents that enough blows on one task or instance bring about by the rules; an operator retries them."""
SHOWN = 20
_FIRST = "SELECT count(*) FROM attempts a JOIN tasks t ON t.id = a.task_id WHERE a.attempt = 1"
_CALLED = (
    f"t.type = '{LIGHT}' AND a.outcome = 'succeeded' AND a.started_at > t.created_at AND EXISTS "
    "(SELECT 1 FROM history h WHERE h.instance_id = t.instance_id AND h.at = a.ended_at)"
)
"""A step that waits for a light handler goes on at the very instant at which it has its answer; who claims the task is told of it later."""
_ERASED = "SELECT id FROM instances WHERE erased_at IS NOT NULL"
"""Of these nobody can tell what their events said."""


@dataclass(frozen=True, slots=True)
class Finding:
    fault: Fault
    text: str


@dataclass
class Judgement:
    """What was found, and what there was."""

    findings: list[Finding] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, fault: Fault, texts: Iterable[str]) -> None:
        self.findings += [Finding(fault, text) for text in texts]

    def add_all(self, findings: Iterable[tuple[Fault, str]]) -> None:
        self.findings += [Finding(fault, text) for fault, text in findings]

    def number(self, fault: Fault) -> int:
        return sum(finding.fault == fault for finding in self.findings)

    def assert_clean(self) -> None:
        lines = [f"{finding.fault}: {finding.text}" for finding in self.findings[:SHOWN]]
        assert not self.findings, "\n".join([f"{len(self.findings)} findings:", *lines])


@dataclass(frozen=True, slots=True)
class _Instance:
    id: str
    key: str
    status: str
    business_key: str | None
    parent_id: str | None
    context: dict[str, Any]


def judge(cluster: Cluster, stories: Sequence[Story], ledger: Ledger) -> Judgement:
    """Compare the stories and the ledger with the database, which must be at rest."""
    entries = read_entries(cluster)
    instances = _read_instances(cluster)
    judgement = Judgement()
    judgement.add("lost", find_gaps(entries, cluster))
    report = examine(cluster.database)
    judgement.add("wrong", (f"the doctor found {problem}" for problem in report["problems"]))
    _judge_instances(judgement, stories, instances)
    _judge_events(judgement, stories, entries, {one.id: one.status for one in instances})
    _judge_results(judgement, cluster, entries)
    _judge_attempts(judgement, cluster, ledger)
    _judge_limit(judgement, cluster)
    _judge_timers(judgement, cluster)
    _judge_incidents(judgement, cluster)
    _judge_places(judgement, cluster)
    judgement.add("wrong", chaos_saga.judge_sagas(cluster, entries))
    judgement.counts |= {
        "instances": len(instances),
        "events": len(entries),
        "attempts": cluster.count("SELECT count(*) FROM attempts"),
        "handlers_called": len(ledger.lines("began")) + len(ledger.lines("called")),
        "late_results": cluster.attempts("late"),
        "lost_attempts": cluster.attempts("lost"),
        "leased_by_their_step": cluster.count(f"{_FIRST} AND a.started_at = t.created_at"),
        "called_by_their_step": cluster.count(f"{_FIRST} AND {_CALLED}"),
    }
    return judgement


def _read_instances(cluster: Cluster) -> list[_Instance]:
    rows = cluster.query(
        "SELECT id, definition_key, status, business_key, parent_id, snapshot FROM instances ORDER BY id"
    )
    return [
        _Instance(
            str(id_), key, status, business_key, None if parent is None else str(parent),
            read(snapshot)["context"] if snapshot else {},
        )
        for id_, key, status, business_key, parent, snapshot in rows
    ]  # fmt: skip


def _judge_instances(judgement: Judgement, stories: Sequence[Story], instances: Sequence[_Instance]) -> None:
    """One instance for each story and at most one child for each instance, each in its one right end."""
    by_id = {one.id: one for one in instances}
    starts = Counter((one.key, one.business_key) for one in instances if one.key in SUMS)
    judgement.add(
        "doubled", (f"{key} was started {times} times" for key, times in starts.items() if times > 1)
    )
    told = {story.instance_id for story in stories}
    judgement.add(
        "wrong", (f"{one} was never asked for" for one in instances if one.key in SUMS and one.id not in told)
    )
    for story in stories:
        instance = by_id.get(story.instance_id)
        if instance is None:
            judgement.add("lost", [f"{story} has no instance"])
        elif instance.status not in FINAL:
            judgement.add("stuck", [f"{instance} of {story}"])
        else:
            judgement.add("wrong", _wrong_end(story, instance))
    children: dict[str, list[_Instance]] = defaultdict(list)
    for one in instances:
        if one.key == CHILD_KEY:
            children[one.parent_id or "nobody"].append(one)
    for parent_id, those in children.items():
        parent = by_id[parent_id]
        if len(those) > 1:
            judgement.add("doubled", [f"{parent} has {len(those)} children"])
        right = FINAL if parent.status == "cancelled" else ("completed",)
        judgement.add("wrong", (f"{one} of {parent}" for one in those if one.status not in right))


def _wrong_end(story: Story, instance: _Instance) -> Iterable[str]:
    is_saga = story.key == chaos_saga.KEY  # closed by an operator once it is undone
    expected = "cancelled" if story.is_cancelled or is_saga else "completed"
    if instance.status != expected:
        yield f"expected {expected}: {instance} of {story}"
    right = context_at_the_end(story.acknowledged, sum=SUMS[story.key])
    if not story.is_cancelled and instance.context != right:
        yield f"expected the context {right}: {instance}"
    if story.is_cancelled:
        seen = instance.context.get("seen", [])
        if seen != story.acknowledged[: len(seen)] or instance.context.get("sum", 0) > right["sum"]:
            yield f"expected a beginning of {story.acknowledged}: {instance}"


def _judge_events(
    judgement: Judgement, stories: Sequence[Story], entries: Sequence[Entry], statuses: dict[str, str]
) -> None:
    """Each ADD is consumed once, in order: applied, or, overtaken by a cancel, rejected. Commands count once as well."""
    numbers: dict[str, list[int]] = defaultdict(list)
    said: dict[tuple[str, str], int] = Counter()
    for entry in entries:
        if entry.type == "event" and entry.body["type"] == "ADD":
            numbers[entry.instance_id].append(entry.body["n"])
            if not entry.was_applied and statuses.get(entry.instance_id) != "cancelled":
                judgement.add("lost", [f"not applied: {entry}"])
        elif entry.type == "event":
            said[entry.instance_id, entry.body["type"]] += 1
        else:
            said[entry.instance_id, entry.type] += 1
    for story in stories:
        consumed = numbers[story.instance_id]
        if consumed != story.acknowledged:
            fault: Fault = "doubled" if len(consumed) > len(set(consumed)) else "lost"
            judgement.add(fault, [f"{story} was consumed as {consumed}"])
        expected = Counter(verb for verb, _ in story.steps if verb != "ADD")
        for verb, times in expected.items():
            found = said[story.instance_id, verb]
            if found != times:
                judgement.add("lost" if found < times else "doubled", [f"{verb} of {story}: {found} times"])


def _judge_results(judgement: Judgement, cluster: Cluster, entries: Sequence[Entry]) -> None:
    """Each task that succeeded is told once as succeeded; each late result once. Of who is erased half of it is gone."""
    erased = {str(row[0]) for row in cluster.query(_ERASED)}
    entries = [entry for entry in entries if entry.instance_id not in erased]
    told = Counter(
        (entry.instance_id, change["key"])
        for entry in entries
        for change in entry.changes
        if change["type"] == "task.succeeded"
    )
    # Items of a MAP are told by the one answer that their MAP gives.
    rows = cluster.query(
        "SELECT instance_id, key FROM tasks WHERE status = 'succeeded' AND parent_task_id IS NULL "
        f"AND instance_id NOT IN ({_ERASED})"
    )
    succeeded = {(str(instance_id), key) for instance_id, key in rows}
    judgement.add("lost", (f"the result of task {pair} is nowhere" for pair in succeeded - told.keys()))
    judgement.add(
        "doubled", (f"task {pair} succeeded {times} times" for pair, times in told.items() if times > 1)
    )
    judgement.add(
        "wrong", (f"task {pair} is told as succeeded and is not" for pair in told.keys() - succeeded)
    )
    late = sum(entry.type == "task.late" for entry in entries)
    refused = cluster.count(  # of the items of a MAP the attempts alone tell
        "SELECT count(*) FROM attempts a JOIN tasks t ON t.id = a.task_id "
        f"WHERE a.outcome = 'late' AND t.parent_task_id IS NULL AND t.instance_id NOT IN ({_ERASED})"
    )
    if late != refused:
        judgement.add("wrong", [f"{refused} late attempts, {late} on record"])


def _judge_attempts(judgement: Judgement, cluster: Cluster, ledger: Ledger) -> None:
    """What ended by a handler was made by a handler, and no handler was called more often than its task was claimed.

    But light ones, of which the ledger only says that they were called: a step that is undone may have called some, and calls them again when it
    is taken again.
    """
    began = Counter((line.task_id, line.attempt) for line in ledger.lines("began"))
    ended = Counter(
        (line.task_id, line.attempt) for line in [*ledger.lines("ended"), *ledger.lines("called")]
    )
    claimed: Counter[tuple[str, int]] = Counter()
    answered: Counter[tuple[str, int]] = Counter()
    rows = cluster.query(
        "SELECT a.task_id, a.attempt, a.outcome, t.type FROM attempts a JOIN tasks t ON t.id = a.task_id"
    )
    for task_id, attempt, outcome, kind in rows:
        if kind.startswith("chaos."):  # the others keep no ledger
            claimed[str(task_id), attempt] += 1
            answered[str(task_id), attempt] += outcome in ("succeeded", "failed", "late", "continued")
        if outcome is None:
            judgement.add("stuck", [f"attempt {attempt} of task {task_id} never ended"])
    for attempt in answered:
        if ended[attempt] < answered[attempt]:
            judgement.add(
                "wrong", [f"attempt {attempt} has {answered[attempt]} outcomes, made {ended[attempt]} times"]
            )
    for attempt in began:
        if began[attempt] > claimed[attempt]:
            judgement.add(
                "doubled", [f"attempt {attempt} was claimed {claimed[attempt]} times, made {began[attempt]}"]
            )


def _judge_limit(judgement: Judgement, cluster: Cluster) -> None:
    """Of the attempts on record under the limit never more than it allows were between their claim and their end.

    A lost attempt ends with its lease. Its handler may go on for a while, and nobody can promise that it does not.
    """
    asked = select(attempts.c.started_at, attempts.c.ended_at)
    asked = asked.join_from(attempts, tasks, tasks.c.id == attempts.c.task_id).where(
        tasks.c.limit_key.is_not(None), attempts.c.ended_at.is_not(None)
    )
    with cluster.database.reading() as tx:
        spans = [(began, ended) for began, ended in tx.execute(asked)]
    most = most_at_once(spans)
    judgement.counts |= {"limited_attempts": len(spans), "limited_at_once": most}
    if most > LIMIT["maxRunning"]:
        judgement.add("wrong", [f"{most} attempts at once under a limit of {LIMIT['maxRunning']}"])


def _judge_timers(judgement: Judgement, cluster: Cluster) -> None:
    """Promise 5: never early."""
    early = cluster.query(
        "SELECT id, due_at, finished_at FROM timers WHERE status = 'fired' AND finished_at < due_at"
    )
    judgement.add(
        "wrong", (f"timer {id_} was due at {due} and fired at {fired}" for id_, due, fired in early)
    )


def _judge_places(judgement: Judgement, cluster: Cluster) -> None:
    """Never more ran at once than have places. Who has failed had given its place back, and is left out."""
    spans = defaultdict(list)
    for shelf, began, ended in cluster.query(
        f"SELECT concurrency_key, started_at, finished_at FROM instances i WHERE definition_key = '{CHILD_KEY}' "
        "AND started_at IS NOT NULL AND finished_at IS NOT NULL "
        "AND NOT EXISTS (SELECT 1 FROM incidents WHERE instance_id = i.id)"
    ):
        spans[shelf].append((began, ended))
    most = {shelf: most_at_once(those) for shelf, those in spans.items()}
    judgement.counts["children_at_once"] = max(most.values(), default=0)
    judgement.add(
        "wrong",
        (
            f"{number} children of the shelf {shelf} ran at once, {CHILDREN_AT_ONCE} may"
            for shelf, number in most.items()
            if number > CHILDREN_AT_ONCE
        ),
    )


def _judge_incidents(judgement: Judgement, cluster: Cluster) -> None:
    codes: Counter[str] = Counter()
    for code, detail in cluster.query("SELECT code, detail FROM incidents"):
        lost = code == "compensation.failed" and read(detail)["error"]["code"] == "task.lost"
        codes["task.lost" if lost else code] += 1
    for code, number in codes.items():
        judgement.counts[f"incidents {code}"] = number
        if code not in EXCUSED:
            judgement.add("wrong", [f"{number} incidents {code}"])
