"""API bodies as text: what stands where, without a terminal."""

import io
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console, Group, RenderableType
from rich.text import Text

import statechart
from common.errors import Invalid
from signalbox.cli import render
from signalbox.cli.console import VisibleConsole
from signalbox.cli.output import PIPE_COLUMNS, Output, console
from signalbox.shapes import Entry, Instance

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def text_of(renderable: RenderableType) -> str:
    """What a pipe gets, without the spaces at the ends of lines."""
    stream = io.StringIO()
    Console(file=stream, width=PIPE_COLUMNS, markup=False, no_color=True).print(renderable)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


def entry(kind: str, payload: dict[str, Any], sequence: str = "1.1", hash: str = "ab" * 32) -> Entry:
    return {
        "sequence": sequence,
        "type": kind,
        "at": "2026-01-01T12:00:00.250000Z",
        "actor": "key:alice",
        "payload": payload,
        "hash": hash,
        "previousHash": "00" * 32,
    }


def instance(**changed: Any) -> Instance:
    body: dict[str, Any] = {
        "id": "01932d2b-7a00-7000-8000-000000000001",
        "definitionKey": "order",
        "definitionVersion": 3,
        "definitionId": "d",
        "status": "completed",
        "configuration": ["done"],
        "context": {"total": 7},
        "input": None,
        "output": None,
        "error": None,
        "businessKey": "order-7",
        "labels": {"team": "a"},
        "priority": 0,
        "sequence": 4,
        "parentId": None,
        "depth": 0,
        "createdAt": "2026-01-01T11:00:00.000000Z",
        "startedAt": "2026-01-01T11:00:00.010000Z",
        "finishedAt": "2026-01-01T11:00:00.040000Z",
        "deadlineAt": None,
        "erasedAt": None,
    }
    return {**body, **changed}  # type: ignore[return-value, typeddict-item]


@pytest.mark.parametrize(
    ("span", "told"),
    [
        (timedelta(microseconds=400), "0 ms"),
        (timedelta(milliseconds=12), "12 ms"),
        (timedelta(seconds=3.44), "3.4 s"),
        (timedelta(seconds=60), "1 min"),
        (timedelta(hours=5), "5 h"),
        (timedelta(days=30), "30 d"),
    ],
)
def test_a_span_is_told_in_one_unit(span: timedelta, told: str) -> None:
    assert render.duration(span) == told


def test_an_instant_is_told_from_now() -> None:
    assert render.ago("2026-01-01T11:59:57.000000Z", NOW) == "3.0 s ago"
    assert render.ago("2026-01-01T12:05:00.000000Z", NOW) == "in 5 min"
    assert render.ago(None, NOW) == ""


@pytest.mark.parametrize(
    ("kind", "payload", "told"),
    [
        ("state.changed", {"configuration": ["a.b", "c"]}, "→ a.b, c"),
        ("context.assigned", {"path": "total", "value": {"n": 1}}, 'total = {"n":1}'),
        ("task.created", {"taskType": "EMAIL", "name": "send-hello", "key": "k"}, "EMAIL send-hello"),
        ("task.failed", {"taskType": "HTTP", "name": "HTTP", "error": {"message": "no"}}, "HTTP: no"),
        ("event.received", {"eventType": "APPROVED"}, "APPROVED"),
        ("event.ignored", {"eventType": "APPROVED", "reason": "no_transition"}, "APPROVED (no_transition)"),
        ("incident.opened", {"message": "it broke"}, "it broke"),
        ("instance.completed", {"output": {"ok": True}}, 'output {"ok":true}'),
        ("instance.completed", {"output": None}, ""),
        ("something.new", {"a": 1}, '{"a":1}'),
        ("instance.started", {}, ""),
        ("child.started", {"key": "a/1/1", "definitionKey": "pack", "instanceId": "0193"}, "pack 0193"),
        (
            "child.refused",
            {"definitionKey": "pack", "instanceId": "0193", "error": {"message": "no such definition"}},
            "pack 0193: no such definition",
        ),
        ("child.cancelled", {"key": "a/1/1", "instanceId": "0193"}, "0193"),
    ],
)
def test_an_entry_is_told_in_a_few_words(kind: str, payload: dict[str, Any], told: str) -> None:
    assert render.summary(entry(kind, payload)) == told


def test_a_summary_stays_on_one_line_of_bounded_length() -> None:
    told = render.summary(entry("note", {"note": "a\nb " + "x" * 500}))

    assert len(told) == render.LONGEST_SUMMARY
    assert told.startswith("a b xxx")


def test_a_timeline_tells_the_time_since_the_beginning() -> None:
    line = text_of(render.entry_line(entry("event.received", {"eventType": "GO"}), "2026-01-01T12:00:00Z"))

    assert line.split()[1:] == ["+250", "ms", "1.1", "event.received", "GO"]


def test_a_history_shows_time_actor_and_hash_once_a_row() -> None:
    table = text_of(
        render.history_table(
            [
                entry("instance.started", {}, "1.1", "aa" * 32),
                entry("state.changed", {"configuration": ["a"]}, "1.2", "aa" * 32),
                entry("note", {"note": "hi"}, "2.1", "bb" * 32),
            ]
        )
    )

    assert table.count("key:alice") == 2
    assert [table.count("aa" * 5), table.count("bb" * 5)] == [1, 1]


@pytest.mark.parametrize(
    ("verdict", "told"),
    [
        (
            {"valid": True, "entries": 1, "replayed": True, "erased": 0, "problems": []},
            "✓ chain verified: 1 row, replaying them gives the stored state",
        ),
        (
            {"valid": True, "entries": 3, "replayed": False, "erased": 0, "problems": []},
            "✓ chain verified: 3 rows",
        ),
        (
            {"valid": True, "entries": 3, "replayed": False, "erased": 2, "problems": []},
            "✓ chain verified: 3 rows, the bodies of 2 erased",
        ),
        (
            {
                "valid": False,
                "entries": 3,
                "replayed": False,
                "erased": 0,
                "problems": [{"code": "hash.wrong"}],
            },
            '✗ history does not verify: 3 rows\n  {"code":"hash.wrong"}',
        ),
    ],
)
def test_a_verdict_is_one_sentence(verdict: Any, told: str) -> None:
    assert text_of(render.verdict_line(verdict)) == told


def test_a_problem_says_where_what_and_what_was_meant() -> None:
    told = text_of(
        render.problem_line(
            {
                "severity": "error",
                "code": "target.unknown",
                "path": "states.a.on.GO",
                "message": 'unknown target "bb"',
                "suggestion": "b",
            }
        )
    )

    assert told == '  ✗ states.a.on.GO: unknown target "bb"; did you mean "b"?  [target.unknown]'


def test_an_instance_shows_what_it_has_and_nothing_that_is_empty() -> None:
    told = text_of(render.instance_facts(instance()))

    assert "order version 3" in told
    assert "took 40 ms" in told
    assert "team=a" in told
    assert '"total": 7' in told
    for absent in ("parent", "deadline", "output", "error", "tasks"):
        assert absent not in told


def test_a_list_of_instances_is_one_line_each() -> None:
    told = text_of(render.instances_table([instance(), instance(finishedAt=None, status="waiting")], NOW))

    header, _, first, second = told.splitlines()
    assert header.split() == ["id", "definition", "status", "state", "business", "key", "started", "took"]
    assert first.split()[1:4] == ["order", "v3", "completed"]
    assert second.endswith("1 h ago")


def explanation(document: dict[str, Any], *events: str) -> dict[str, Any]:
    """What the API answers for an instance of `document` after these events: the kernel's own explanation."""
    chart = statechart.load(document)
    env = statechart.Env(NOW)
    snapshot = statechart.start(chart, None, env).snapshot
    for event in events:
        snapshot = statechart.step(chart, snapshot, {"type": event}, env).snapshot
    return {
        "instanceId": "01932d2b-7a00-7000-8000-000000000001",
        "status": "waiting",
        "chart": statechart.explain(chart, snapshot, env),
        "inbox": {"ready": 0, "parked": 2},
        "tasks": [],
        "children": [],
        "incidents": [],
    }


def test_an_explanation_tells_of_children_and_what_stopped_them() -> None:
    waiting = {
        "entry": {"type": "startWorkflow", "definitionKey": "pack"},
        "on": {"done.workflow.pack": "packed"},
    }
    states = {"waiting": waiting, "packed": {"type": "final"}}
    found = explanation({"id": "order", "initial": "waiting", "states": states})
    child = {
        "instanceId": "01932d2b-7a00-7000-8000-000000000002",
        "key": "waiting/1/1",
        "definitionKey": "pack",
        "businessKey": "order-7",
        "status": "failed",
        "incidents": [{"code": "shop.empty", "message": "out of stock", "detail": {}}],
    }

    told = text_of(render.explain_view({**found, "children": [child]}))

    lines = {" ".join(line.split()) for line in told.splitlines()}
    assert "child pack: done.workflow.pack → packed waiting" in lines
    assert "child pack: error.workflow.pack nothing: no active state takes it" in lines
    assert f"{child['instanceId']} pack order-7 failed yes shop.empty: out of stock" in lines


def test_an_explanation_tells_what_would_move_an_instance() -> None:
    told = text_of(
        render.explain_view(
            explanation(
                {
                    "id": "order",
                    "initial": "open",
                    "context": {"total": 7},
                    "states": {
                        "open": {
                            "on": {
                                "PAY": {"target": "paid", "guard": "context.total > 10"},
                                "CHECK": {"target": "paid", "guard": "event.ok"},
                                "LOG": {"actions": [{"type": "log", "message": "x"}]},
                                "STOP": {},
                            },
                            "after": {"1h": "late"},
                        },
                        "paid": {"type": "final"},
                        "late": {"type": "final"},
                    },
                }
            )
        )
    )

    lines = {" ".join(line.split()) for line in told.splitlines()}
    assert "01932d2b-7a00-7000-8000-000000000001 waiting open" in lines
    assert "event PAY → paid open context.total > 10: does not hold (context.total = 7)" in lines
    assert "event CHECK → paid open event.ok: depends on the event" in lines
    assert "event LOG actions, no other state open" in lines
    assert any(line.startswith("timer due ") and line.endswith("→ late open") for line in lines)
    assert "2 parked" in lines


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (render.instances_table([]), "no instances match"),
        (render.definitions_table([]), "no definitions yet; apply one with `signalbox apply FILE`"),
        (render.history_table([]), "no history yet"),
    ],
)
def test_an_empty_list_is_a_sentence(table: RenderableType, said: str) -> None:
    assert text_of(table) == said


def test_text_in_square_brackets_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    Output(as_json=False).show(None, lambda: "[bold]data[/bold] [/]")

    assert capsys.readouterr().out == "[bold]data[/bold] [/]\n"


@pytest.mark.parametrize("is_terminal", [False, True])
def test_what_data_says_to_a_terminal_is_shown_and_not_done(
    monkeypatch: pytest.MonkeyPatch, is_terminal: bool
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: is_terminal)
    monkeypatch.setenv("TERM", "xterm")
    task = broken_task(
        attempts=[], title="paid\x1b[2K\x1b]0;mine\x07", description="\x9b31mred\x7f\n\tas it is"
    )

    console(stream).print(render.task_facts(task))
    console(stream).print(Text.assemble(("error", "bold red"), ": found \x1b[8m"))

    told = stream.getvalue()
    assert "paid␛[2K␛]0;mine" in told
    assert "\ufffd31mred␡\n" in told.replace(" \n", "\n")
    assert "found ␛[8m" in told
    own = ("\x1b[2K", "\x1b]0;", "\x1b[8m", "\x9b", "\x7f")
    assert not [one for one in own if one in told]
    assert ("\x1b[1m" in told) is is_terminal


def test_into_a_pipe_nothing_is_wrapped_or_coloured(capsys: pytest.CaptureFixture[str]) -> None:
    Output(as_json=False).show(None, lambda: render.status_text("failed" * 50))

    assert capsys.readouterr().out == "failed" * 50 + "\n"


def test_json_goes_to_stdout_alone(capsys: pytest.CaptureFixture[str]) -> None:
    Output(as_json=True).show({"a": 1}, lambda: pytest.fail("not for people"))

    assert capsys.readouterr() == ('{\n  "a": 1\n}\n', "")


def test_an_error_goes_to_stderr_with_its_problems(capsys: pytest.CaptureFixture[str]) -> None:
    error = Invalid("the definition is invalid", code="definition.invalid", problems=[{"message": "no"}])

    Output(as_json=False).fail(error)

    assert capsys.readouterr() == ("", "error: the definition is invalid\n  ✗ no\n")


def test_an_error_of_a_json_command_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    Output(as_json=True).fail(Invalid("no", code="x.y"))

    out, err = capsys.readouterr()
    assert '"code": "x.y"' in out
    assert err == ""


def test_a_terminal_is_drawn_on_and_a_pipe_is_not() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert console(Terminal()).is_terminal
    assert not console(io.StringIO()).is_terminal


def test_a_poll_tells_what_it_asks_and_how_often_it_has() -> None:
    poll = {
        "type": "HTTP",
        "until": "output.body.done",
        "intervalMs": 30_000,
        "timeoutMs": 7_200_000,
        "maxAttempts": 5,
        "polls": 2,
        "lastPolledAt": "2026-03-01T09:12:00.000000Z",
    }
    task: Any = {
        "id": "t",
        "instanceId": "i",
        "type": "POLL",
        "name": "export",
        "status": "pending",
        "attempt": 0,
        "maxAttempts": 3,
        "runAt": "2026-03-01T09:12:30.000000Z",
        "input": None,
        "output": None,
        "error": None,
        "progress": None,
        "attempts": [],
        "poll": poll,
    }
    told = [line.split(maxsplit=1) for line in text_of(render.task_facts(task)).splitlines()]
    assert ["asks", "HTTP every 30 s for 7200 s"] in told
    assert ["until", "output.body.done"] in told
    assert ["polls", "2 of 5"] in told


KEY_ERROR = {"code": "KeyError", "message": "'sku'", "data": None}
TRACE = "Traceback (most recent call last):\n  File \"shop.py\", line 7, in price\nKeyError: 'sku'\n"


def broken_task(**changed: Any) -> Any:
    begun, ended = "2026-01-01T11:00:00.000000Z", "2026-01-01T11:00:00.010000Z"
    times = {"startedAt": begun, "endedAt": ended, "outcome": "failed", "error": KEY_ERROR}
    task = {
        "id": "t",
        "instanceId": "i",
        "type": "shop.price",
        "name": "price",
        "status": "failed",
        "attempt": 3,
        "maxAttempts": 3,
        "runAt": begun,
        "input": {},
        "output": None,
        "error": KEY_ERROR,
        "progress": None,
        "attempts": [
            {"attempt": 1, **times, "trace": "the trace of the first"},
            {"attempt": 2, **times, "trace": TRACE},
            {"attempt": 3, **times, "outcome": "lost", "error": None, "trace": None},
        ],
    }
    return task | changed


def test_a_failed_task_shows_code_and_message_of_each_attempt_and_the_last_trace() -> None:
    told = text_of(render.task_facts(broken_task()))

    attempts = [line.split()[-3:] for line in told.splitlines() if " 2026-01-01 " in line]
    assert ["failed", "KeyError:", "'sku'"] in attempts
    assert told.endswith(
        "trace of attempt 2\n  Traceback (most recent call last):\n"
        "    File \"shop.py\", line 7, in price\n  KeyError: 'sku'"
    )
    assert "the trace of the first" not in told
    assert "KeyError: 'sku'" in text_of(render.tasks_table([broken_task()]))


def test_a_task_of_a_person_shows_all_that_the_person_is_to_decide_on() -> None:
    task = broken_task(attempts=[], error=None, title="Invoice 7", description="Is this [ours]?\nAsk Ada.")
    task |= {"form": {"type": "object"}, "input": {"total": 30}}

    told = text_of(render.task_facts(task))
    for part in ("Invoice 7", "Is this [ours]?", "Ask Ada.", '"type": "object"', '"total": 30'):
        assert part in told

    assert "description" not in text_of(render.task_facts(broken_task(attempts=[], error=None)))


def test_a_task_without_a_failure_has_no_trace() -> None:
    assert "trace" not in text_of(render.task_facts(broken_task(attempts=[], error=None)))


def incident(**changed: Any) -> Any:
    body = {
        "id": "n",
        "instanceId": "i",
        "taskId": "t",
        "code": "KeyError",
        "message": 'task "price" failed and no transition takes "xstate.error.actor.0.order.pricing": \'sku\'',
        "detail": {"key": "pricing/1/1", "error": KEY_ERROR},
        "sequence": 4,
        "status": "open",
        "openedAt": "2026-01-01T11:00:00.000000Z",
        "resolvedAt": None,
        "resolvedBy": None,
        "resolution": None,
        "waysOut": ["retry", "skip"],
    }
    return body | changed


def test_an_incident_begins_with_its_cause_wherever_it_is_shown() -> None:
    told = 'KeyError: \'sku\' (task "price" failed and no transition takes "xstate.error'
    assert told in text_of(render.incidents_table([incident()]))
    error: Any = {"code": "KeyError", "message": incident()["message"], "data": incident()["detail"]}
    failed = instance(status="failed", error=error)
    assert told in text_of(render.settled_line(failed))
    assert told in text_of(render.instance_facts(failed))

    shown = text_of(render.incident_facts({**incident(), "task": broken_task()}))
    assert told in shown
    assert "ways out        retry, skip" in shown
    assert shown.endswith("KeyError: 'sku'"), "the trace of its task"


def test_a_compensation_that_failed_names_the_error_first_and_other_incidents_their_code() -> None:
    failed = incident(
        code="compensation.failed",
        message='"refund", which undoes "charge", failed: \'sku\'',
    )
    assert 'KeyError: \'sku\' ("refund", which undoes "charge", failed)' in text_of(
        render.incidents_table([failed])
    )
    stuck = incident(code="instance.stuck", message="nothing will wake it", detail={})
    assert "instance.stuck: nothing will wake it" in text_of(render.incidents_table([stuck]))


def seen(renderable: RenderableType, width: int) -> str:
    """What people see, on a terminal of so many columns."""
    stream = io.StringIO()
    VisibleConsole(file=stream, width=width, markup=False, no_color=True).print(renderable)
    return stream.getvalue()


@pytest.mark.parametrize("kind", [str, Text, lambda text: Group(Text(text))])
def test_a_cell_is_as_wide_as_the_pictures_in_it(kind: Callable[[str], RenderableType]) -> None:
    cell = kind("x\x1b[31my\x9bz\x1b")
    table = render.plain_table("one", "two")
    table.add_row(cell, cell)

    assert seen(table, 40).splitlines()[-1].split() == ["x␛[31my\ufffdz␛"] * 2
    assert seen(render.facts([("name", cell)]), 40).split() == ["name", "x␛[31my\ufffdz␛"]


@pytest.mark.parametrize("kind", [str, Text])
def test_a_line_with_pictures_loses_nothing_where_its_columns_end(
    kind: Callable[[str], RenderableType],
) -> None:
    assert "".join(seen(kind("a" * 38 + "\x1b\x1bzz"), 40).split()) == "a" * 38 + "␛␛zz"


def test_pictures_leave_colours_where_they_were() -> None:
    stream = io.StringIO()
    console = VisibleConsole(file=stream, width=40, force_terminal=True, color_system="standard")
    console.print(Text.assemble("a\x1b", ("b\x1bc", "red"), "d"))

    assert "a␛\x1b[31mb␛c\x1b[0md" in stream.getvalue()
