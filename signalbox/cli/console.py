"""The console that people read: what data says is shown to them, and never done to their terminal.

Titles, notes, event types and errors are texts of whoever may send them, another company's server among them. A terminal obeys
control characters wherever they stand: it would hide lines, draw others, or type for whoever looks. So they are drawn as
pictures (`␛`). What rich itself says to the terminal, colours and the moves of a timeline that is watched, stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

_C0_BUT_LAYOUT = (code for code in range(0x20) if chr(code) not in "\n\t")
_C1 = range(0x80, 0xA0)
_PICTURES = (
    {code: chr(0x2400 + code) for code in _C0_BUT_LAYOUT} | {0x7F: "\u2421"} | dict.fromkeys(_C1, "\ufffd")
)


class VisibleConsole(Console):
    """A console on which no text is a command to the terminal."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As rich does, with the control characters of texts as pictures."""
        return _visible(super().render(renderable, options))


def _visible(segments: Iterable[Segment]) -> Iterator[Segment]:
    for segment in segments:
        if segment.control or segment.text.isprintable():
            yield segment
        else:
            yield Segment(segment.text.translate(_PICTURES), segment.style)
