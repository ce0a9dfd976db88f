"""The body of an answer: read, unpacked and decoded within bounds, whatever the server says of it.

Pure but for the bytes that it is given. Compressed bodies are unpacked here and not by the client library, which unpacks
each piece that arrives as a whole: 64 kB of zeros in gzip would be 64 MB before anybody could count them.
"""

from __future__ import annotations

import zlib
from base64 import b64encode
from collections.abc import Iterable
from typing import Any

from common.canonical import loads
from common.errors import Invalid

ENCODINGS = "gzip, deflate"
"""What we say that we accept."""
_FRAMING_BYTES = 65_536
# Each piece costs 8 µs whatever is in it: a megabyte in chunks of one byte would take a core for 8 s.
_MANY_PIECES = 100_000
_SMALL_PIECE = 32
# Encodings that a server may name. Not whatever Python has a codec for: some of those take quadratic time.
_CHARSETS = {
    "utf-8": "utf-8",
    "utf8": "utf-8",
    "us-ascii": "utf-8",
    "ascii": "utf-8",
    "iso-8859-1": "latin-1",
    "latin1": "latin-1",
    "iso-8859-15": "iso-8859-15",
    "windows-1252": "windows-1252",
    "utf-16": "utf-16",
    "utf-16le": "utf-16-le",
    "utf-16be": "utf-16-be",
}

Json = Any


class BodyTooLarge(Exception):
    """The body has more bytes than were allowed. `start` is what was read of it."""

    def __init__(self, start: bytes) -> None:
        super().__init__("too large")
        self.start = start


class Unreadable(Exception):
    """The body is not what its headers say. `code` ends an error's code; the text is safe to show."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def read_body(parts: Iterable[bytes], encoding: str, *, max_bytes: int) -> bytes:
    """Read and unpack a body of at most `max_bytes` unpacked bytes, holding never more than about that.

    `encoding` is the answer's Content-Encoding. Raises `BodyTooLarge`, and `Unreadable` (`encoding`).
    """
    unpack = _unpacker(encoding)
    body = bytearray()
    packed = 0
    for pieces, part in enumerate(parts, 1):
        packed += len(part)
        if pieces > _MANY_PIECES and packed < pieces * _SMALL_PIECE:
            raise Unreadable("encoding", f"the body comes in more than {_MANY_PIECES} pieces of a few bytes")
        body += unpack.take(part, max_bytes + 1 - len(body))
        # Packed bytes are bounded as well: they may unpack to nothing at all, for ever.
        if len(body) > max_bytes or packed > max_bytes + _FRAMING_BYTES:
            raise BodyTooLarge(bytes(body[:max_bytes]))
    unpack.finish()
    return bytes(body)


def read_start(parts: Iterable[bytes], encoding: str, *, max_bytes: int) -> bytes:
    """The first bytes of a body, for an error: whatever of it can be had."""
    try:
        return read_body(parts, encoding, max_bytes=max_bytes)
    except BodyTooLarge as error:
        return error.start
    except Unreadable:
        return b""


def decode(body: bytes, content_type: str, *, max_bytes: int) -> tuple[Json, str | None]:
    """A body as JSON, as text, or as base64, with how it was encoded: None, None, `base64`. Null where there is none.

    Raises `Unreadable` (`invalid_json`) where the answer says JSON and it is not.
    """
    if not body:
        return None, None
    kind, charset = _content_type(content_type)
    if kind == "application/json" or kind.endswith("+json"):
        try:
            return loads(body, max_bytes=max_bytes), None
        except Invalid as error:
            raise Unreadable(
                "invalid_json", f"the answer says that it is JSON, and it is not: {error}"
            ) from None
    text = _text(body, charset)
    return (text, None) if text is not None else (b64encode(body).decode("ascii"), "base64")


def _text(body: bytes, charset: str) -> str | None:
    """The text that bytes are, or None; NUL stands in no text, and cannot be stored."""
    codec = _CHARSETS.get(charset)
    if codec is None:
        return None
    try:
        text = body.decode(codec)
    except UnicodeDecodeError:
        return None
    return None if "\x00" in text else text


def _content_type(written: str) -> tuple[str, str]:
    """The media type and the charset of a Content-Type; UTF-8 where it names none."""
    kind, *parameters = (part.strip() for part in written.lower().split(";"))
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "charset":
            return kind, value.strip().strip('"')
    return kind, "utf-8"


class _Plain:
    def take(self, part: bytes, room: int) -> bytes:
        return part[:room]

    def finish(self) -> None:
        """There is no end to miss."""


class _Inflater:
    """gzip, of one member or several, and deflate in both of the forms that are sent under its name."""

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding
        self._wbits = 31 if encoding == "gzip" else 15
        self._inflate = zlib.decompressobj(self._wbits)
        self._has_begun = False
        self._first = b""

    def take(self, part: bytes, room: int) -> bytes:
        """Unpack at most `room` bytes; who asked with room for one byte too many sees that there are too many."""
        out = bytearray()
        if not self._has_begun:
            # Which of deflate's two forms it is, its first two bytes tell; one alone may be of either.
            part = self._first + part
            if len(part) < 2:
                self._first = part
                return b""
        while part and len(out) < room:
            if self._inflate.eof:  # another gzip member
                self._inflate = zlib.decompressobj(self._wbits)
            out += self._step(part, room - len(out))
            part = self._inflate.unused_data if self._inflate.eof else self._inflate.unconsumed_tail
            self._has_begun = True
        return bytes(out)

    def finish(self) -> None:
        if (self._has_begun or self._first) and not self._inflate.eof:
            raise Unreadable("encoding", f"the {self._encoding} body ends in its middle")

    def _step(self, part: bytes, room: int) -> bytes:
        try:
            return self._inflate.decompress(part, room)
        except zlib.error:
            if self._encoding == "deflate" and not self._has_begun and self._wbits == 15:
                self._wbits = -15  # without the zlib header, as some servers have it
                self._inflate = zlib.decompressobj(self._wbits)
                return self._step(part, room)
            raise Unreadable("encoding", f"the body is not {self._encoding}, as its headers say") from None


def _unpacker(encoding: str) -> _Plain | _Inflater:
    match encoding.strip().lower():
        case "" | "identity":
            return _Plain()
        case "gzip" | "x-gzip":
            return _Inflater("gzip")
        case "deflate":
            return _Inflater("deflate")
        case other:
            shown = (
                other if other.isascii() and other.isprintable() and len(other) <= 40 else "something else"
            )
            raise Unreadable("encoding", f'expected a body in {ENCODINGS} or plain, found "{shown}"')
