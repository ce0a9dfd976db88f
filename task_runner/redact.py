"""Redaction: what a handler was given in confidence is not to come back from it, into rows, logs or answers.

Looked for are the values themselves and the forms that they take on their way through other programs: escaped as in JSON
or in Python, however deep, quoted as in URLs or HTML, in base64 at any offset (the password within `Basic …`), the long lines of several,
of a URL also as clients write it and its long parts, because a client shows and sends it in pieces.
Programs differ in what they escape (.NET writes the plus of base64 as `u002B` behind a backslash, Go an ampersand), so a text is also
searched as it reads without its escapes. A handler that turns a value into something else, its digest or its letters one by one, is not found out.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any
from urllib.parse import quote, quote_plus, unquote_plus, urlsplit

import structlog

LEAST = 4
"""Shorter values are not looked for: they stand in every text by chance."""
_LEAST_PART = 16
_PORTS = {"http": 80, "https": 443}
_DEEPEST = 3
"""How often the text that is left without its escapes may have some again: a URL in JSON in HTML."""
_HEX = "[0-9a-fA-F]"
_NEXT = f"%[89abAB]{_HEX}"
# Each stands for one character; backslashes for none, as many as there may be: JSON within JSON within a traceback.
_ESCAPE = re.compile(
    rf"\\{{1,40}}u[dD][89abAB]{_HEX}{{2}}\\{{1,40}}u[dD][c-fC-F]{_HEX}{{2}}|\\{{1,40}}u{_HEX}{{4}}|\\{{1,40}}"
    rf"|%[0-7]{_HEX}|%[cdCD]{_HEX}{_NEXT}|%[eE]{_HEX}(?:{_NEXT}){{2}}|%[fF][0-7](?:{_NEXT}){{3}}"
    rf"|&(?:#[0-9]{{1,6}}|#[xX]{_HEX}{{1,5}}|amp|lt|gt|quot|apos);"
)
_CUT_OFF = re.compile(
    rf"(?:%[c-fC-F]{_HEX}(?:{_NEXT})*)?(?:%{_HEX}?)?$|\\+(?:u{_HEX}{{0,3}})?$|&#?[0-9a-zA-Z]{{0,6}}$"
)
_ENTITIES = {"amp": "&", "lt": "<", "gt": ">", "quot": '"', "apos": "'"}
_ALPHABETS = (str.maketrans("", ""), str.maketrans("+/", "-_"))

Json = Any


class Redaction:
    """Replaces hidden values wherever they stand. `hidden`: what is shown instead → the value."""

    def __init__(self, hidden: Mapping[str, str]) -> None:
        self.hidden = {shown: value for shown, value in hidden.items() if len(value) >= LEAST}
        self._forms: dict[str, str] = {}
        self._bare: dict[str, str] = {}
        """What is looked for in texts without their escapes."""
        for shown, value in self.hidden.items():
            for text in _texts(value):
                written = dict.fromkeys((text, *_quoted(text), *_escaped(text)))
                for form in (
                    text,
                    *_quoted(text),
                    *(code for one in written for code in _base64(one.encode())),
                ):
                    self._forms.setdefault(form, shown)
                for form in _escaped(text):
                    for bare in (form.replace("\\", ""), *_without_escapes(form)):
                        if len(bare) >= LEAST:
                            self._bare.setdefault(bare, shown)

    def __bool__(self) -> bool:
        return bool(self._forms)

    def text(self, text: str) -> str:
        """The text without hidden values."""
        if not self:
            return text
        found = _finder(self._forms, text)
        if found is not None:
            text = found.sub(lambda match: self._forms[match[0]], text)
        layers, depth = _without_escapes(text), 1
        while depth <= len(layers):
            bare = layers[depth - 1]
            found = _finder(self._bare, bare)
            if found is not None:
                begins, ends = _places(text, depth)
                for match in reversed([*found.finditer(bare)]):
                    begin, end = begins[match.start()], ends[match.end() - 1]
                    text = text[:begin] + self._bare[match[0]] + text[end:]
                layers = _without_escapes(text)
            depth += 1
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
        whole = shown[:-40] + _CUT_OFF.sub("", shown[-40:])
        for depth, bare in enumerate(_without_escapes(whole), 1):
            for form, instead in self._bare.items():
                begin = _begins(form, bare)
                if begin is not None:
                    return (shown[: _places(whole, depth)[0][begin]] + instead)[:limit]
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


def _without_escapes(text: str) -> list[str]:
    """A text as it reads without its escapes, then without those that this has left, and so on; none where there are none."""
    layers: list[str] = []
    while len(layers) < _DEEPEST and any(sign in text for sign in "\\%&"):
        bare = _ESCAPE.sub(lambda found: _meant(found[0]), text)
        if bare == text:
            break
        layers.append(bare)
        text = bare
    return layers


def _places(text: str, depth: int) -> tuple[Sequence[int], Sequence[int]]:
    """Where each character of a text that has lost its escapes `depth` times begins and ends in the text itself."""
    begins: Sequence[int] = range(len(text))
    ends: Sequence[int] = range(1, len(text) + 1)
    for _ in range(depth):
        new_begins: list[int] = []
        new_ends: list[int] = []
        done = 0
        for found in _ESCAPE.finditer(text):
            begin, end = found.span()
            new_begins += begins[done:begin]
            new_ends += ends[done:begin]
            if _meant(found[0]):
                new_begins.append(begins[begin])
                new_ends.append(ends[end - 1])
            done = end
        begins, ends = [*new_begins, *begins[done:]], [*new_ends, *ends[done:]]
        text = _ESCAPE.sub(lambda found: _meant(found[0]), text)
    return begins, ends


@lru_cache(maxsize=4_096)
def _meant(written: str) -> str:
    """The character that an escape stands for; none for backslashes alone."""
    match written[0]:
        case "%":
            return bytes.fromhex(written.replace("%", "")).decode("utf-8", "replace")[:1]
        case "&":
            name = written[1:-1]
            return _ENTITIES.get(name) or chr(int(name[2:], 16) if name[1] in "xX" else int(name[1:]))
    units = written.replace("\\", "").split("u")[1:]
    return bytes.fromhex("".join(units)).decode("utf-16-be", "replace")[:1]


def _begins(form: str, text: str) -> int | None:
    """Where a form begins that the end of a text cuts off; None where it ends with no such beginning."""
    begin = text.find(form[:LEAST], max(len(text) - len(form) + 1, 0))
    while begin >= 0 and not form.startswith(text[begin:]):
        begin = text.find(form[:LEAST], begin + 1)
    return begin if begin >= 0 else None


def _texts(value: str) -> Iterator[str]:
    """A value, and the parts of it that are as good."""
    lines = [line.strip() for line in value.splitlines()]
    parts = (*lines, value.lower(), *_parts_of_url(value.strip()))  # the name of a host is written small
    for text in (value, value.strip(), *(part for part in parts if len(part) >= _LEAST_PART)):
        if len(text) >= LEAST:
            yield text


def _parts_of_url(value: str) -> Iterator[str]:
    """What clients and servers show of a URL, or of the end of one: whole without its query, its path, its query and what stands in that.

    A client writes scheme and host in small letters, leaves the scheme's own port out, and shows no query.
    """
    begin, _, query = value.partition("#")[0].partition("?")
    yield begin
    yield query
    for pair in query.split("&"):
        yield pair.partition("=")[2]
        yield unquote_plus(pair.partition("=")[2])
    try:
        read = urlsplit(begin)
        host, port = read.hostname, read.port
    except ValueError:  # none that anybody could ask
        return
    if host is not None:
        name = f"[{host}]" if ":" in host else host
        yield f"{read.scheme}://{name}{'' if port in (None, _PORTS.get(read.scheme)) else f':{port}'}{read.path}"
        yield read.path


def _escaped(text: str) -> Iterator[str]:
    """As JSON and Python write a text. Deeper nesting only adds backslashes."""
    yield text
    yield text.replace(" ", "+")
    yield json.dumps(text, ensure_ascii=False)[1:-1]
    yield json.dumps(text)[1:-1]
    yield repr(text)[1:-1]
    yield repr(text.encode())[2:-1]


def _quoted(text: str) -> Iterator[str]:
    yield text.replace(" ", "+")  # of a form that was read as none
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
