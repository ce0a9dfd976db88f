"""Exit codes: one for each kind of no."""

import pytest

from common.errors import (
    Conflict,
    Forbidden,
    Invalid,
    LimitExceeded,
    Misconfigured,
    NotFound,
    SignalboxError,
    Unauthorized,
    Unavailable,
)
from signalbox.cli.exits import Exit, Failed, TimedOut, UsageError, exit_code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Failed("no"), Exit.FAILED),
        (Invalid("no"), Exit.FAILED),
        (LimitExceeded("no", limit="x", allowed=1), Exit.FAILED),
        (UsageError("no"), Exit.USAGE),
        (Misconfigured("no"), Exit.USAGE),
        (NotFound("no"), Exit.NOT_FOUND),
        (Conflict("no"), Exit.CONFLICT),
        (Unauthorized("no"), Exit.NO_ACCESS),
        (Forbidden("no"), Exit.NO_ACCESS),
        (Unavailable("no"), Exit.NO_ACCESS),
        (TimedOut("no"), Exit.TIMED_OUT),
        (SignalboxError("no"), Exit.FAILED),
    ],
)
def test_each_kind_of_error_has_its_code(error: SignalboxError, code: Exit) -> None:
    assert exit_code(error) is code


def test_codes_are_those_of_the_manual() -> None:
    assert [(code.name, int(code)) for code in Exit] == [
        ("OK", 0),
        ("FAILED", 1),
        ("USAGE", 2),
        ("NOT_FOUND", 3),
        ("CONFLICT", 4),
        ("NO_ACCESS", 5),
        ("TIMED_OUT", 6),
        ("INTERRUPTED", 130),
    ]
