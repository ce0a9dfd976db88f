"""A chart as SVG. States are boxes inside boxes; each transition is a row of its state, with a line to its target.

Lines run in lanes to the right of everything that source and target have around them in common, so that labels never
meet and the same chart always gives the same picture. No script, no font and no image from elsewhere.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from html import escape

from statechart.chart import Chart, StateNode, Transition, transitions_of
from statechart.configuration import find_least_common_ancestor
from statechart.labels import label_of

_CHARACTER = 7  # px of one character at 12px sans-serif, rounded up
_ROW = 18
_HEADER = 26
_PAD = 14
_GAP = 18
_LANE = 9
_MARGIN = 16
_FORBIDDEN = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # what XML 1.0 cannot hold

_STYLE = """
.state rect { fill: #ffffff; stroke: #546e7a; stroke-width: 1.2; }
.region > rect { stroke-dasharray: 5 4; }
.final > rect { stroke-width: 3; }
.active > rect { fill: #fff8e1; stroke: #e65100; stroke-width: 2.4; }
text { font: 12px sans-serif; fill: #263238; }
.name { font-weight: bold; }
.row { fill: #455a64; }
.edge { fill: none; stroke: #78909c; stroke-width: 1.2; }
.initial { fill: #546e7a; }
""".strip()


@dataclass(slots=True)
class _Box:
    node: StateNode
    rows: list[tuple[Transition, str]]
    children: list[_Box] = field(default_factory=list)
    x: int = 0
    y: int = 0
    width: int = 0
    height: int = 0

    @property
    def content_right(self) -> int:
        """Where the lanes begin that belong to this box."""
        return max((child.x + child.width for child in self.children), default=self.x + _PAD)


def draw(chart: Chart, lit: Collection[StateNode]) -> str:
    """The SVG document, with `lit` states highlighted."""
    lanes: Counter[StateNode | None] = Counter()
    for node in chart.nodes:
        for transition, _ in _rows(node):
            for target in transition.target or ():
                lanes[_around(transition.source, target)] += 1
    root = _measured(chart.root, lanes)
    _place(root, _MARGIN, _MARGIN)
    width = root.width + 2 * _MARGIN + _LANE * (lanes[None] + 1)
    height = root.height + 2 * _MARGIN
    boxes = {box.node: box for box in _all(root)}
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}">',
        f"<title>{_text(chart.id)}</title>",
        f"<style>{_STYLE}</style>",
        '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="#78909c"/></marker></defs>',
        *_drawn(root, chart, lit),
        *_edges(boxes),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _rows(node: StateNode) -> Iterator[tuple[Transition, str]]:
    return ((transition, label_of(transition)) for transition in transitions_of(node))


def _around(source: StateNode, target: StateNode) -> StateNode | None:
    """The state in whose lanes a line runs; None is the page."""
    return find_least_common_ancestor((source, target))


def _measured(node: StateNode, lanes: Counter[StateNode | None]) -> _Box:
    box = _Box(node, list(_rows(node)), [_measured(child, lanes) for child in node.children])
    texts = [_title(node), *(label for _, label in box.rows)]
    own_width = max(len(text) for text in texts) * _CHARACTER + 2 * _PAD
    own_height = _HEADER + _ROW * len(box.rows)
    across = node.type == "parallel"
    widths, heights = [child.width for child in box.children], [child.height for child in box.children]
    inner_width = sum(widths) + _GAP * (len(widths) - 1) if across else max(widths, default=0)
    inner_height = max(heights, default=0) if across else sum(heights) + _GAP * (len(heights) - 1)
    lane_width = _LANE * (lanes[node] + 1) if lanes[node] else 0
    box.width = max(own_width, inner_width + 2 * _PAD + lane_width)
    box.height = own_height + (inner_height + 2 * _PAD if box.children else _PAD // 2)
    return box


def _place(box: _Box, x: int, y: int) -> None:
    box.x, box.y = x, y
    left, top = x + _PAD, y + _HEADER + _ROW * len(box.rows) + _PAD
    for child in box.children:
        _place(child, left, top)
        if box.node.type == "parallel":
            left += child.width + _GAP
        else:
            top += child.height + _GAP


def _all(box: _Box) -> Iterator[_Box]:
    yield box
    for child in box.children:
        yield from _all(child)


def _drawn(box: _Box, chart: Chart, lit: Collection[StateNode]) -> Iterator[str]:
    node = box.node
    kinds = ["state", node.type]
    if node.parent is not None and node.parent.type == "parallel":
        kinds.append("region")
    if node in lit:
        kinds.append("active")
    name = chart.id if node.parent is None else _title(node)
    yield f'<g class="{" ".join(kinds)}" data-state="{_text(node.path)}">'
    yield f'<rect x="{box.x}" y="{box.y}" width="{box.width}" height="{box.height}" rx="7"/>'
    yield f'<text class="name" x="{box.x + _PAD}" y="{box.y + 17}">{_text(name)}</text>'
    if node.parent is not None and node.parent.initial is node:
        yield f'<circle class="initial" cx="{box.x}" cy="{box.y}" r="5"><title>initial</title></circle>'
    for index, (_, label) in enumerate(box.rows):
        yield f'<text class="row" x="{box.x + _PAD}" y="{_row_y(box, index) + 4}">{_text(label)}</text>'
    for child in box.children:
        yield from _drawn(child, chart, lit)
    yield "</g>"


def _edges(boxes: dict[StateNode, _Box]) -> Iterator[str]:
    used: Counter[StateNode | None] = Counter()
    arriving: Counter[StateNode] = Counter()
    page_right = max(box.x + box.width for box in boxes.values())
    for box in boxes.values():
        for index, (transition, label) in enumerate(box.rows):
            for target in transition.target or ():
                around = _around(box.node, target)
                used[around] += 1
                lane_from = page_right if around is None else boxes[around].content_right
                lane = lane_from + _LANE * used[around]
                end = boxes[target]
                end_y = end.y + 8 + arriving[target] % 4 * 4
                arriving[target] += 1
                start_x, start_y = box.x + box.width, _row_y(box, index)
                yield (
                    f'<path class="edge" marker-end="url(#arrow)" '
                    f'd="M{start_x} {start_y} H{lane} V{end_y} H{end.x + end.width}">'
                    f"<title>{_text(label)}</title></path>"
                )


def _row_y(box: _Box, index: int) -> int:
    return box.y + _HEADER + _ROW * index + 5


def _title(node: StateNode) -> str:
    if node.type == "history":
        return f"{node.key} (H{'*' if node.history == 'deep' else ''})"
    return node.key if node.type != "final" else f"{node.key} ◉"


def _text(text: str) -> str:
    return escape(_FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", text))
