"""Looks at the names in a chart: events nobody handles or sends, types, ids and guards nobody has or uses."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping

from statechart.chart import Chart, Transition, Use
from statechart.check_flow import ends_machine, warning
from statechart.people import EVENTS as PEOPLE_EVENTS
from statechart.problems import Problem, nearest
from statechart.templates import names_secret


def _handles(chart: Chart) -> Callable[[str], bool]:
    """Does any state have a descriptor for this event?"""
    named = {descriptor for node in chart.nodes for descriptor, own in node.own.items() if own}

    def handles(event: str) -> bool:
        parts = event.split(".")
        wildcards = (".".join((*parts[:count], "*")) for count in range(len(parts) + 1))
        return event in named or any(wildcard in named for wildcard in wildcards)

    return handles


def _uses(chart: Chart, *kinds: str) -> Iterator[Use]:
    return (use for use in chart.uses if use.kind in kinds)


def unhandled_answers(chart: Chart) -> Iterator[Problem]:
    handles = _handles(chart)
    for use in _uses(chart, "completion_event", "failure_event"):
        if not handles(use.name):
            what = "completion" if use.kind == "completion_event" else "failure"
            yield warning(
                f"task.{what}_unhandled",
                use.at,
                f"the {what} event {use.name!r} is handled by no state",
                nearest(use.name, chart.events | chart.answers - {use.name}),
            )


def unhandled_raises(chart: Chart) -> Iterator[Problem]:
    handles = _handles(chart)
    for use in _uses(chart, "raised_event"):
        if not handles(use.name):
            yield warning(
                "event.unhandled",
                use.at,
                f"the event {use.name!r} is handled by no state",
                nearest(use.name, chart.events),
            )


_RENAMED = {
    "done.invoke.": "xstate.done.actor.",
    "error.platform.": "xstate.error.actor.",
    "done.state.": "xstate.done.state.",
}


def misnamed_events(chart: Chart) -> Iterator[Problem]:
    """Descriptors that match nothing: wildcards in the wrong place, names of XState 4, ids that nothing has."""
    tasks = {use.name for use in _uses(chart, "task_name")}
    invokes = {use.name for use in _uses(chart, "invoke_id")}
    known: dict[str, Collection[str]] = {
        "xstate.done.actor.": invokes,
        "xstate.error.actor.": invokes,
        "xstate.done.state.": chart.by_id,
        "done.task.": tasks,
        "error.task.": tasks,
        **dict.fromkeys(PEOPLE_EVENTS, tasks),
    }
    for node in chart.nodes:
        for descriptor, own in node.own.items():
            if not own:
                continue
            if "*" in descriptor.removesuffix("*").removesuffix(".") or (
                descriptor.endswith("*") and descriptor != "*" and not descriptor.endswith(".*")
            ):
                yield warning(
                    "event.wildcard",
                    own[0].at,
                    f"{descriptor!r} matches nothing: a wildcard is '*' alone or the last part, as in 'order.*'",
                    descriptor.partition("*")[0].rstrip(".") + ".*",
                )
            yield from _old_name(descriptor, own[0])
            yield from _unknown_name(descriptor, own[0], known)


def _old_name(descriptor: str, transition: Transition) -> Iterator[Problem]:
    for old, new in _RENAMED.items():
        if descriptor.startswith(old):
            yield warning(
                "event.renamed",
                transition.at,
                f"{descriptor!r} is never sent; it is XState 4's name",
                new + descriptor.removeprefix(old),
            )


def _unknown_name(
    descriptor: str, transition: Transition, known: Mapping[str, Collection[str]]
) -> Iterator[Problem]:
    for prefix, names in known.items():
        name = descriptor.removeprefix(prefix)
        if descriptor.startswith(prefix) and name not in names and "*" not in name:
            meant = nearest(name, names)
            yield warning(
                "event.unknown_source",
                transition.at,
                f"{descriptor!r} is never sent: nothing here is called {name!r}",
                prefix + meant if meant else None,
            )


def unknown_task_types(chart: Chart, task_types: Collection[str]) -> Iterator[Problem]:
    for use in _uses(chart, "task_type"):
        if use.name not in task_types:
            yield Problem(
                "error",
                "task.unknown_type",
                use.at,
                f"unknown task type {use.name!r}: no task runner has said that it can run it; for a handler of yours, "
                "start one that has its module in SIGNALBOX_HANDLERS",
                nearest(use.name, task_types),
            )


def unknown_workflows(chart: Chart, workflows: Collection[str]) -> Iterator[Problem]:
    """Only a warning: a child's definition may be applied after its parent's."""
    known = {*workflows, chart.id}
    for use in _uses(chart, "workflow_key"):
        if use.name not in known:
            yield warning(
                "workflow.unknown_definition",
                use.at,
                f"no definition {use.name!r} has been applied yet",
                nearest(use.name, known),
            )


def unknown_cancels(chart: Chart) -> Iterator[Problem]:
    known = {use.name for use in _uses(chart, "cancellable_id")}
    for use in _uses(chart, "cancelled_id"):
        if use.name not in known and not use.name.startswith("xstate.after."):
            yield warning(
                "cancel.unknown",
                use.at,
                f"cancels nothing: no delayed event, task or workflow is called {use.name!r}",
                nearest(use.name, known),
            )


def unused_guards(chart: Chart) -> Iterator[Problem]:
    for name in chart.unused_guards:
        yield warning("guard.unused", f"guards.{name}", f"the guard {name!r} is used nowhere")


def unused_compensation(chart: Chart) -> Iterator[Problem]:
    if chart.document.get("compensation") is not None and chart.compensation is None:
        yield warning(
            "compensation.unused",
            "compensation",
            "nothing is undone: no task and no invoke says how it is compensated",
        )


# --- parts in the wrong place


def secrets_in_context(chart: Chart) -> Iterator[Problem]:
    """The context is data: what looks like a secret in it is never resolved."""
    for path, value in chart.context.items():
        if names_secret(value):
            yield warning(
                "secret.in_context",
                f"context.{path}",
                "this stays text: a secret is resolved in the input of a task, and nowhere else",
            )


def misplaced_parts(chart: Chart) -> Iterator[Problem]:
    for node in chart.nodes:
        for key in node.ignored:
            yield warning(
                "state.ignored_part",
                f"{node.at}.{key}".lstrip("."),
                f"{key!r} means nothing on a state of type {node.type!r}",
            )


def lost_tasks(chart: Chart) -> Iterator[Problem]:
    """What a machine asks for as it ends is cancelled with everything else."""
    for use in _uses(chart, "task_type"):
        node = use.node
        if ends_machine(node):
            yield warning(
                "task.lost",
                use.at,
                f"this task never runs: the machine ends in {node.name!r}, and an end cancels open tasks",
            )
