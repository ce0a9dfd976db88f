"""Which states an instance can ever be in, guards and data left aside.

An approximation from above: what is not found here is certainly unreachable. Linear in the size of the chart.
"""

from __future__ import annotations

from statechart.chart import Chart, StateNode, transitions_of
from statechart.guards import Constant


def reachable_states(chart: Chart) -> set[StateNode]:
    """Every state that the initial configuration or some transition can enter."""
    search = _Search()
    search.enter(chart.root)
    while search.pending:
        node = search.pending.pop()
        for transition in transitions_of(node):
            if isinstance(transition.guard, Constant) and not transition.guard.answer:
                continue
            for target in transition.target or ():
                search.enter(target)
    return search.reached


class _Search:
    def __init__(self) -> None:
        self.reached: set[StateNode] = set()
        self.pending: list[StateNode] = []
        self._entered: set[StateNode] = set()  # by default: what is initial inside is entered too

    def enter(self, target: StateNode) -> None:
        """Enter a state, what is initial inside it, what is around it and the other regions there."""
        stack = [target]
        while stack:
            node = stack.pop()
            if node in self._entered:
                continue
            self._entered.add(node)
            if node.type != "history":
                self._reach(node)
            for ancestor in node.ancestors:
                if ancestor in self.reached:
                    break
                self._reach(ancestor)
                if ancestor.type == "parallel":
                    stack.extend(ancestor.regions)
            match node.type:
                case "compound" if node.initial is not None:
                    stack.append(node.initial)
                case "parallel":
                    stack.extend(node.regions)
                case "history":
                    stack.extend(node.history_default)
                case _:
                    pass

    def _reach(self, node: StateNode) -> None:
        if node not in self.reached:
            self.reached.add(node)
            self.pending.append(node)
