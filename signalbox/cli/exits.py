"""Exit codes of every `signalbox` command: a contract with scripts, written down in docs/cli.md."""

from __future__ import annotations

from enum import IntEnum

from common.errors import (
    Conflict,
    Forbidden,
    Invalid,
    Misconfigured,
    NotFound,
    SignalboxError,
    Unauthorized,
    Unavailable,
)


class Exit(IntEnum):
    OK = 0
    FAILED = 1  # it was tried and did not succeed, or the answer is no: problems found, an instance failed
    USAGE = 2  # the command itself is wrong: an option, an argument, a setting
    NOT_FOUND = 3
    CONFLICT = 4  # the thing is in a status in which this cannot be done
    NO_ACCESS = 5  # nothing answers, or the key is missing or refused
    TIMED_OUT = 6  # not yet, after the time that was given
    INTERRUPTED = 130  # Ctrl-C, as shells have it


class UsageError(SignalboxError):
    """An argument that this command cannot take; nothing was asked of the server."""

    code = "cli.usage"


class Failed(SignalboxError):
    """The command did what it should and the answer is no."""

    code = "cli.failed"


class TimedOut(SignalboxError):
    """What was awaited did not come in the time that was given."""

    code = "cli.timed_out"


_CODES: tuple[tuple[type[SignalboxError], Exit], ...] = (
    (UsageError, Exit.USAGE),
    (TimedOut, Exit.TIMED_OUT),
    (Misconfigured, Exit.USAGE),
    (Unauthorized, Exit.NO_ACCESS),
    (Forbidden, Exit.NO_ACCESS),
    (Unavailable, Exit.NO_ACCESS),
    (NotFound, Exit.NOT_FOUND),
    (Conflict, Exit.CONFLICT),
    (Invalid, Exit.FAILED),
)


def exit_code(error: SignalboxError) -> Exit:
    """The exit code that tells this error."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), Exit.FAILED)
