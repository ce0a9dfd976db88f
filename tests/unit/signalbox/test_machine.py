"""A measurement says on what it was made, and what a Python without optimizations costs is not taken for the engine's."""

import sys
import sysconfig

import pytest

from signalbox.machine import describe_machine


@pytest.mark.parametrize(
    ("arguments", "prefix", "is_told"),
    [
        (
            "'--prefix=/somewhere/3.11.7' '--enable-shared'",
            "/somewhere/3.11.7",
            True,
        ),
        ("'--enable-optimizations' '--with-lto'", "/usr/local", False),
        ("'--enable-shared' '--prefix=/usr'", "/usr", False),
        (None, "C:\\Python311", False),
    ],
)
def test_a_python_without_optimizations_is_told(
    monkeypatch: pytest.MonkeyPatch, arguments: str | None, prefix: str, is_told: bool
) -> None:
    monkeypatch.setattr(sysconfig, "get_config_var", {"CONFIG_ARGS": arguments}.get)
    monkeypatch.setattr(sys, "base_prefix", prefix)

    assert str(describe_machine()["python"]).endswith("built without optimizations") is is_told
