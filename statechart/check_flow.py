"""Looks at how a chart flows: circles, states nothing leads to or leaves, transitions that are never taken."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from statechart.actions import Action, Assign, Raise
from statechart.chart import Chart, StateNode, Transition, is_descendant, transitions_of
from statechart.configuration import NOTHING_REMEMBERED, get_transition_domain
from statechart.guards import Constant
from statechart.problems import Problem
from statechart.select import matches_wildcard

MAX_COMPARISONS = 200_000  # what looking for shadowed transitions may cost


def warning(code: str, at: str, message: str, suggestion: str | None = None) -> Problem:
    return Problem("warning", code, at, message, suggestion)


def is_certain(transition: Transition) -> bool:
    return transition.guard is None or (
        isinstance(transition.guard, Constant) and transition.guard.answer is True
    )


def is_impossible(transition: Transition) -> bool:
    return isinstance(transition.guard, Constant) and transition.guard.answer is False


def ends_machine(node: StateNode) -> bool:
    """A final state of a root that is not parallel."""
    return (
        node.type == "final"
        and node.parent is not None
        and node.parent.parent is None
        and node.parent.type == "compound"
    )


# --- always


def endless_always(chart: Chart, reached: Collection[StateNode]) -> Iterator[Problem]:
    """Follow `always` transitions that nothing can keep from being taken; where they come back, no step ends."""
    if not chart.has_always or chart.has_parallel:
        return
    settled: set[StateNode] = set()
    for start in chart.nodes:
        trail: dict[StateNode, Transition] = {}
        leaf: StateNode | None = start if start.is_leaf and start in reached else None
        while leaf is not None and leaf not in settled:
            if leaf in trail:
                circle = list(trail)[list(trail).index(leaf) :]
                names = " -> ".join(node.name for node in (*circle, leaf)[:10])
                yield Problem(
                    "error",
                    "always.cycle",
                    trail[leaf].at,
                    f"these transitions are taken again and again, without an event: {names}",
                )
                break
            taken = _certain_always(leaf)
            if taken is None:
                break
            trail[leaf] = taken
            leaf = _leaf_after(taken, leaf)
        settled.update(trail)


def _certain_always(leaf: StateNode) -> Transition | None:
    """The `always` transition that is certainly taken in this leaf, None where a guard is asked first."""
    for node in (leaf, *leaf.ancestors):
        for transition in node.always:
            if is_certain(transition):
                return transition
            if not is_impossible(transition):
                return None
    return None


def _leaf_after(transition: Transition, leaf: StateNode) -> StateNode | None:
    """Where it leads; None where that is not certain, or where it changes nothing, which ends the asking."""
    entered = transition.plan.nodes if transition.plan is not None else ()
    if transition.target and transition.plan is None:
        return None
    blocks = (transition.actions, *(node.entry for node in entered))
    has_effect = any(_goes_on(action) for block in blocks for action in block)
    following = next((node for node in entered if node.is_leaf), leaf)
    if following.type == "final" or (following is leaf and not has_effect):
        return None
    return following


def _goes_on(action: Action) -> bool:
    """After this eventless transitions are asked again."""
    return isinstance(action, Assign) or (isinstance(action, Raise) and action.delay is None)


# --- reachability


def unreachable_states(chart: Chart, reached: Collection[StateNode]) -> Iterator[Problem]:
    for node in chart.nodes:
        if (
            node.type == "history"
            or node in reached
            or (node.parent is not None and node.parent not in reached)
        ):
            continue
        yield warning(
            "state.unreachable", node.at, f"no transition leads to {node.name!r}, and it is not initial"
        )


def transitions_never_taken(chart: Chart) -> Iterator[Problem]:
    for node in chart.nodes:
        for candidates in (*node.own.values(), node.always):
            certain: Transition | None = None
            for transition in candidates:
                if certain is not None:
                    yield warning(
                        "transition.never",
                        transition.at,
                        f"is never taken: {certain.at} comes first and has no guard that could fail",
                    )
                elif is_impossible(transition):
                    yield warning("transition.never", transition.at, "is never taken: its guard is false")
                elif is_certain(transition):
                    certain = transition
        if ends_machine(node):
            for transition in transitions_of(node):
                yield warning(
                    "transition.never", transition.at, f"is never taken: the machine ends in {node.name!r}"
                )


def shadowed_transitions(chart: Chart, reached: Collection[StateNode]) -> Iterator[Problem]:
    """An outer state is asked only where no inner one answers."""
    budget = MAX_COMPARISONS
    for node in chart.nodes:
        if not node.regions or node not in reached:
            continue
        for descriptor, candidates in node.own.items():
            budget -= node.last - node.order
            if budget < 0:
                return
            shadow = _shadow(node, descriptor)
            if shadow is not None and candidates:
                yield warning(
                    "transition.shadowed",
                    candidates[0].at,
                    f"is never taken: the states inside {node.name!r} take every {descriptor!r} themselves, "
                    f"as {shadow.at} does",
                )


def _shadow(node: StateNode, descriptor: str) -> Transition | None:
    """A transition inside `node` that answers first, where in every configuration there is one."""
    found: Transition | None = None
    for region in node.regions:
        inner = _unguarded(region, descriptor) or (_shadow(region, descriptor) if region.regions else None)
        if inner is not None and node.type == "parallel":
            return inner
        if inner is None and node.type == "compound":
            return None
        found = found or inner
    return found


def _unguarded(node: StateNode, descriptor: str) -> Transition | None:
    """A candidate of the node that certainly answers to everything that the descriptor matches."""
    candidates = list(node.exact.get(descriptor, ()))
    for wildcard, transitions in node.wildcards:
        if descriptor not in node.exact and _covers(wildcard, descriptor):
            candidates += transitions
    return next((transition for transition in candidates if is_certain(transition)), None)


def _covers(wildcard: str, descriptor: str) -> bool:
    plain = descriptor.removesuffix(".*")
    return descriptor != "*" and matches_wildcard(plain, wildcard)


def dead_ends(chart: Chart, reached: Collection[StateNode]) -> Iterator[Problem]:
    """Leaves that nothing leaves, whatever happens."""
    leaving: set[StateNode] = set()  # states that have a way out for everything inside
    for node in chart.nodes:
        for transition in transitions_of(node) if node in reached else ():
            if transition.target and not is_impossible(transition):
                leaving.add(node)
                # A transition of one region leaves the others too, where it leads out of the parallel state.
                domain = transition.domain
                if transition.plan is None:
                    domain = get_transition_domain(transition, NOTHING_REMEMBERED)
                leaving.update(
                    around
                    for around in (node, *node.ancestors)
                    if around.type == "parallel" and (around is domain or is_descendant(around, domain))
                )
    for leaf in chart.nodes:
        if leaf.type != "atomic" or leaf not in reached:
            continue
        if leaf.parent is None and (leaf.accepts_external or leaf.invokes or any(transitions_of(leaf))):
            continue  # a machine without states may live on its own events
        if not any(node in leaving for node in (leaf, *leaf.ancestors)):
            yield warning(
                "state.dead_end",
                leaf.at,
                f"nothing leaves {leaf.name!r}, and it is not final: an instance for which nothing else is open is stuck here",
            )


def never_done(chart: Chart) -> Iterator[Problem]:
    """`onDone` of a state that has no way to be done, and joins of which one branch cannot end."""
    for node in chart.nodes:
        transitions = node.exact.get(f"xstate.done.state.{node.id}", ())
        if not transitions or not node.regions:
            continue
        stuck = _cannot_be_done(node)
        if node.parent is None:
            yield warning(
                "done.never", transitions[0].at, "is never taken: where the root is done, the machine ends"
            )
        elif stuck is node:
            yield warning(
                "done.never", transitions[0].at, f"is never taken: {node.name!r} has no final state"
            )
        elif stuck is not None:
            yield warning(
                "join.never",
                transitions[0].at,
                f"is never taken: {node.name!r} waits for all its regions, and {stuck.name!r} has no final state",
            )


def _cannot_be_done(node: StateNode) -> StateNode | None:
    if node.type == "parallel":
        return next((stuck for region in node.regions if (stuck := _cannot_be_done(region))), None)
    if node.type == "final" or any(child.type == "final" for child in node.regions):
        return None
    return node
