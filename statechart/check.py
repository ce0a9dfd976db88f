"""What is doubtful about a chart that compiles: found by looking at the whole, reported as warnings.

A definition that could never work is refused here too, as an error: `always` transitions that go round in circles
whatever the data. Everything else that is an error is found by the compiler. `docs/checks.md` is the catalogue.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import chain, islice

from statechart import check_flow as flow
from statechart import check_names as names
from statechart.chart import Chart
from statechart.compile import compile_document
from statechart.env import Json
from statechart.problems import DefinitionInvalid, Problem
from statechart.reach import reachable_states

MAX_WARNINGS = 200


def load(document: Json) -> Chart:
    """Compile a definition document and look it over. Raises `DefinitionInvalid` where any problem is an error.

    Warnings are kept in `Chart.warnings`.
    """
    chart = compile_document(document)
    problems = analyse(chart)
    if any(problem.severity == "error" for problem in problems):
        raise DefinitionInvalid(problems)
    chart.warnings = problems
    return chart


def check(
    document: Json | Chart,
    *,
    task_types: Collection[str] | None = None,
    workflows: Collection[str] | None = None,
) -> list[Problem]:
    """All problems of a document or a chart, errors first. Never raises for a bad document.

    `task_types` are the types that somebody can run, `workflows` the keys of definitions that a child may be of; None
    leaves either unchecked.
    """
    try:
        chart = document if isinstance(document, Chart) else load(document)
    except DefinitionInvalid as invalid:
        return sorted(invalid.problems, key=lambda problem: problem.severity)
    problems = list(chart.warnings)
    if task_types is not None:
        problems += names.unknown_task_types(chart, task_types)
    if workflows is not None:
        problems += names.unknown_workflows(chart, workflows)
    return sorted(problems, key=lambda problem: problem.severity)


def analyse(chart: Chart) -> list[Problem]:
    """The findings of every look at the whole chart, the first `MAX_WARNINGS` of them."""
    reached = reachable_states(chart)
    problems = chain(
        flow.endless_always(chart, reached),
        flow.unreachable_states(chart, reached),
        flow.transitions_never_taken(chart),
        flow.shadowed_transitions(chart, reached),
        flow.dead_ends(chart, reached),
        flow.never_done(chart),
        names.unhandled_answers(chart),
        names.unhandled_raises(chart),
        names.misnamed_events(chart),
        names.misplaced_parts(chart),
        names.secrets_in_context(chart),
        names.lost_tasks(chart),
        names.unknown_cancels(chart),
        names.unused_guards(chart),
        names.unused_compensation(chart),
    )
    return list(islice(problems, MAX_WARNINGS))
