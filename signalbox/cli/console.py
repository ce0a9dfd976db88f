"""The console that people read: what data says is shown to them, and never done to their terminal.

Titles, notes, event types and errors are texts of whoever may send them, another company's server among them. A terminal obeys
control characters wherever they stand: it would hide lines, draw others, or type for whoever looks. So they are drawn as
pictures (`␛`). What rich itself says to the terminal, colours and the moves of a timeline that is watched, stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.segment import Segment
from rich.style import StyleType
from rich.table import Table
from rich.text import Text

_C0_BUT_LAYOUT = (code for code in range(0x20) if chr(code) not in "\n\t")
_C1 = range(0x80, 0xA0)
_PICTURES = (
    {code: chr(0x2400 + code) for code in _C0_BUT_LAYOUT} | {0x7F: "\u2421"} | dict.fromkeys(_C1, "\ufffd")
)


class VisibleConsole(Console):
    """A console on which no text is a command to the terminal."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As rich does, with the control characters of texts as pictures."""
        return _visible(super().render(drawn(renderable), options))


def drawn(renderable: RenderableType) -> RenderableType:
    """A text, or a group of texts, with pictures in the place of control characters; anything else as it is.

    A picture is a column wide and a control character none, so texts have to have theirs before anybody measures them:
    a cell that is measured first is too narrow by as many columns, and loses as many characters.
    """
    match renderable:
        case str():
            return renderable.translate(_PICTURES)
        case Text() if not renderable.plain.isprintable():
            copy = renderable.copy()
            copy.plain = copy.plain.translate(
                _PICTURES
            )  # as long as before, so its spans stay where they are
            return copy
        case Group():
            return Group(*map(drawn, renderable.renderables), fit=renderable.fit)
    return renderable


class DrawnTable(Table):
    """A table that measures its cells as `VisibleConsole` shows them."""

    def add_row(
        self, *cells: RenderableType | None, style: StyleType | None = None, end_section: bool = False
    ) -> None:
        """As rich does."""
        shown = (None if cell is None else drawn(cell) for cell in cells)
        super().add_row(*shown, style=style, end_section=end_section)


def _visible(segments: Iterable[Segment]) -> Iterator[Segment]:
    for segment in segments:
        if segment.control or segment.text.isprintable():
            yield segment
        else:
            yield Segment(segment.text.translate(_PICTURES), segment.style)
