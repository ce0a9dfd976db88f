"""The page behind a signed link: what it does, for whom, and one button. No script, no request to anybody else.

Everything on it comes from data and is escaped. Looking at it does nothing, because mail scanners and previews look.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from typing import Any

from flask.templating import Environment
from jinja2 import Template

from common.canonical import dumps

MAX_ROWS = 50
MAX_CELL = 1_000


@dataclass(frozen=True, slots=True)
class LinkPages:
    """Renders the page. `headers` forbid everything but its own style and its own form."""

    template: Template
    style: str
    headers: Mapping[str, str]

    @classmethod
    def of(cls, pages: Environment) -> LinkPages:
        style = files("api").joinpath("static", "link.css").read_text("utf-8")
        digest = base64.b64encode(sha256(style.encode()).digest()).decode()
        policy = (
            f"default-src 'none'; style-src 'sha256-{digest}'; form-action 'self'; base-uri 'none'; "
            "frame-ancestors 'none'"
        )
        headers = {"Content-Security-Policy": policy, "X-Robots-Tag": "noindex, nofollow", "Vary": "Accept"}
        return cls(pages.get_template("link.html"), style, headers)

    def render(self, seen: Mapping[str, Any]) -> bytes:
        """The page of an answer (`schemas.LinkAnswer`)."""
        tables = [
            (caption, _rows(seen[member]))
            for caption, member in (("What it is about", "input"), ("What you send", "value"))
            if seen.get(member) is not None
        ]
        return self.template.render(seen=seen, tables=tables, style=self.style).encode()


def _rows(value: Any) -> list[tuple[str, str]]:
    """A value as the lines of a table: an object's members, a list's elements, or the value alone."""
    if isinstance(value, dict):
        pairs = list(value.items())
    elif isinstance(value, list):
        pairs = [(str(number), one) for number, one in enumerate(value, start=1)]
    else:
        pairs = [("", value)]
    rows = [(str(name)[:MAX_CELL], _cell(one)) for name, one in pairs[:MAX_ROWS]]
    left = len(pairs) - len(rows)
    return [*rows, ("…", f"and {left:,} more")] if left else rows


def _cell(value: Any) -> str:
    text = value if isinstance(value, str) else dumps(value)
    # Characters that turn the direction of writing could let a value read as another one.
    text = re.sub("[\u202a-\u202e\u2066-\u2069\u200e\u200f]", "", text)
    return text if len(text) <= MAX_CELL else f"{text[:MAX_CELL]}…"
