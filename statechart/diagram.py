"""Pictures of a chart: text for Mermaid, or an SVG of our own that needs nothing to be drawn.

Both show states inside states, regions, final and history states, and every transition with what triggers it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Literal

from statechart.chart import Chart, StateNode, Transition, transitions_of
from statechart.labels import label_of
from statechart.svg import draw

_ESCAPES = str.maketrans(
    {"#": "#35;", ";": "#59;", ":": "#58;", '"': "#quot;", "<": "#lt;", ">": "#gt;", "\n": " "}
)


def diagram(
    chart: Chart,
    *,
    format: Literal["mermaid", "svg"] = "mermaid",
    active: Collection[str] = (),
) -> str:
    """Draw the chart. `active` are the dotted paths of a snapshot's configuration: these states, and those around
    them, are highlighted. Raises `ValueError` for another format.
    """
    lit = {node for path in active if (leaf := chart.state(path)) for node in (leaf, *leaf.ancestors)}
    match format:
        case "mermaid":
            return "\n".join(_mermaid(chart, lit)) + "\n"
        case "svg":
            return draw(chart, lit)
        case _:
            raise ValueError(f"expected the format 'mermaid' or 'svg', found {format!r}")


def _mermaid(chart: Chart, lit: Collection[StateNode]) -> Iterator[str]:
    yield "stateDiagram-v2"
    yield from _mermaid_inside(chart.root, "  ")
    for node in chart.nodes:
        for transition in transitions_of(node):
            yield from _mermaid_edges(transition)
    if chart.root.type == "atomic":
        yield f'  state "{escaped(chart.id)}" as {_name(chart.root)}'
    names = [_name(node) for node in chart.nodes if node in lit and node.parent is not None]
    if names:
        yield "  classDef active fill:#ffd54f,stroke:#e65100,stroke-width:2px,color:#000"
        yield f"  class {','.join(names)} active"


def _mermaid_inside(node: StateNode, indent: str) -> Iterator[str]:
    for index, child in enumerate(node.children):
        if node.type == "parallel" and index and child.type != "history":
            yield f"{indent}--"
        label = (
            f"{child.key} (H{'*' if child.history == 'deep' else ''})"
            if child.type == "history"
            else child.key
        )
        if child.children:
            yield f'{indent}state "{escaped(label)}" as {_name(child)} {{'
            yield from _mermaid_inside(child, indent + "  ")
            yield f"{indent}}}"
        else:
            yield f'{indent}state "{escaped(label)}" as {_name(child)}'
        if child.type == "final":
            yield f"{indent}{_name(child)} --> [*]"
    if node.type == "compound" and node.initial is not None:
        yield f"{indent}[*] --> {_name(node.initial)}"


def _mermaid_edges(transition: Transition) -> Iterator[str]:
    # The root has no box of its own: what it takes is drawn from where the machine begins.
    source = transition.source
    start = _name(source) if source.parent is not None else "[*]"
    for target in transition.target or ():
        end = _name(target) if target.parent is not None else "[*]"
        yield f"  {start} --> {end} : {escaped(label_of(transition))}"


def escaped(text: str) -> str:
    """Text as Mermaid takes it: everything that could be syntax as an entity."""
    return text.translate(_ESCAPES)


def _name(node: StateNode) -> str:
    return f"s{node.order}"
