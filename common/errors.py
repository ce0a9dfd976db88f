"""Every error that Signalbox raises on purpose.

    SignalboxError            code, message, fields
    ├── Invalid               what was sent cannot be understood or is not allowed            (400, 422)
    │   └── LimitExceeded     understood, but larger, deeper or more than a limit allows       (413, 422, 429)
    ├── Unauthorized          no key, or one that nobody issued                                (401)
    ├── Forbidden             a good key whose role may not do this                            (403)
    ├── NotFound              no such thing in this tenant                                     (404)
    │   └── Gone              there was one, and it was deleted                                (410)
    ├── Conflict              the thing is in a status in which this cannot be done            (409)
    ├── Unavailable           a part that is needed does not answer; try again                 (503)
    └── Misconfigured         a setting is missing or wrong; the process cannot start

Lost claims, duplicates and late results are return values, not errors. HTTP statuses are chosen in
`api/problems.py` alone. Messages start lowercase, quote values, and say what to do next.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any


class SignalboxError(Exception):
    """Root of the tree. `code` is stable and dotted, `fields` are JSON values that explain the case."""

    code = "signalbox.error"

    def __init__(self, message: str, *, code: str | None = None, **fields: Any) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.fields: dict[str, Any] = fields

    def __str__(self) -> str:
        return self.message


class Invalid(SignalboxError):
    """Input that cannot be accepted. `problems` lists each one as {severity, code, path, message, suggestion}."""

    code = "request.invalid"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        problems: Iterable[Mapping[str, Any]] = (),
        **fields: Any,
    ) -> None:
        super().__init__(message, code=code, **fields)
        self.problems = [dict(problem) for problem in problems]


class LimitExceeded(Invalid):
    """Input beyond a limit; `limit` names the setting and `allowed` its value."""

    code = "limit.exceeded"

    def __init__(self, message: str, *, limit: str, allowed: int, code: str | None = None) -> None:
        super().__init__(message, code=code, limit=limit, allowed=allowed)


class Unauthorized(SignalboxError):
    code = "auth.required"


class Forbidden(SignalboxError):
    code = "auth.forbidden"


class NotFound(SignalboxError):
    code = "not_found"


class Gone(NotFound):
    code = "gone"


class Conflict(SignalboxError):
    code = "conflict"


class Unavailable(SignalboxError):
    code = "unavailable"


class Misconfigured(SignalboxError):
    code = "config.invalid"


_COMPARED = 500
_LONGEST = 100


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean "x"?` for the nearest known word, or an empty string."""
    near = nearest_of(word, known)
    return "" if near is None else f'; did you mean "{near}"?'


def nearest_of(word: str, known: Iterable[str]) -> str | None:
    """The known word that was probably meant, or None.

    Comparing takes time that grows with length and number: a long word gets no suggestion, and of very many known ones
    those that are about as long are compared. (`statechart.problems.nearest` does the same for documents; importing the
    kernel for it would cost every command a tenth of a second.)
    """
    if len(word) > _LONGEST:
        return None
    candidates = sorted(known, key=lambda one: abs(len(one) - len(word)))[:_COMPARED]
    return next(iter(get_close_matches(word, candidates, n=1, cutoff=0.6)), None)
