"""The installed version of Signalbox."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def signalbox_version() -> str:
    """The distribution's version, or `0+source` where the code runs without being installed."""
    try:
        return version("signalbox")
    except PackageNotFoundError:
        return "0+source"
