"""Redaction: what a handler was given in confidence is not to come back from it, into rows, logs or answers.

Looked for are the values themselves and the forms that they take on their way through other programs: escaped as in JSON
or in Python, quoted as in URLs, in base64 at any offset (the password within `Basic …`), the long lines of several. A
handler that turns a value into something else, its digest or its letters one by one, is not found out.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, quote_plus

import structlog

LEAST = 4
"""Shorter values are not looked for: they stand in every text by chance."""
_LEAST_LINE = 16
_ALPHABETS = (str.maketrans("", ""), str.maketrans("+/", "-_"))

Json = Any


class Redaction:
    """Replaces hidden values wherever they stand. `hidden`: what is shown instead → the value."""

    def __init__(self, hidden: Mapping[str, str]) -> None:
        self.hidden = {shown: value for shown, value in hidden.items() if len(value) >= LEAST}
        self._forms: dict[str, str] = {}
        for shown, value in self.hidden.items():
            for form in _forms(value):
                self._forms.setdefault(form, shown)

    def __bool__(self) -> bool:
        return bool(self._forms)

    def text(self, text: str) -> str:
        """The text without hidden values."""
        # Looking for each form is quick, and as a rule there is none; an expression of all of them would be slow.
        present = sorted((form for form in self._forms if form in text), key=len, reverse=True)
        if not present:
            return text
        found = re.compile("|".join(map(re.escape, present)))
        return found.sub(lambda match: self._forms[match[0]], text)

    def cut_text(self, text: str, limit: int) -> str:
        """The first `limit` characters of a text that may itself be the cut off start of a longer one.

        What is left of a hidden value at the end of `text` goes as well.
        """
        shown = self.text(text)
        for form, instead in self._forms.items():
            begin = shown.find(form[:LEAST], max(len(shown) - len(form) + 1, 0))
            while begin >= 0 and not form.startswith(shown[begin:]):
                begin = shown.find(form[:LEAST], begin + 1)
            if begin >= 0:
                shown = shown[:begin] + instead
        return shown[:limit]

    def json(self, value: Json) -> Json:
        """A JSON value without hidden values, in the names of members and in the digits of numbers too."""
        if not self:
            return value
        match value:
            case str():
                return self.text(value)
            case bool() | None:
                return value
            case int() | float():
                digits = json.dumps(value)
                shown = self.text(digits)
                return value if shown == digits else shown
            case dict():
                return {self.json(str(key)): self.json(item) for key, item in value.items()}
            case list() | tuple():
                return [self.json(item) for item in value]
            case _:
                return self.text(str(value))

    def line(self, logger: Any, method: str, event: Any) -> Any:
        """A line of a log without hidden values: a processor of structlog."""
        return {
            key: value if key.startswith("_") else self.json(value)
            for key, value in structlog.processors.format_exc_info(logger, method, event).items()
        }


NOTHING_HIDDEN = Redaction({})


def _forms(value: str) -> Iterator[str]:
    """The texts as which a value may show up."""
    lines = [line.strip() for line in value.splitlines()]
    for text in (value, value.strip(), *(line for line in lines if len(line) >= _LEAST_LINE)):
        if len(text) >= LEAST:
            yield text
            yield from _escaped(text)
            yield from _quoted(text)
            yield from _base64(text.encode())


def _escaped(text: str) -> Iterator[str]:
    for escaped in (json.dumps(text, ensure_ascii=False)[1:-1], json.dumps(text)[1:-1]):
        yield escaped
        yield escaped.replace("/", "\\/")
        yield json.dumps(escaped)[1:-1]  # JSON within JSON
    yield repr(text)[1:-1]
    yield repr(text.encode())[2:-1]


def _quoted(text: str) -> Iterator[str]:
    for quoted in (quote(text, safe=""), quote(text), quote(text, safe="!$&'()*+,;=:@/?~"), quote_plus(text)):
        yield quoted
        yield re.sub("%[0-9A-F]{2}", lambda match: match[0].lower(), quoted)


def _base64(raw: bytes) -> Iterator[str]:
    """The letters that stand for these bytes wherever they begin, without those that neighbours share in."""
    for before in range(3):
        letters = b64encode(bytes(before) + raw).decode().rstrip("=")
        inside = letters[-(-before * 8 // 6) : (before + len(raw)) * 8 // 6]
        if len(inside) >= LEAST:
            for alphabet in _ALPHABETS:
                yield inside.translate(alphabet)
