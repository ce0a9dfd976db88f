"""`signalbox demo [NAME]`: whole workflows from end to end, on real parts, with real times."""

from __future__ import annotations

from enum import StrEnum


class Play(StrEnum):
    """The demos by name; each is a module of this package with a `play`."""

    HELLO = "hello"
    ORDER = "order"
    APPROVAL = "approval"
