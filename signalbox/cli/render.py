"""API bodies as people read them: pure functions from JSON to rich renderables. Nothing here asks or prints.

Into a pipe the same renderables come out as plain columns, see `output.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.json import JSON
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from common.ids import is_id
from signalbox.cli.console import DrawnTable
from signalbox.shapes import (
    Breaker,
    Config,
    Definition,
    DefinitionDiff,
    DefinitionStatistics,
    DefinitionSummary,
    DocumentChange,
    Entry,
    Failure,
    Incident,
    IncidentDetail,
    Instance,
    Json,
    Metadata,
    Poll,
    Problem,
    Reaction,
    Resolved,
    Result,
    Schedule,
    ScheduleRun,
    Suggestion,
    Task,
    Trigger,
    Verdict,
    VersionFigures,
)

STATUS_STYLES: Mapping[str, str] = {
    "pending": "dim",
    "running": "blue",
    "waiting": "yellow",
    "paused": "magenta",
    "compensating": "magenta",
    "completed": "green",
    "succeeded": "green",
    "active": "green",
    "failed": "bold red",
    "open": "bold red",
    "cancelled": "dim",
    "timed_out": "red",
    "skipped": "dim",
    "inactive": "dim",
    "draft": "yellow",
    "archived": "dim",
    "resolved": "green",
}

ENTRY_STYLES: Mapping[str, str] = {
    "instance.started": "bold",
    "instance.completed": "bold green",
    "instance.failed": "bold red",
    "instance.cancelled": "bold",
    "instance.erased": "bold",
    "erased": "dim",
    "state.changed": "cyan",
    "task.succeeded": "green",
    "task.failed": "red",
    "child.completed": "green",
    "child.failed": "red",
    "child.refused": "red",
    "event.received": "blue",
    "event.ignored": "dim",
    "event.rejected": "yellow",
    "ai.decided": "magenta",
    "incident.opened": "bold red",
    "error.execution": "red",
    "guard.failed": "yellow",
    "note": "italic",
}

LONGEST_SUMMARY = 100
SHOWN_HASH = 10
SHOWN_ID = 8


# --- words ----------------------------------------------------------------------------------------------------


def status_text(status: str) -> Text:
    return Text(status, STATUS_STYLES.get(status, ""))


def instant(text: str | None) -> str:
    """An instant in this machine's time zone, to the second; empty for none."""
    return "" if text is None else _parse(text).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _tries(task: Mapping[str, Any], of: str) -> str:
    """The attempt that a task is at, of how many; empty for what goes on without any, as a person's does."""
    has_none = task["attempt"] == 0 and task["status"] != "pending"
    return "" if has_none else f"{task['attempt']}{of}{task['maxAttempts']}"


def clock_time(text: str) -> str:
    """The time of day of an instant in this machine's time zone, to the millisecond."""
    return _parse(text).astimezone().strftime("%H:%M:%S.%f")[:-3]


def ago(text: str | None, now: datetime | None = None) -> str:
    """How long an instant is past: "3 s ago", "2 h ago"; "in 5 min" for one to come; empty for none."""
    if text is None:
        return ""
    past = (now or datetime.now(UTC)) - _parse(text)
    told = duration(abs(past))
    return f"{told} ago" if past >= timedelta(0) else f"in {told}"


def duration(span: timedelta) -> str:
    """A span in one unit that a person would choose: "12 ms", "3.4 s", "5 min", "2 h", "3 d"."""
    seconds = span.total_seconds()
    if seconds < 1:
        return f"{seconds * 1_000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    raise AssertionError("unreachable: 60 seconds are a minute")


def between(start: str, end: str) -> timedelta:
    """The span from one instant to another."""
    return _parse(end) - _parse(start)


def _parse(text: str) -> datetime:
    return datetime.fromisoformat(text)


def compact(value: Json) -> str:
    """A JSON value on one line."""
    return orjson.dumps(value).decode()


def count(number: int, thing: str) -> str:
    """A number of things: "1 row", "2 rows"."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def short(text: str, length: int = LONGEST_SUMMARY) -> str:
    """A text on one line, cut with an ellipsis."""
    line = " ".join(text.split())
    return line if len(line) <= length else f"{line[: length - 1]}…"


def unopened(number: int) -> str:
    """What is wrong with so many secrets whose key is not here, and what to do."""
    them = "it" if number == 1 else "them"
    return (
        f"{count(number, 'secret')} cannot be opened, and tasks that use {them} fail: sealed under a key that neither SIGNALBOX_SECRET "
        "nor SIGNALBOX_OLD_SECRETS is that of. Name the older secret in SIGNALBOX_OLD_SECRETS of every process and run "
        f"`signalbox secrets rotate`, or set {them} again with `signalbox secrets set NAME`"
    )


def failure(error: Mapping[str, Any] | None) -> str:
    """An error as `code: message`: a message alone, such as that of a KeyError, may say nothing; empty for none."""
    return "" if not error else ": ".join(filter(None, (error.get("code"), error.get("message"))))


def cause(code: str, message: str, detail: Json) -> str:
    """What an incident says, with what went wrong first: `KeyError: 'sku' (task "price" failed and no transition takes …)`.

    It is stored the other way round, and stays so: the message stands in the history, which a replay has to give again.
    """
    error = detail.get("error") if isinstance(detail, Mapping) else None
    said = error.get("message") if isinstance(error, Mapping) else None
    if said is None or not message.endswith(f": {said}"):
        return failure({"code": code, "message": message})
    return f"{failure(error)} ({message.removesuffix(f': {said}')})"


def instance_failure(error: Failure) -> str:
    """Why an instance has failed: what its incident says."""
    return cause(error.get("code", ""), error.get("message", ""), error.get("data"))


# --- building blocks --------------------------------------------------------------------------------------------


def plain_table(*columns: str, right: Sequence[str] = ()) -> Table:
    """A table with a ruled head; the columns named in `right` hold numbers."""
    table = DrawnTable(box=SIMPLE_HEAD, pad_edge=False, header_style="bold", show_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return table


def facts(pairs: Iterable[tuple[str, RenderableType | None]]) -> Table:
    """Names and values, one a line; what is None or empty is left out."""
    grid = DrawnTable.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column(overflow="fold")
    for name, value in pairs:
        if value is not None and value != "":
            grid.add_row(name, value)
    return grid


def section(title: str, body: RenderableType) -> Group:
    return Group(Text(""), Text(title, "bold"), Padding(body, (0, 0, 0, 2), expand=False))


def json_block(value: Json) -> RenderableType:
    return JSON(compact(value), indent=2)


def list_or(empty: str, table: Table) -> RenderableType:
    """A table, or a sentence where it has no rows."""
    return table if table.row_count else Text(empty, "dim")


# --- problems ---------------------------------------------------------------------------------------------------


def problem_line(problem: Problem | Mapping[str, Any]) -> Text:
    """One problem: where, what, and what was probably meant."""
    is_error = problem.get("severity", "error") == "error"
    line = Text("  ")
    line.append("✗ " if is_error else "! ", "red" if is_error else "yellow")
    if problem.get("path"):
        line.append(f"{problem['path']}: ", "bold")
    line.append(str(problem.get("message") or problem.get("code") or compact(dict(problem))))
    if problem.get("suggestion"):
        line.append(f'; did you mean "{problem["suggestion"]}"?', "green")
    if problem.get("code"):
        line.append(f"  [{problem['code']}]", "dim")
    return line


# --- definitions ------------------------------------------------------------------------------------------------


def definitions_table(
    definitions: Iterable[DefinitionSummary], *, search: str | None = None
) -> RenderableType:
    table = plain_table(
        "key", "version", "status", "applied", "by", "warnings", right=("version", "warnings")
    )
    for one in definitions:
        table.add_row(
            one["key"],
            str(one["version"]),
            status_text(one["status"]),
            instant(one.get("createdAt")),
            one.get("createdBy", ""),
            str(len(one.get("warnings") or ()) or ""),
        )
    none = (
        f'no definition has "{search}" in its key'
        if search
        else "no definitions yet; apply one with `signalbox apply FILE`"
    )
    return list_or(none, table)


def definition_facts(one: Definition) -> RenderableType:
    head = facts(
        [
            ("definition", Text.assemble((one["key"], "bold"), f" version {one['version']}")),
            ("status", status_text(one["status"])),
            ("id", one["id"]),
            ("applied", f"{instant(one['createdAt'])} by {one['createdBy']}"),
            ("checksum", one["checksum"]),
            ("labels", label_text(one["labels"])),
        ]
    )
    parts: list[RenderableType] = [head]
    if one["warnings"]:
        parts.append(section("warnings", Group(*(problem_line(problem) for problem in one["warnings"]))))
    return Group(*parts, section("document", json_block(one["document"])))


def definition_diff(found: DefinitionDiff) -> RenderableType:
    head = Text.assemble((found["key"], "bold"), f" version {found['from']} → {found['to']}")
    lines = [_change_line(one) for one in found["changes"]]
    if found["truncated"]:
        lines.append(Text("… and more; see both by `signalbox definitions show`", "yellow"))
    return Group(head, *(lines or [Text("the same document")]))


_SIGNS = {
    "added": ("+ ", "green"),
    "removed": ("- ", "red"),
    "changed": ("~ ", "yellow"),
    "reordered": ("↕ ", "yellow"),
}


def _change_line(one: DocumentChange) -> Text:
    said = {
        "added": compact(one["after"]),
        "removed": compact(one["before"]),
        "changed": f"{short(compact(one['before']))} → {compact(one['after'])}",
        "reordered": f"in the order {', '.join(one['after'] or ())}",
    }
    return Text.assemble(
        _SIGNS[one["kind"]], one["path"] or "the document", ": ", short(said[one["kind"]], 200)
    )


def definition_stats(found: DefinitionStatistics) -> RenderableType:
    versions = plain_table(
        "version",
        "instances",
        "how they stand",
        "mean",
        "longest",
        "last one",
        right=("instances", "mean", "longest"),
    )
    for one in found["versions"]:
        versions.add_row(str(one["version"]), *_figures(one))
    if len(found["versions"]) > 1:
        versions.add_row("all", *_figures(found))
    tasks = plain_table(
        "task", "type", "total", "succeeded", "failed", "open", "attempts", "mean", "longest",
        right=("total", "succeeded", "failed", "open", "attempts", "mean", "longest"),
    )  # fmt: skip
    for task in found["tasks"]:
        tasks.add_row(
            task["name"], task["type"], str(task["total"]), str(task["succeeded"]), str(task["failed"] or ""),
            str(task["open"] or ""), f"{task['meanAttempts']:g}", _time(task["meanMs"]), _time(task["longestMs"]),
        )  # fmt: skip
    return Group(
        Text.assemble((found["key"], "bold"), f" since {instant(found['since'])}"),
        section("versions", list_or("no instances in this time", versions)),
        section("tasks", list_or("no tasks in this time", tasks)),
    )


def _figures(one: VersionFigures) -> tuple[RenderableType, ...]:
    parts: list[Text | str] = []
    for status, number in one["instances"].items():
        parts += [", " if parts else "", Text.assemble(f"{number} ", status_text(status))]
    return (
        str(one["total"]),
        Text.assemble(*parts),
        _time(one["meanMs"]),
        _time(one["longestMs"]),
        ago(one["lastCreatedAt"]),
    )


def _time(milliseconds: int | None) -> str:
    return "" if milliseconds is None else duration(timedelta(milliseconds=milliseconds))


def label_text(labels: Mapping[str, str] | None) -> str:
    return ", ".join(f"{name}={value}" for name, value in sorted((labels or {}).items()))


# --- instances --------------------------------------------------------------------------------------------------


def instances_table(instances: Iterable[Instance], now: datetime | None = None) -> RenderableType:
    table = plain_table(
        "id", "definition", "status", "state", "business key", "started", "took", right=("took",)
    )
    for one in instances:
        finished = one["finishedAt"]
        table.add_row(
            Text(one["id"], no_wrap=True),
            f"{one['definitionKey']} v{one['definitionVersion']}",
            status_text(one["status"])
            if not one.get("queued")
            else Text.assemble(status_text(one["status"]), " queued"),
            configuration_text(one["configuration"]),
            one["businessKey"] or "",
            ago(one["createdAt"], now),
            duration(between(one["createdAt"], finished)) if finished else "",
        )
    return list_or("no instances match", table)


def _of_key(key: str | None) -> str:
    return f' of the key "{key}"' if key else ""


def configuration_text(configuration: Sequence[str]) -> str:
    return ", ".join(configuration)


def instance_facts(
    one: Instance,
    tasks: Sequence[Task] = (),
    incidents: Sequence[Incident] = (),
    children: Sequence[Instance] = (),
) -> RenderableType:
    finished = one["finishedAt"]
    took = f", took {duration(between(one['createdAt'], finished))}" if finished else ""
    head = facts(
        [
            ("instance", Text(one["id"], "bold")),
            ("definition", f"{one['definitionKey']} version {one['definitionVersion']}"),
            ("status", status_text(one["status"])),
            ("state", configuration_text(one["configuration"])),
            ("business key", one["businessKey"]),
            ("waits for", f"a place{_of_key(one['concurrencyKey'])}" if one.get("queued") else None),
            ("labels", label_text(one["labels"])),
            ("parent", one["parentId"]),
            ("created", instant(one["createdAt"])),
            ("finished", f"{instant(finished)}{took}" if finished else None),
            ("deadline", instant(one["deadlineAt"])),
            ("data erased", instant(one["erasedAt"])),
        ]
    )
    parts: list[RenderableType] = [head]
    error = one["error"]
    if error:
        parts.append(section("error", Text(instance_failure(error), "red")))
    for title in ("input", "context", "output"):
        value = one[title]
        if value not in (None, {}):
            parts.append(section(title, json_block(value)))
    if tasks:
        parts.append(section("tasks", tasks_table(tasks)))
    if children:
        parts.append(section("children", instances_table(children)))
    if incidents:
        parts.append(section("incidents", incidents_table(incidents)))
    return Group(*parts)


def bulk_view(doing: str, answer: Mapping[str, Any]) -> Text:
    """What became of many: how many were accepted, and each refusal with its reason."""
    if not answer["accepted"] and not answer["refused"]:
        return Text("none match the filter: nothing is done", "yellow")
    view = Text(f"would {doing}" if answer["dryRun"] else f"accepted: {doing}", "bold")
    for refusal in answer["refused"]:
        view.append(f"\n{refusal['detail']}", "red")
    if answer["dryRun"]:
        for id_ in answer["accepted"]:
            view.append(f"\n{id_}", "dim")
    return view


def settled_line(one: Instance) -> Text:
    """One line that says how an instance stands."""
    line = Text.assemble((one["id"], "bold"), "  ", status_text(one["status"]))
    if one["configuration"]:
        line.append(f"  {configuration_text(one['configuration'])}", "cyan")
    error = one["error"]
    if error:
        line.append(f"  {instance_failure(error)}", "red")
    elif one["finishedAt"]:
        line.append(f"  in {duration(between(one['createdAt'], one['finishedAt']))}", "dim")
    return line


def untaken_view(one: Instance, untaken: Mapping[str, Any]) -> Text:
    """How an instance stands, and why an event has changed nothing about that."""
    event, reason = untaken["event"], untaken["reason"]
    why = _NOT_TAKEN.get(reason, str(reason)).format(event=event)
    if reason == "no_transition" and event in untaken["taken"]:
        why = f"{event} is taken under a condition, which this one does not meet"
    elif reason == "no_transition" and event in untaken["guarded"]:
        why = f"{event} is taken under a condition, which does not hold: `signalbox explain {one['id']}` shows it"
    taken = ", ".join(untaken["taken"]) or "nothing"
    line = settled_line(one)
    return line.append(f"\n{untaken['entry'].removeprefix('event.')}: {why}; taken now: {taken}", "yellow")


_NOT_TAKEN = {
    "no_transition": "no active state takes {event}",
    "forbidden": "an active state forbids {event}",
    "compensating": "it is being undone, and takes no {event} any more",
    "not_started": "it has not started",
}


# --- history ----------------------------------------------------------------------------------------------------


def entry_line(entry: Entry, began: str) -> Text:
    """One entry of a timeline: the time of day, the time since `began`, its place, its type, what it says."""
    line = Text(no_wrap=True, overflow="ellipsis")
    line.append(clock_time(entry["at"]), "dim")
    line.append(f"  {'+' + duration(between(began, entry['at'])):>9}", "dim")
    line.append(f"  {entry['sequence']:>5}  ")
    line.append(f"{entry['type']:<19}", ENTRY_STYLES.get(entry["type"], ""))
    line.append(" ")
    line.append(summary(entry))
    return line


def history_table(entries: Iterable[Entry]) -> RenderableType:
    table = plain_table("no.", "at", "entry", "what", "actor", "hash", right=("no.",))
    last_hash = None
    for entry in entries:
        is_same_row = entry["hash"] == last_hash
        last_hash = entry["hash"]
        table.add_row(
            entry["sequence"],
            "" if is_same_row else clock_time(entry["at"]),
            Text(entry["type"], ENTRY_STYLES.get(entry["type"], "")),
            summary(entry),
            "" if is_same_row else actor_text(entry["actor"]),
            "" if is_same_row else Text(entry["hash"][:SHOWN_HASH], "dim"),
        )
    return list_or("no history yet", table)


def summary(entry: Entry) -> str:
    """What an entry says, on one line; entries without a sentence of their own show their payload."""
    payload = entry["payload"] or {}
    told = _SUMMARIES.get(entry["type"])
    if told is not None:
        return short(told(payload))
    return short(compact(payload)) if payload else ""


def _state_changed(payload: Mapping[str, Any]) -> str:
    return f"→ {', '.join(payload.get('configuration') or ())}"


def _assigned(payload: Mapping[str, Any]) -> str:
    return f"{payload.get('path')} = {compact(payload.get('value'))}"


def _task(payload: Mapping[str, Any]) -> str:
    kind = payload.get("taskType") or ""
    name = payload.get("name") or ""
    told = " ".join(dict.fromkeys(filter(None, (kind, name)))) or str(payload.get("key", ""))
    error = payload.get("error")
    if isinstance(error, Mapping):
        told += f": {failure(error)}"
    return told


def _child(payload: Mapping[str, Any]) -> str:
    told = " ".join(filter(None, (payload.get("definitionKey"), payload.get("instanceId"))))
    error = payload.get("error")
    return f"{told}: {failure(error)}" if isinstance(error, Mapping) else told


def _event(payload: Mapping[str, Any]) -> str:
    reason = payload.get("reason")
    return f"{payload.get('eventType', '')}{f' ({reason})' if reason else ''}"


def _timer(payload: Mapping[str, Any]) -> str:
    due = payload.get("dueAt")
    return f"{payload.get('key', '')}{f' due {instant(due)}' if isinstance(due, str) else ''}"


def _message(payload: Mapping[str, Any]) -> str:
    return str(payload.get("message") or payload.get("note") or payload.get("reason") or "")


def _completed(payload: Mapping[str, Any]) -> str:
    output = payload.get("output")
    return "" if output is None else f"output {compact(output)}"


def _model(payload: Mapping[str, Any]) -> str:
    event = payload.get("event")
    named = "" if event is None else f" {short(str(event), 60)}"
    return f"{payload.get('verdict')}{named} ({payload.get('why')})"


def _suggestion(payload: Mapping[str, Any]) -> str:
    return short(f"{payload.get('event')} {payload.get('comment') or ''}".strip(), 80)


_SUMMARIES = {
    "ai.decided": _model,
    "ai.suggestion.accepted": _suggestion,
    "ai.suggestion.rejected": _suggestion,
    "state.changed": _state_changed,
    "context.assigned": _assigned,
    "task.created": _task,
    "task.succeeded": _task,
    "task.failed": _task,
    "task.cancelled": _task,
    "task.late": _task,
    **{
        f"child.{what}": _child
        for what in (
            "started",
            "completed",
            "skipped",
            "failed",
            "cancelled",
            "timed_out",
            "refused",
            "released",
        )
    },
    "event.received": _event,
    "event.ignored": _event,
    "event.rejected": _event,
    "event.raised": _event,
    "timer.armed": _timer,
    "timer.fired": _timer,
    "timer.cancelled": _timer,
    "incident.opened": _message,
    "error.execution": _message,
    "guard.failed": _message,
    "note": _message,
    "log": _message,
    "machine.done": _completed,
    "instance.completed": _completed,
    "instance.cancelled": _message,
}


def actor_text(actor: str) -> str:
    """Who did it; of an id only the end, which tells ids of one second apart."""
    kind, separator, name = actor.partition(":")
    return f"{kind}:…{name[-SHOWN_ID:]}" if separator and is_id(name) else actor


def verdict_line(verdict: Verdict) -> Text:
    """What `verify` found, in one line."""
    counted = count(verdict["entries"], "row")
    if verdict["valid"]:
        erased = f", the bodies of {verdict['erased']} erased" if verdict["erased"] else ""
        replayed = ", replaying them gives the stored state" if verdict["replayed"] else ""
        return Text.assemble(("✓ ", "green"), ("chain verified", "green"), f": {counted}{erased}{replayed}")
    line = Text.assemble(("✗ ", "red"), ("history does not verify", "bold red"), f": {counted}")
    for problem in verdict["problems"]:
        line.append(f"\n  {problem if isinstance(problem, str) else compact(problem)}", "red")
    return line


# --- tasks, incidents, figures -------------------------------------------------------------------------------------


def tasks_table(tasks: Iterable[Task]) -> RenderableType:
    table = plain_table("id", "type", "name", "status", "attempt", "run at", "error")
    for one in tasks:
        table.add_row(
            Text(one["id"], no_wrap=True),
            one["type"],
            one["name"],
            _task_status(one),
            _tries(one, "/"),
            instant(one["runAt"]),
            short(failure(one["error"]), 60),
        )
    return list_or("no tasks match", table)


def _task_status(one: Task) -> Text:
    """Its status, and that it waits for a circuit breaker: its time of running is then that of a look, and no retry's."""
    text = status_text(one["status"])
    return text if one.get("waitsFor") is None else Text.assemble(text, " circuit breaker")


def configs_table(found: Iterable[Config]) -> RenderableType:
    table = plain_table("module", "key", "value", "scope", "of", "changed by", "at")
    for one in found:
        table.add_row(
            one["module"],
            Text(one["key"], "bold"),
            short(compact(one["value"]), 60),
            one["scope"],
            one["scopeId"] or "",
            one["updatedBy"],
            instant(one["updatedAt"]),
        )
    return list_or("nothing is configured", table)


def results_table(found: Iterable[Result]) -> RenderableType:
    table = plain_table("state", "name", "type", "status", "output or error", "tries", "runs", "took")
    for one in found:
        took = one["durationMs"]
        error = one["error"]
        table.add_row(
            one["state"],
            Text(one["name"], "bold"),
            one["type"],
            status_text(one["status"]),
            short(failure(error) if error else compact(one["output"]), 60),
            str(one["attempts"]),
            str(one["runs"]),
            "" if took is None else duration(timedelta(milliseconds=took)),
        )
    return list_or("it has asked for no task", table)


def metadata_table(found: Iterable[Metadata]) -> RenderableType:
    table = plain_table("key", "value", "changed by", "at")
    for one in found:
        table.add_row(
            Text(one["key"], "bold"),
            short(compact(one["value"]), 80),
            one["updatedBy"],
            instant(one["updatedAt"]),
        )
    return list_or("no metadata", table)


def schedules_table(found: Iterable[Schedule], now: datetime | None = None) -> RenderableType:
    table = plain_table("id", "name", "definition", "when", "status", "next", "fired", right=("fired",))
    for one in found:
        table.add_row(
            one["id"],
            Text(one["name"] or "", "bold"),
            one["definitionKey"],
            _when(one),
            status_text(one["status"]),
            ago(one["nextAt"], now),
            str(one["fired"]),
        )
    return list_or("no schedules match", table)


def schedule_facts(one: Schedule) -> RenderableType:
    error = one["lastError"]
    head = facts(
        [
            ("schedule", one["id"]),
            ("name", one["name"]),
            ("definition", one["definitionKey"]),
            ("when", _when(one)),
            ("status", status_text(one["status"])),
            ("overlap", one["overlap"]),
            ("catch-up", one["catchUp"]),
            ("jitter", duration(timedelta(milliseconds=one["jitter"])) if one["jitter"] else None),
            ("business key", one["businessKey"]),
            ("waiting", ", ".join(instant(at) for at in one["queued"])),
            ("fired", f"{one['fired']}, skipped {one['skipped']}, refused {one['refused']}"),
            ("last fired", instant(one["lastFiredAt"])),
            ("last instance", one["lastInstanceId"]),
            ("last error", None if error is None else Text(f"{error['message']}  [{error['code']}]", "red")),
        ]
    )
    parts: list[RenderableType] = [head]
    if one["input"] is not None:
        parts.append(section("input", json_block(one["input"])))
    runs = one.get("nextRuns")
    if runs:
        parts.append(section("next runs", runs_table(runs)))
    return Group(*parts)


def breakers_table(found: Iterable[Breaker]) -> RenderableType:
    table = plain_table("type", "target", "state", "failures", "waiting", "next try", "last error")
    for one in found:
        table.add_row(
            one["type"],
            Text(one["target"], "bold"),
            status_text(one["state"] + (" by an operator" if one["forced"] else "")),
            f"{one['failures']} of {one['failures'] + one['successes']}",
            str(one["waiting"]),
            "" if one["retryAt"] is None else instant(one["retryAt"]),
            Text(one["lastError"] or "", "red"),
        )
    return list_or("no circuit breakers: no call of a target that one watches has failed lately", table)


def triggers_table(found: Iterable[Trigger]) -> RenderableType:
    table = plain_table("id", "name", "event", "definition", "source", "status")
    for one in found:
        table.add_row(
            one["id"],
            Text(one["name"] or "", "bold"),
            one["event"],
            one["definitionKey"],
            one["source"],
            status_text(_trigger_status(one)),
        )
    return list_or("no triggers match", table)


def trigger_facts(one: Trigger) -> RenderableType:
    head = facts(
        [
            ("trigger", one["id"]),
            ("name", one["name"]),
            ("event", one["event"]),
            ("definition", one["definitionKey"]),
            ("source", one["source"]),
            ("status", status_text(_trigger_status(one))),
            ("condition", None if one["condition"] is None else compact(one["condition"])),
            ("business key", one["businessKey"]),
        ]
    )
    return head if one["input"] is None else Group(head, section("input", json_block(one["input"])))


def _trigger_status(one: Trigger) -> str:
    return "disabled" if not one["enabled"] else "active" if one["active"] else "inactive"


def reactions_table(found: Iterable[Reaction]) -> RenderableType:
    table = plain_table("what", "definition", "instance", "why")
    for one in found:
        why = (one["problem"] or {}).get("detail", "")
        table.add_row(one["kind"], one["definitionKey"] or "", one["instanceId"] or "", short(str(why)))
    return list_or("nothing answers it", table)


def runs_table(found: Iterable[ScheduleRun]) -> RenderableType:
    table = plain_table("for", "due")
    for run in found:
        table.add_row(instant(run["scheduledAt"]), instant(run["dueAt"]))
    return list_or("no run is to come", table)


def _when(one: Schedule) -> str:
    if one["every"] is not None:
        return f"every {one['every']}"
    return f"{one['cron'] or one['at']} {one['timezone']}"


def resolved_table(found: Mapping[str, Resolved]) -> RenderableType:
    table = plain_table("key", "value", "source")
    for key, one in found.items():
        table.add_row(Text(key, "bold"), short(compact(one["value"]), 100), one["source"])
    return table


def task_facts(one: Task) -> RenderableType:
    waits = one.get("waitsFor")
    parts: list[RenderableType] = [
        facts(
            [
                ("task", Text(one["id"], "bold")),
                ("instance", one["instanceId"]),
                ("type", one["type"]),
                ("name", one["name"]),
                ("status", status_text(one["status"])),
                *_poll_facts(one.get("poll")),
                *_map_facts(one),
                ("attempt", _tries(one, " of ")),
                ("limit", one.get("limitKey")),
                ("run at", instant(one["runAt"])),
                ("waits for", Text(waits["reason"], "red") if waits is not None else None),
                ("title", _text_or_none(one.get("title"))),
                ("assignee", one.get("assignee")),
                ("candidates", ", ".join(one.get("candidates") or ()) or None),
                ("four eyes", "neither who started it, nor twice the same" if one.get("fourEyes") else None),
                ("due", instant(one.get("dueAt"))),
                ("ended by", one.get("endedBy")),
            ]
        )
    ]
    description = _text_or_none(one.get("description"))
    if description is not None:  # what a person decides on, as a link shows it
        parts.append(section("description", Text(description)))
    if one.get("form") is not None:
        parts.append(section("form", json_block(one["form"])))
    for title in ("input", "output", "error", "progress"):
        value = one[title]
        if value is not None:
            parts.append(section(title, json_block(value)))
    if one["attempts"]:
        parts.append(section("attempts", _attempts_table(one["attempts"])))
    last = next((attempt for attempt in reversed(one["attempts"]) if attempt.get("trace")), None)
    if last is not None:
        title = f"trace of attempt {last['attempt']}"
        parts.append(section(title, Text(last["trace"].rstrip())))
    return Group(*parts)


def _text_or_none(value: Json) -> str | None:
    """A title or description may be any JSON that a definition came to."""
    return value if value is None or isinstance(value, str) else compact(value)


def _map_facts(one: Task) -> list[tuple[str, str | Text | None]]:
    """Of a MAP how far it is, of an item which one of which MAP it is."""
    told: list[tuple[str, str | Text | None]] = []
    items, parent = one.get("items"), one.get("parentTaskId")
    if items is not None:
        counts = ", ".join(f"{items[name]} {name}" for name in ("succeeded", "failed", "open"))
        told.append(("items", f"{items['total']}: {counts}"))
    if parent is not None:
        told.append(("item", f"{one.get('index')} of MAP {parent}"))
    return told


def _poll_facts(poll: Poll | None) -> list[tuple[str, str | Text | None]]:
    """What is said of a POLL: what it asks, how often it has, and what it waits for."""
    if poll is None:
        return []
    most = f" of {poll['maxAttempts']}" if poll["maxAttempts"] is not None else ""
    bound = f" for {poll['timeoutMs'] / 1_000:g} s" if poll["timeoutMs"] is not None else ""
    return [
        ("asks", f"{poll['type']} every {poll['intervalMs'] / 1_000:g} s{bound}"),
        ("until", poll["until"]),
        ("polls", f"{poll['polls']}{most}"),
        ("last poll", instant(poll["lastPolledAt"])),
    ]


def _attempts_table(attempts: Sequence[Mapping[str, Any]]) -> RenderableType:
    table = plain_table("attempt", "started", "ended", "outcome", "error", right=("attempt",))
    for one in attempts:
        error = one.get("error")
        table.add_row(
            str(one.get("attempt", "")),
            instant(one.get("startedAt")),
            instant(one.get("endedAt")),
            status_text(str(one.get("outcome") or "running")),
            short(failure(error), 80) if isinstance(error, Mapping) else "",
        )
    return table


def suggestions_table(suggestions: Iterable[Suggestion]) -> RenderableType:
    table = plain_table("id", "instance", "event", "reason", "confidence", "status", "made")
    for one in suggestions:
        table.add_row(
            Text(one["id"], no_wrap=True),
            Text(one["instanceId"], no_wrap=True),
            short(one["event"], 60),
            short(one["reason"], 80),
            "" if one["confidence"] is None else f"{one['confidence']:.2f}",
            status_text(one["status"]),
            ago(one["createdAt"]),
        )
    return list_or("no suggestions", table)


def incidents_table(incidents: Iterable[Incident]) -> RenderableType:
    table = plain_table("id", "instance", "code", "message", "status", "opened")
    for one in incidents:
        table.add_row(
            Text(one["id"], no_wrap=True),
            Text(one["instanceId"], no_wrap=True),
            one["code"],
            short(_cause_of(one)),
            status_text(one["status"]),
            ago(one["openedAt"]),
        )
    return list_or("no incidents", table)


def _cause_of(one: Incident) -> str:
    return cause(one["code"], one["message"], one["detail"])


def incident_facts(one: IncidentDetail) -> RenderableType:
    """An incident, what else is known of it, and the task that failed with the trace of its last attempt."""
    resolved = f"{instant(one['resolvedAt'])} by {one['resolvedBy']}" if one["resolvedAt"] else None
    head = facts(
        [
            ("incident", Text(one["id"], "bold")),
            ("instance", one["instanceId"]),
            ("code", one["code"]),
            ("cause", Text(_cause_of(one), "red")),
            ("status", status_text(one["status"])),
            ("opened", f"{instant(one['openedAt'])}, {ago(one['openedAt'])}"),
            ("in the history", f"no. {one['sequence']}"),
            ("resolved", resolved),
            ("resolution", one["resolution"]),
            ("key held by", one.get("keyHolder")),
            ("ways out", ", ".join(one["waysOut"])),
        ]
    )
    parts: list[RenderableType] = [head]
    if one["detail"]:
        parts.append(section("detail", nested(one["detail"])))
    if one["task"] is not None:
        parts.append(section("task", task_facts(one["task"])))
    return Group(*parts)


def stats_view(stats: Mapping[str, Any]) -> RenderableType:
    inbox = stats.get("inbox") or {}
    parts: list[RenderableType] = [
        section("instances", _counts(stats.get("instances") or {})),
        section("tasks", _counts(stats.get("tasks") or {})),
        section(
            "inbox",
            facts(
                [
                    ("waiting", str(inbox.get("waiting", 0))),
                    ("oldest", f"{inbox['oldestSeconds']:.1f} s" if inbox.get("oldestSeconds") else None),
                    ("stalled instances", str(stats.get("stalled", 0))),
                ]
            ),
        ),
        section("workers", _workers_table(stats.get("workers") or ())),
    ]
    return Group(*parts)


def _counts(counts: Mapping[str, int]) -> RenderableType:
    if not any(counts.values()):
        return Text("none", "dim")
    return facts(
        (name, Text(str(count), STATUS_STYLES.get(name, ""))) for name, count in counts.items() if count
    )


def _workers_table(workers: Iterable[Mapping[str, Any]]) -> RenderableType:
    table = plain_table("duty", "host", "pid", "slots", "since", "seen", "status", right=("pid", "slots"))
    for one in workers:
        table.add_row(
            str(one.get("duty", "")),
            str(one.get("host", "")),
            str(one.get("pid", "")),
            str(one.get("slots", "")),
            instant(one.get("startedAt")),
            ago(one.get("seenAt")),
            Text("alive", "green") if one.get("isAlive") else Text("taken for dead", "bold red"),
        )
    return list_or("no worker is here: nothing moves until one starts", table)


# --- explain ------------------------------------------------------------------------------------------------------


def explain_view(found: Mapping[str, Any]) -> RenderableType:
    """Where an instance stands, what would move it, and what it waits for or what stopped it."""
    chart = found.get("chart") or {}
    erased = f"  data erased {instant(found['erasedAt'])}" if found.get("erasedAt") else ""
    head = Text.assemble((found["instanceId"], "bold"), "  ", status_text(found["status"]), erased)
    if chart.get("configuration"):
        head.append(f"  {configuration_text(chart['configuration'])}", "cyan")
    ways = plain_table("when", "then", "from", "condition")
    for event in chart.get("events", ()):
        _add_ways(ways, f"event {event['type']}", event["transitions"])
    for timer in chart.get("timers", ()):
        _add_ways(ways, f"timer due {instant(timer['dueAt'])}, {ago(timer['dueAt'])}", timer["transitions"])
    for task in chart.get("tasks", ()):
        for answer in task["answers"]:
            _add_ways(ways, f"task {task['type']} {task['name']}: {answer['type']}", answer["transitions"])
    for child in chart.get("children", ()):
        for answer in child["answers"]:
            _add_ways(ways, f"child {child['definitionKey']}: {answer['type']}", answer["transitions"])
    parts: list[RenderableType] = [head]
    if ways.row_count:
        parts.append(section(_MOVES_ON.get(found["status"], "moves on"), ways))
    parts += _obstacles(found)
    waiting = ", ".join(f"{number} {name}" for name, number in found["inbox"].items() if number)
    if waiting:
        parts.append(section("in its inbox", Text(waiting)))
    return Group(*parts)


_MOVES_ON = {
    "failed": "moves on, once a way out is taken",
    "paused": "moves on, once it is resumed",
}


def _obstacles(found: Mapping[str, Any]) -> Iterator[RenderableType]:
    """What an instance waits for, or what stopped it."""
    if (found.get("compensation") or {}).get("ends"):
        yield section("compensation", compensations_view(found["compensation"]))
    if found.get("heldKey"):
        yield section("held by another", Text(f"! {found['heldKey']['reason']}", "bold red"))
    if found.get("locked"):
        yield section("locked", Group(*(Text(f"! {one['reason']}", "bold red") for one in found["locked"])))
    if found.get("unattended"):
        missing = (Text(f"! {one['reason']}", "bold red") for one in found["unattended"])
        yield section("nobody works on it", Group(*missing))
    if found.get("places"):
        told = _places_text(found["places"])
        if found["places"].get("shutOut"):
            told += "; it gave its own back when it failed, and gets none before one of them has ended"
        yield section("places", Text(told))
    if found["tasks"]:
        yield section("open tasks", tasks_table(found["tasks"]))
    if found.get("limits"):
        yield section("waiting for a limit", _limits_table(found))
    if found.get("breakers"):
        yield section("waits for", Group(*(Text(one["reason"], "red") for one in found["breakers"])))
    if found["children"]:
        yield section("children", _children_table(found["children"]))
    if found["incidents"]:
        yield section("incidents", Group(*(_incident_text(one) for one in found["incidents"])))
        yield section("ways out", facts(_ways_out(found)))


def _incident_text(one: Incident) -> Text:
    head = Text.assemble((one["id"], "bold"), f"  {one['code']}  {ago(one['openedAt'])}\n  ")
    return head.append(_cause_of(one), "red")


def _ways_out(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What can be done now about a failed instance, each with its command: what is legal, and nothing else."""
    instance, incidents = found["instanceId"], found["incidents"]
    ways = {way for one in incidents for way in one["waysOut"]}
    undoing = found.get("compensation") or {}
    held = found.get("heldKey")
    if held is not None:
        yield "free its key", f"signalbox cancel {held['instanceId']} --reason TEXT"
    if "retry" in ways:
        yield "try again", f"signalbox retry {instance}"
    for one in incidents:
        if "skip" in ways and "skip" in one["waysOut"]:
            what, output = _skipped(one)
            yield what, f"signalbox incidents resolve {one['id']} --skip{output} --reason TEXT"
    if "restart" in ways:
        yield "from a state", f"signalbox restart {instance} --state STATE --reason TEXT"
    if (
        held is None
        and undoing.get("ends") is None
        and any(one["status"] == "registered" for one in undoing.get("items", ()))
    ):
        yield "undo and end it", f"signalbox compensate {instance} --reason TEXT"
    if "cancel" in ways:
        # While something that undoes has failed, or would undo under another's business key, only a cancel that leaves the
        # rest as it is is not refused.
        is_stopped = bool(undoing) and (
            held is not None or ("skip" in ways and undoing.get("ends") is not None)
        )
        yield (
            "end it",
            f"signalbox cancel {instance}{' --without-compensation' if is_stopped else ''} --reason TEXT",
        )


def _skipped(one: Incident) -> tuple[str, str]:
    """What a skip of this incident means, and the option for the output that stands for the failed work."""
    if one["code"].startswith("compensation."):
        return "pass over it", ""
    has_failed = isinstance(one["detail"], Mapping) and "key" in one["detail"]
    return ("answer for it", " --output JSON") if has_failed else ("leave the event out", "")


def _places_text(places: Mapping[str, Any]) -> str:
    text = f"{places['taken']} of {places['max']}{_of_key(places['key'])} are taken"
    return f"waits for a place: {text}, {places['ahead']} get one before it" if places["queued"] else text


def compensations_view(found: Mapping[str, Any]) -> RenderableType:
    """How far the undoing of an instance is, and every piece of it in its order."""
    if not found["items"] and not found["ends"]:
        return Text("nothing that it has done says how it is undone", "dim")
    table = plain_table("undoes", "key", "by", "kind", "order", "status", "ended", "error", right=("order",))
    for one in found["items"]:
        table.add_row(
            str(one["undoes"]),
            str(one["key"]),  # two pieces of work may have one name
            str(one["name"] or ""),
            one["kind"],
            str(one["order"]),
            Text(one["status"].replace("_", " "), _UNDONE.get(one["status"], "")),
            instant(one["endedAt"]) if one["endedAt"] else "",
            Text(failure(one["error"]), "red"),
        )
    return Group(Text(_undoing(found)), table)


_UNDONE = {"done": "green", "running": "cyan", "failed": "red", "skipped": "yellow", "passed_over": "yellow"}


def _undoing(found: Mapping[str, Any]) -> str:
    """One line: how far it is, and what comes next."""
    if found["ends"] is None:
        return f"{found['total']} can be undone"
    left_out = "".join(
        f", {found[name]} {told}"
        for name, told in (("skipped", "skipped"), ("passedOver", "passed over"))
        if found[name]
    )
    line = f"{found['done']} of {found['total']} done{left_out}; ends {found['ends'].replace('_', ' ')}"
    now = next((one for one in found["items"] if one["status"] in ("running", "failed")), None)
    if found["awaited"]:
        return f"{line}; waiting to hear how {', '.join(found['awaited'])} ended"
    if now is None:
        return line
    doing = "undoing" if now["status"] == "running" else "stopped at"
    return f"{line}; {doing} {now['undoes']} ({now['key']}) by {now['name'] or '?'}"


def _limits_table(found: Mapping[str, Any]) -> RenderableType:
    """Tasks that are due and do not run, with the limits that have no room for them."""
    names = {task["id"]: task["name"] for task in found["tasks"]}
    table = plain_table("task", "limit", "running", "next token")
    for task, waits in found["limits"].items():
        for wait in waits:
            most = wait["maxRunning"]
            runs = str(wait["running"]) if most is None else f"{wait['running']} of {most}"
            at = wait["nextTokenAt"]
            table.add_row(str(names[task]), str(wait["key"]), runs, "" if at is None else instant(at))
    return table


def _children_table(children: Iterable[Mapping[str, Any]]) -> RenderableType:
    """Children that have not ended, with what stopped them or what they wait for."""
    table = plain_table("instance", "definition", "business key", "status", "awaited", "why")
    for one in children:
        table.add_row(
            str(one["instanceId"]),
            str(one["definitionKey"]),
            str(one["businessKey"] or ""),
            status_text(one["status"]),
            "no" if one["key"] is None else "yes",
            _why_child(one),
        )
    return table


def _why_child(one: Mapping[str, Any]) -> Text:
    """Why a child has not ended, where that is told: what stopped it, or the place that it waits for."""
    if one.get("places"):
        return Text(_places_text(one["places"]))
    told = [_cause_of(incident) for incident in one["incidents"]]
    holder = next((incident["keyHolder"] for incident in one["incidents"] if incident.get("keyHolder")), None)
    held = [f"its business key is held by {holder}"] if holder is not None else []
    return Text("; ".join(told + held), "red")


def _add_ways(table: Table, when: str, transitions: Sequence[Mapping[str, Any]]) -> None:
    for one in transitions:
        then = "nothing, it is forbidden" if one["forbids"] else f"→ {configuration_text(one['target'])}"
        if not one["forbids"] and not one["target"]:
            then = "actions, no other state"
        table.add_row(when, then, one["state"], _condition(one))
    if not transitions:
        table.add_row(when, Text("nothing: no active state takes it", "dim"), "", "")


def _condition(transition: Mapping[str, Any]) -> Text:
    guard = transition["guard"]
    if guard is None:
        return Text("")
    word, style = {True: ("holds", "green"), False: ("does not hold", "yellow")}.get(
        transition["holds"], ("depends on the event", "dim")
    )
    text = Text.assemble(short(str(guard["text"]), 60), ": ", (word, style))
    values = ", ".join(f"{path} = {short(compact(value), 30)}" for path, value in guard["values"].items())
    return text.append(f" ({values})", "dim") if values else text


# --- figures of a bench -------------------------------------------------------------------------------------------


def bench_view(report: Mapping[str, Any]) -> RenderableType:
    machine, stack, workflow = report["machine"], report["stack"], report["workflow"]
    head = facts(
        [
            (
                "machine",
                f"{machine['cores']} cores, {machine['processor']}, {machine['system']}, Python {machine['python']}",
            ),
            (
                "stack",
                f"{stack['database']}; {stack['broker']}; orchestrators: {stack['orchestrators']}, task runners: {stack['taskRunners']}",
            ),
            (
                "workflow",
                f"{workflow['definition']}, {workflow['steps']} steps from start to end, {workflow['handlers']} handlers, "
                f"started {stack['starts']}",
            ),
        ]
    )
    table = plain_table(
        "asked", "instances", "workflows/s", "steps/s", "p50 ms", "p95 ms", "p99 ms", "caller p50 ms",
        right=("instances", "workflows/s", "steps/s", "p50 ms", "p95 ms", "p99 ms", "caller p50 ms"),
    )  # fmt: skip
    for one in report["measurements"]:
        table.add_row(
            {"latency": "one at a time", "backlog": "from a backlog"}.get(one["mode"], one["mode"]),
            str(one["instances"]),
            f"{one['workflowsPerSecond']:.0f}",
            f"{one['stepsPerSecond']:.0f}",
            *(f"{one['latencyMs'][share]:.1f}" for share in ("p50", "p95", "p99")),
            f"{one['callerLatencyMs']['p50']:.1f}" if "callerLatencyMs" in one else "",
        )
    notices = [Text(line, "yellow") for line in report["notices"]]
    return Group(head, Text(""), table, *notices)


def nested(value: Json) -> RenderableType:
    """Any JSON object as an outline: names and values, lists one item a line."""
    if isinstance(value, Mapping):
        return facts(
            (str(name), nested(item)) for name, item in value.items() if item not in (None, [], {}, "")
        )
    if isinstance(value, list):
        return Group(*(nested(item) for item in value)) if value else Text("none", "dim")
    return Text(value if isinstance(value, str) else compact(value))
