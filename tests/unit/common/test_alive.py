"""The sign of life: a file that is as young as the last time its giver went round."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from common.queues import alive
from common.queues.alive import TOUCHED_SECONDS, SignOfLife

AN_HOUR_AGO = 3_600


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=1_000.0)
    monkeypatch.setattr(alive, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def age(path: Path, seconds: float) -> float:
    """Make a file older; its new time."""
    at = path.stat().st_mtime - seconds
    os.utime(path, (at, at))
    return at


def test_the_file_is_made_and_touched_again_after_some_seconds(
    tmp_path: Path, clock: SimpleNamespace
) -> None:
    sign = SignOfLife(tmp_path / "signalbox", "orchestrator")
    sign.give()
    path = tmp_path / "signalbox" / "orchestrator"
    old = age(path, AN_HOUR_AGO)

    clock.now += TOUCHED_SECONDS / 2
    sign.give()
    assert path.stat().st_mtime == old, "a moment ago it was touched"

    clock.now += TOUCHED_SECONDS
    sign.give()
    assert path.stat().st_mtime > old + AN_HOUR_AGO / 2


def test_without_a_folder_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    SignOfLife(None, "orchestrator").give()

    assert list(tmp_path.iterdir()) == []


def test_who_cannot_write_says_so_once_and_goes_on(
    tmp_path: Path, clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "taken").write_text("a file where the folder should be")
    refused = SignOfLife(tmp_path / "taken", "orchestrator")
    for _ in range(3):
        clock.now += TOUCHED_SECONDS
        refused.give()
    (tmp_path / "elsewhere").write_text("not ours")
    (tmp_path / "task-runner").symlink_to(tmp_path / "elsewhere")
    old = age(tmp_path / "elsewhere", AN_HOUR_AGO)
    SignOfLife(tmp_path, "task-runner").give()

    said = capsys.readouterr()
    assert (said.out + said.err).count("alive.untouched") == 2
    assert (tmp_path / "elsewhere").stat().st_mtime == old, "nothing is touched through a link"
