"""The header `Prefer`, as RFC 7240 writes it."""

import pytest

from api.waiting import wait_seconds


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("", None),
        ("respond-async", None),
        ("wait", None),
        ("wait=", None),
        ("wait=soon", None),
        ("wait=-5", None),
        ("wait=5", 5),
        ("WAIT=5", 5),
        ('wait="5"', 5),
        ("wait = 5", 5),
        ("wait=0", 0),
        ("wait=0.5", 0.5),
        ("wait=5; strict", 5),
        ("respond-async, wait=10", 10),
        ("wait=3, wait=9", 3),
        ("wait=3600", 60),
        ("wait=99999999999999999999", None),
        ("await=5", None),
    ],
)
def test_a_preference_is_read(header: str | None, seconds: float | None) -> None:
    assert wait_seconds(header) == seconds
