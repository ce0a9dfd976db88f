"""Which states a transition leaves and enters: the set algebra of SCXML as XState v5 computes it.

Everything here is a function of the chart, the active nodes and the remembered history; nothing is executed. The
functions carry the names they have in XState's `stateUtils`, so that the two can be read side by side.

Active nodes are kept in a dict used as an ordered set. Its order is the order of entry and not that of the document,
because XState asks the regions of a parallel state for eventless transitions in the order in which they were entered.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import TypeAlias

from statechart.chart import EntryPlan, StateNode, Transition, is_descendant

ActiveNodes: TypeAlias = dict[StateNode, None]
HistoryValue: TypeAlias = Mapping[str, Sequence[StateNode]]  # by path of the history state

NOTHING_REMEMBERED: HistoryValue = {}


def with_ancestors(leaves: Iterable[StateNode]) -> ActiveNodes:
    """The leaves and everything above them."""
    active: ActiveNodes = {}
    for leaf in leaves:
        active |= dict.fromkeys(leaf.lineage)
    return active


def is_in_final_state(node: StateNode, active: ActiveNodes) -> bool:
    """Has this active state completed: a final child is active, or all regions have completed?"""
    match node.type:
        case "compound":
            return any(child.type == "final" and child in active for child in node.regions)
        case "parallel":
            return all(is_in_final_state(region, active) for region in node.regions)
        case _:
            return node.type == "final"


def is_legal(root: StateNode, active: ActiveNodes) -> bool:
    """One child of each active compound state, all of each parallel one, and every parent of whatever is active."""
    if root not in active:
        return False
    for node in active:
        if node.type == "history" or (node.parent is not None and node.parent not in active):
            return False
        alive = sum(region in active for region in node.regions)
        if alive != {"compound": 1, "parallel": len(node.regions)}.get(node.type, 0):
            return False
    return True


def get_effective_target_states(
    target: Iterable[StateNode] | None, history: HistoryValue
) -> dict[StateNode, None]:
    """The targets with each history state replaced by what it remembers, or by its default."""
    found: dict[StateNode, None] = {}
    for node in target or ():
        if node.type != "history":
            found[node] = None
        elif remembered := history.get(node.path):
            found.update(dict.fromkeys(remembered))
        else:
            found.update(get_effective_target_states(node.history_default, history))
    return found


def find_least_common_ancestor(nodes: Sequence[StateNode]) -> StateNode | None:
    head, *tail = nodes
    for ancestor in head.ancestors:
        low, high = ancestor.order, ancestor.last
        for node in tail:
            if not low < node.order <= high:
                break
        else:
            return ancestor
    return None


def get_transition_domain(transition: Transition, history: HistoryValue) -> StateNode | None:
    """The state inside which the transition happens. None: a re-entering transition of the root leaves even the root."""
    targets = get_effective_target_states(transition.target, history)
    source = transition.source
    if not transition.reenter and all(t is source or is_descendant(t, source) for t in targets):
        return source
    common = find_least_common_ancestor([*targets, source])
    if common is not None or transition.reenter:
        return common
    return source.ancestors[-1] if source.ancestors else source


def get_transition_domains(
    transitions: Iterable[Transition], history: HistoryValue
) -> dict[Transition, StateNode | None]:
    """The domain of each transition, taken once for a microstep.

    XState asks again between leaving and entering, when the history may have changed; where a state targets the
    history of a state around it, this leaves that state half entered. Here leaving and entering agree.
    """
    return {
        transition: transition.domain
        if transition.plan is not None
        else get_transition_domain(transition, history)
        for transition in transitions
    }


def compute_exit_set(domains: Mapping[Transition, StateNode | None], active: ActiveNodes) -> list[StateNode]:
    """The active states that the transitions leave, deepest and last first."""
    if len(domains) == 1:
        ((transition, domain),) = domains.items()
        if not transition.target:
            return []
        if domain is None:
            leaving = list(active)
        else:
            low, high = domain.order, domain.last
            leaving = [node for node in active if low < node.order <= high]
    else:
        below = _Below(active)
        leaving = list(
            dict.fromkeys(
                node for transition, domain in domains.items() if transition.target for node in below(domain)
            )
        )
    return sorted(leaving, key=_by_order, reverse=True)


class _Below:
    """Finds the active states below a state without looking at all of them."""

    def __init__(self, active: ActiveNodes) -> None:
        self.nodes = sorted(active, key=_by_order)
        self.orders = [node.order for node in self.nodes]

    def __call__(self, node: StateNode | None) -> list[StateNode]:
        if node is None:
            return self.nodes
        return self.nodes[bisect_right(self.orders, node.order) : bisect_right(self.orders, node.last)]


def remembered_on_exit(leaving: Sequence[StateNode], active: ActiveNodes) -> dict[str, list[StateNode]]:
    """What the history states of the states being left have to remember."""
    keepers = [keeper for node in leaving for keeper in node.history_states]
    if not keepers:
        return {}
    below = _Below(active)
    memory: dict[str, list[StateNode]] = {}
    for keeper in keepers:
        parent = keeper.parent
        if parent is not None:
            is_deep = keeper.history == "deep"
            nodes = below(parent) if is_deep else parent.regions
            memory[keeper.path] = [n for n in nodes if n in active and (n.is_leaf or not is_deep)]
    return memory


class EntrySet:
    """The entry set while it is being worked out."""

    __slots__ = ("_above", "by_default", "history", "nodes")

    def __init__(self, history: HistoryValue) -> None:
        self.history = history
        self.nodes: dict[StateNode, None] = {}
        self.by_default: set[StateNode] = set()
        self._above: set[StateNode] = set()

    def add(self, node: StateNode, *, by_default: bool = False) -> None:
        self.nodes[node] = None
        if by_default:
            self.by_default.add(node)
        for ancestor in node.ancestors:
            if ancestor in self._above:
                break
            self._above.add(ancestor)

    def remove(self, surplus: set[StateNode]) -> None:
        """Take out these nodes and everything below them."""
        for node in list(self.nodes):
            if node in surplus or not surplus.isdisjoint(node.ancestors):
                del self.nodes[node]
                self.by_default.discard(node)
        self._above = {ancestor for node in self.nodes for ancestor in node.ancestors}

    def reaches_into(self, region: StateNode) -> bool:
        """Is a state below `region` being entered already?"""
        return region in self._above

    def plan(self) -> EntryPlan:
        return EntryPlan(tuple(sorted(self.nodes, key=_by_order)), frozenset(self.by_default))


def compute_entry_set(
    domains: Mapping[Transition, StateNode | None], history: HistoryValue, active: ActiveNodes
) -> EntryPlan:
    """The states that the transitions enter, in document order. `active` is what they have left standing."""
    if len(domains) == 1:
        (transition,) = domains
        if transition.plan is not None:
            return transition.plan
    entry_set = _entries_of(domains, history)
    _close_upwards(entry_set, active)
    _keep_first_child(entry_set, active)
    _close_downwards(entry_set, active)
    return entry_set.plan()


def plan_entry(transition: Transition, domain: StateNode | None) -> EntryPlan:
    """What one transition enters that does not depend on history, whatever is active."""
    return _entries_of({transition: domain}, NOTHING_REMEMBERED).plan()


def _entries_of(domains: Mapping[Transition, StateNode | None], history: HistoryValue) -> EntrySet:
    entry_set = EntrySet(history)
    for transition, domain in domains.items():
        _add_entries(transition, domain, entry_set)
    return entry_set


def _close_upwards(entry_set: EntrySet, active: ActiveNodes) -> None:
    """No state stands without those around it.

    A transition to its own source leaves nothing and so conflicts with nothing, and another one may leave what is
    around it; XState then enters the inner state alone.
    """
    for node in list(entry_set.nodes):
        missing = [a for a in node.ancestors if a not in active and a not in entry_set.nodes]
        add_ancestor_states_to_enter(missing, None, entry_set)


def _keep_first_child(entry_set: EntrySet, active: ActiveNodes) -> None:
    """One child of each compound state: the one that stands, or else is asked for first.

    Transitions that leave nothing conflict with nothing, and two of them, or one beside another that leaves the state
    around it, may ask for different children; XState then enters both.
    """
    chosen = {node.parent: node for node in active}
    surplus = {
        node
        for node in entry_set.nodes
        if node.parent is not None
        and node.parent.type == "compound"
        and chosen.setdefault(node.parent, node) is not node
    }
    if surplus:
        entry_set.remove(surplus)


def _close_downwards(entry_set: EntrySet, active: ActiveNodes) -> None:
    """No compound state stands without a child, no parallel one without a region.

    A history state may lead out of the state it stands in; XState then enters nothing where it was asked to.
    """
    for node in [*active, *entry_set.nodes]:
        standing = [region for region in node.regions if region in active or region in entry_set.nodes]
        if node.type == "compound" and not standing:
            add_descendant_states_to_enter(node, entry_set)
        elif node.type == "parallel" and len(standing) < len(node.regions):
            for region in node.regions:
                if region not in standing:
                    entry_set.add(region, by_default=True)
                    add_descendant_states_to_enter(region, entry_set)


def _add_entries(transition: Transition, domain: StateNode | None, entry_set: EntrySet) -> None:
    source = transition.source
    for target in transition.target or ():
        # A transition to its own source stays inside it, unless it re-enters or its domain lies further out.
        if target.type != "history" and (target is not source or domain is not source or transition.reenter):
            entry_set.add(target, by_default=True)
        add_descendant_states_to_enter(target, entry_set)
    limit = None if source.parent is None and transition.reenter else domain
    for target in get_effective_target_states(transition.target, entry_set.history):
        ancestors = get_proper_ancestors(target, domain)
        if domain is not None and domain.type == "parallel":
            ancestors.append(domain)
        add_ancestor_states_to_enter(ancestors, limit, entry_set)


def add_descendant_states_to_enter(node: StateNode, entry_set: EntrySet) -> None:
    match node.type:
        case "history":
            _add_remembered_states(node, entry_set)
        case "compound" if node.initial is not None:
            if node.initial.type != "history":
                entry_set.add(node.initial, by_default=True)
            add_descendant_states_to_enter(node.initial, entry_set)
            add_ancestor_states_to_enter(get_proper_ancestors(node.initial, node), None, entry_set)
        case "parallel":
            for region in node.regions:
                if not entry_set.reaches_into(region):
                    entry_set.add(region, by_default=True)
                    add_descendant_states_to_enter(region, entry_set)
        case _:
            pass


def _add_remembered_states(keeper: StateNode, entry_set: EntrySet) -> None:
    remembered = entry_set.history.get(keeper.path)
    states = remembered or keeper.history_default
    for node in states:
        if node.type != "history":
            entry_set.add(node)
        add_descendant_states_to_enter(node, entry_set)
    if not remembered and keeper.defaults_to_initial and keeper.parent is not None:
        entry_set.by_default.add(keeper.parent)
    for node in states:
        add_ancestor_states_to_enter(get_proper_ancestors(node, keeper.parent), None, entry_set)


def add_ancestor_states_to_enter(
    ancestors: Iterable[StateNode], limit: StateNode | None, entry_set: EntrySet
) -> None:
    for ancestor in ancestors:
        if is_descendant(ancestor, limit):
            entry_set.add(ancestor)
        if ancestor.type == "parallel":
            for region in ancestor.regions:
                if not entry_set.reaches_into(region):
                    entry_set.add(region)
                    add_descendant_states_to_enter(region, entry_set)


def get_proper_ancestors(node: StateNode, up_to: StateNode | None) -> list[StateNode]:
    """The ancestors below `up_to`, nearest first; all of them where `up_to` is not above."""
    if node is up_to:
        return []
    found: list[StateNode] = []
    for ancestor in node.ancestors:
        if ancestor is up_to:
            break
        found.append(ancestor)
    return found


def in_document_order(nodes: Iterable[StateNode]) -> bool:
    return all(one.order < other.order for one, other in pairwise(nodes))


def _by_order(node: StateNode) -> int:
    return node.order
