"""Links that a task makes of `${link.NAME}` in its input: what its option `links` says of each, checked as far as it is written.

A link answers a HUMAN task of the same instance, named by `task`, with an `output` or with `reject` (the reason), or sends an
`event` to it. It is for one `person` and works once, until `expiresIn` after the task was made. The kernel leaves the
reference as it is; where the task runs, it becomes an address.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from statechart.durations import parse_duration
from statechart.env import Json
from statechart.problems import nearest
from statechart.templates import is_template

FIELDS = ("task", "output", "reject", "event", "person", "expiresIn")
MOST = 20
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]{0,199}")
_REFERENCE = re.compile(r"(?<!\$)\$\{\s*link\.([A-Za-z_][A-Za-z0-9_.\-]*)\s*\}")


class LinkProblem(NamedTuple):
    """What is wrong with `links`, or with a reference to one; `at` is the path from the task."""

    at: str
    message: str
    suggestion: str | None = None


def problems_of(fields: Mapping[str, Json]) -> Iterator[LinkProblem]:
    """What is wrong with the links of a task and the references to them, as far as they are written out."""
    links = fields.get("links")
    if links is None:
        links = {}
    elif isinstance(links, str) and is_template(links):
        return
    elif not isinstance(links, Mapping) or len(links) > MOST:
        yield LinkProblem("links", f"expected an object of at most {MOST} links by name, found {links!r:.80}")
        return
    for name, link in links.items():
        if not NAME.fullmatch(name):
            yield LinkProblem(
                f"links.{name}",
                f"a link's name is a letter or _, then letters, digits and _ . -, found {name!r:.80}",
            )
        yield from _problems_of_one(f"links.{name}", link)
    for name in _references(fields.get("input")):
        if name not in links:
            known = f"; links has {', '.join(map(repr, links))}" if links else "; the task has no links"
            yield LinkProblem("input", f"unknown link {name!r}{known}", nearest(name, links))


def _problems_of_one(at: str, link: Json) -> Iterator[LinkProblem]:
    if isinstance(link, str) and is_template(link):
        return
    if not isinstance(link, Mapping):
        yield LinkProblem(at, f"expected an object with task or event, found {link!r:.80}")
        return
    for field in link:
        if field not in FIELDS:
            message = f"unknown field {field!r}; a link takes {', '.join(FIELDS)}"
            yield LinkProblem(f"{at}.{field}", message, nearest(field, FIELDS))
    if ("task" in link) == ("event" in link):
        yield LinkProblem(at, "expected either task, the name of a HUMAN task, or event")
    if "task" not in link and ("output" in link or "reject" in link):
        yield LinkProblem(at, "output and reject are for a task; expected none beside event")
    if "output" in link and "reject" in link:
        yield LinkProblem(at, "expected either output, which completes the task, or reject, the reason")
    duration = link.get("expiresIn")
    if duration is not None and not is_template(duration):
        try:
            parse_duration(duration)
        except ValueError as wrong:
            yield LinkProblem(f"{at}.expiresIn", str(wrong))


def _references(value: Json) -> list[str]:
    """The names of links that texts in a value refer to, at any depth."""
    found: dict[str, None] = {}
    pending = [value]
    while pending:
        part = pending.pop()
        if isinstance(part, str):
            found.update(dict.fromkeys(_REFERENCE.findall(part)))
        elif isinstance(part, Mapping):
            pending.extend(part.values())
        elif isinstance(part, list):
            pending.extend(part)
    return list(found)
