"""When to try again: pure arithmetic over a retry policy. The next try is a `run_at`, never a sleep.

A policy is written {maxAttempts, interval, backoffRate, maxInterval, jitter, retryOn, doNotRetryOn} on a task, on an
invoke, in the definition's `defaults` or on a handler, in that order of precedence. What each of these may be is said in `statechart/retry.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from common.errors import Invalid
from statechart.retry import read_member

MAX_LOST = 3
"""A task whose lease expired this often fails as `lost`: lost attempts have their own limit (design, section 3)."""
_MILLISECOND = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often, how long apart, and for which errors. Defaults: 3 attempts, 1 s, doubling, ±20 % jitter, at most 1 h."""

    max_attempts: int = 3
    interval: timedelta = timedelta(seconds=1)
    backoff_rate: float = 2.0
    max_interval: timedelta = timedelta(hours=1)
    jitter: float = 0.2
    retry_on: tuple[str, ...] = ()
    do_not_retry_on: tuple[str, ...] = ()

    @classmethod
    def read(cls, written: Mapping[str, Any] | None) -> RetryPolicy:
        """Read a written policy; absent members take the defaults. Raises `Invalid` (`retry.invalid`)."""
        if not written:
            return DEFAULT
        return cls(
            max_attempts=_read(written, "maxAttempts", DEFAULT.max_attempts),
            interval=_duration(written, "interval", DEFAULT.interval),
            backoff_rate=_read(written, "backoffRate", DEFAULT.backoff_rate),
            max_interval=_duration(written, "maxInterval", DEFAULT.max_interval),
            jitter=_read(written, "jitter", DEFAULT.jitter),
            retry_on=_read(written, "retryOn", ()),
            do_not_retry_on=_read(written, "doNotRetryOn", ()),
        )

    def delay(self, attempt: int, *, chance: float, at_least: timedelta = timedelta(0)) -> timedelta:
        """How long to wait after failed attempt number `attempt` (from 1). `chance` in [0, 1) places it in the jitter.

        `at_least` is what the failure asked for (`Retry-After`); even so it is never more than `max_interval`.
        """
        seconds = self.interval.total_seconds()
        try:
            seconds *= self.backoff_rate ** (attempt - 1)
        except OverflowError:
            seconds = self.max_interval.total_seconds() if seconds else 0.0
        seconds = min(seconds, self.max_interval.total_seconds())
        jittered = seconds * (1 + self.jitter * (2 * chance - 1))
        return min(max(timedelta(seconds=jittered), at_least), self.max_interval)

    def failed(self, attempt: int, *, limit: int) -> int:
        """Which failure in the present series attempt number `attempt` is, from 1.

        A task that is taken up by hand goes on counting; its `limit` moves up, and the delays begin anew.
        """
        return max(attempt - max(limit - self.max_attempts, 0), 1)

    def retries(self, code: str, *, attempt: int, limit: int, retryable: bool | None) -> bool:
        """Tell whether failed attempt number `attempt` of at most `limit` is followed by another.

        `retryable` is what the handler said of its error; None leaves it to `retryOn` and `doNotRetryOn`, which
        match the error's code exactly or by a prefix ending in `.*`.
        """
        if attempt >= limit or retryable is False:
            return False
        if any(_matches(pattern, code) for pattern in self.do_not_retry_on):
            return False
        if retryable or not self.retry_on:
            return True
        return any(_matches(pattern, code) for pattern in self.retry_on)


DEFAULT = RetryPolicy()


def _matches(pattern: str, code: str) -> bool:
    return pattern in ("*", code) or (pattern.endswith(".*") and code.startswith(pattern[:-1]))


def _read(written: Mapping[str, Any], key: str, default: Any) -> Any:
    if key not in written:
        return default
    try:
        return read_member(key, written[key])
    except ValueError as wrong:
        raise Invalid(f"retry.{key}: {wrong}", code="retry.invalid") from wrong


def _duration(written: Mapping[str, Any], key: str, default: timedelta) -> timedelta:
    return timedelta(milliseconds=_read(written, key, default / _MILLISECOND))
