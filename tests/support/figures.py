"""Figures that a test measured, said where whoever runs the suite reads them, also when the test passes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Tell = Callable[[str], None]


@pytest.fixture
def tell(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> Tell:
    """Print a line past pytest's capture: `name of the test: line`."""

    def say(line: str) -> None:
        with capsys.disabled():
            print(f"\n  {request.node.name}: {line}", flush=True)  # noqa: T201 - that is its purpose

    return say
