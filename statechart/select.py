"""Which transitions an event enables: deepest state first, first candidate in document order whose guard holds.

As XState v5: a compound state asks its active child and then itself; a parallel state asks all its regions and then,
if none of them answers, itself. This differs from SCXML, where an outer state may answer for one region although
another region has answered.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from statechart.chart import StateNode, Transition, is_descendant
from statechart.configuration import get_transition_domain
from statechart.draft import Draft

WORKFLOW_START = "WORKFLOW_START"
EXECUTION_ERROR = "error.execution"


def get_candidates(node: StateNode, event_type: str) -> Sequence[Transition]:
    """The node's transitions for an event type: exact ones, then those of wildcards, the longest first."""
    found = node.exact.get(event_type)
    if found is not None or not node.wildcards:
        return found or ()
    return wildcard_candidates(node, event_type)


def wildcard_candidates(node: StateNode, event_type: str) -> tuple[Transition, ...]:
    """The transitions of the node's wildcards that match, the longest descriptor first."""
    return tuple(
        transition
        for descriptor, transitions in node.wildcards
        if matches_wildcard(event_type, descriptor)
        for transition in transitions
    )


def matches_wildcard(event_type: str, descriptor: str) -> bool:
    """`*` matches every event, `foo.*` matches `foo` and everything below it.

    Two events of the engine want to be named: a start is for the state that waits for it, and no wildcard matches it; an error
    that something like `"*": {}` swallowed would be lost, so `error.execution` answers to `error.*` but not to `*`.
    """
    if event_type == WORKFLOW_START:
        return False
    if descriptor == "*":
        return event_type != EXECUTION_ERROR
    prefix = descriptor[:-1]
    return event_type.startswith(prefix) or event_type == prefix[:-1]


def select_transitions(draft: Draft, event_type: str) -> list[Transition]:
    """The transitions that the current event enables, one per region at most."""
    if not draft.chart.has_parallel:  # the active states are a line from the root down to one leaf
        for node in reversed(draft.active):
            candidates = get_candidates(node, event_type)
            found = first_enabled(draft, candidates) if candidates else None
            if found is not None:
                return [found]
        return []
    nodes = draft.nodes_in_document_order()
    enabled, _ = _transition_node(draft, nodes, 0, event_type)
    return enabled


def _transition_node(
    draft: Draft, nodes: Sequence[StateNode], at: int, event_type: str
) -> tuple[list[Transition], int]:
    """Ask the active node `nodes[at]`, its active descendants first; also gives the index of what follows them."""
    node = nodes[at]
    following = at + 1
    enabled: list[Transition] = []
    while following < len(nodes) and nodes[following].order <= node.last:
        inner, following = _transition_node(draft, nodes, following, event_type)
        enabled += inner
    if not enabled:
        own = first_enabled(draft, get_candidates(node, event_type))
        if own is not None:
            enabled.append(own)
    return enabled, following


def first_enabled(draft: Draft, candidates: Iterable[Transition]) -> Transition | None:
    for candidate in candidates:
        if candidate.guard is None or draft.holds(candidate.guard, candidate.at):
            return candidate
    return None


def select_start_transitions(draft: Draft) -> list[Transition]:
    """The transitions that the start of a workflow enables. No wildcard answers to it."""
    return select_transitions(draft, WORKFLOW_START)


def select_eventless_transitions(draft: Draft) -> list[Transition]:
    """The `always` transitions enabled now, asked leaf by leaf in the order in which the leaves were entered."""
    if not draft.chart.has_always:
        return []
    enabled: dict[Transition, None] = {}
    for leaf in [node for node in draft.active if node.is_leaf]:
        for node in (leaf, *leaf.ancestors):
            found = first_enabled(draft, node.always)
            if found is not None:
                enabled[found] = None
                break
    return remove_conflicting_transitions(draft, list(enabled))


def remove_conflicting_transitions(draft: Draft, enabled: list[Transition]) -> list[Transition]:
    """Of transitions that would leave the same states keep the one from the deeper source, else the earlier one."""
    if len(enabled) < 2:
        return enabled
    spans = {transition: _exit_span(draft, transition) for transition in enabled}
    if _are_disjoint(spans.values()):
        return enabled
    draft.charge_work(len(enabled) ** 2 // 16)
    kept: dict[Transition, None] = {}
    for one in enabled:
        rivals = [other for other in kept if _intersect(spans[one], spans[other])]
        if all(is_descendant(one.source, other.source) for other in rivals):
            for other in rivals:
                del kept[other]
            kept[one] = None
    return list(kept)


def _exit_span(draft: Draft, transition: Transition) -> tuple[int, int]:
    """The active states that the transition leaves are those with `low < order <= high`; none where both are 0.

    Domains are active, so that one with children has an active descendant, and spans meet only by nesting.
    """
    if not transition.target:
        return (0, 0)
    planned = transition.plan is not None
    domain = transition.domain if planned else get_transition_domain(transition, draft.history)
    if domain is None:
        return (-1, draft.chart.root.last)
    return (domain.order, domain.last) if domain.regions else (0, 0)


def _are_disjoint(spans: Iterable[tuple[int, int]]) -> bool:
    leaving = sorted(span for span in spans if span != (0, 0))
    return all(earlier[1] <= later[0] for earlier, later in pairwise(leaving))


def _intersect(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return max(one[0], other[0]) < min(one[1], other[1])
