"""Redaction: what a handler was given in confidence is not to come back from it, into rows, logs or answers.

Looked for are the values themselves and the forms that they take on their way through other programs: escaped as in JSON
or in Python, however deep, quoted as in URLs, in base64 at any offset (the password within `Basic …`), the long lines of several. A
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
        self._bare: dict[str, str] = {}
        """Escaped forms without their backslashes, as many as there may be: JSON within JSON within a traceback."""
        for shown, value in self.hidden.items():
            for text in _texts(value):
                for form in (text, *_quoted(text), *_base64(text.encode())):
                    self._forms.setdefault(form, shown)
                for form in _escaped(text):
                    bare = form.replace("\\", "")
                    if len(bare) >= LEAST:
                        self._bare.setdefault(bare, shown)

    def __bool__(self) -> bool:
        return bool(self._forms)

    def text(self, text: str) -> str:
        """The text without hidden values."""
        found = _finder(self._forms, text)
        if found is not None:
            text = found.sub(lambda match: self._forms[match[0]], text)
        if "\\" not in text:
            return text
        bare = text.replace("\\", "")
        found = _finder(self._bare, bare)
        if found is None:
            return text
        places = [place for place, letter in enumerate(text) if letter != "\\"]
        for match in reversed([*found.finditer(bare)]):
            begin, end = places[match.start()], places[match.end() - 1] + 1
            text = text[:begin] + self._bare[match[0]] + text[end:]
        return text

    def cut_text(self, text: str, limit: int) -> str:
        """The first `limit` characters of a text that may itself be the cut off start of a longer one.

        What is left of a hidden value at the end of `text` goes as well.
        """
        shown = self.text(text)
        for form, instead in self._forms.items():
            begin = _begins(form, shown)
            if begin is not None:
                shown = shown[:begin] + instead
        if "\\" in shown:
            for form, instead in self._bare.items():
                begin = _begins(form, shown.replace("\\", ""))
                if begin is not None:
                    places = [place for place, letter in enumerate(shown) if letter != "\\"]
                    shown = shown[: places[begin]] + instead
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


def _finder(forms: Mapping[str, str], text: str) -> re.Pattern[str] | None:
    """What finds the forms that stand in a text, longer ones first; None where there is none.

    Looking for each is quick, and as a rule none is there; one expression of all of them would be slow.
    """
    present = sorted((form for form in forms if form in text), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, present))) if present else None


def _begins(form: str, text: str) -> int | None:
    """Where a form begins that the end of a text cuts off; None where it ends with no such beginning."""
    begin = text.find(form[:LEAST], max(len(text) - len(form) + 1, 0))
    while begin >= 0 and not form.startswith(text[begin:]):
        begin = text.find(form[:LEAST], begin + 1)
    return begin if begin >= 0 else None


def _texts(value: str) -> Iterator[str]:
    """A value, and the parts of it that are as good."""
    lines = [line.strip() for line in value.splitlines()]
    for text in (value, value.strip(), *(line for line in lines if len(line) >= _LEAST_LINE)):
        if len(text) >= LEAST:
            yield text


def _escaped(text: str) -> Iterator[str]:
    """As JSON and Python write a text. Deeper nesting only adds backslashes."""
    yield text
    yield json.dumps(text, ensure_ascii=False)[1:-1]
    yield json.dumps(text)[1:-1]
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
