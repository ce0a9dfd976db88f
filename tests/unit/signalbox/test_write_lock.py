"""Who keeps the write lock of a SQLite database: a real flock, held by real processes and by ourselves."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from common.db import Database
from signalbox.write_lock import WriteLockWatch


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "signalbox.db.lock"


@contextmanager
def held(path: Path, *, by: int) -> Iterator[int]:
    """The lock as a writer holds it: an open file description of its own, so that others conflict with it."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    os.pwrite(lock, f"{by:<12}".encode(), 0)
    try:
        yield lock
    finally:
        os.close(lock)


def test_one_long_holding_is_overdue_after_the_patience(path: Path) -> None:
    watch = WriteLockWatch(path, patience=5)
    with held(path, by=77):
        assert watch.overdue(100.0) is None
        assert watch.overdue(105.0) is None
        assert watch.overdue(105.1) == 77


def test_many_short_holdings_of_the_same_process_are_not_overdue(path: Path) -> None:
    watch = WriteLockWatch(path, patience=5)
    with held(path, by=77) as lock:
        for second in range(20):
            os.utime(lock, ns=(second, second))  # what its next holding does to the file
            assert watch.overdue(float(second)) is None


def test_a_pid_that_a_killed_holder_left_is_not_a_holder(path: Path) -> None:
    watch = WriteLockWatch(path, patience=5)
    path.write_text(f"{77:<12}")

    assert watch.overdue(0.0) is None
    assert watch.overdue(60.0) is None


def test_a_free_lock_and_a_missing_file_have_no_holder(path: Path) -> None:
    watch = WriteLockWatch(path, patience=0)
    assert watch.overdue(0.0) is None
    path.write_text(f"{0:<12}")
    assert watch.overdue(60.0) is None


def test_a_holder_that_was_dealt_with_is_given_its_time_anew(path: Path) -> None:
    watch = WriteLockWatch(path, patience=5)
    with held(path, by=77):
        watch.overdue(0.0)
        watch.forget()

        assert watch.overdue(6.0) is None
        assert watch.overdue(11.1) == 77


def test_looking_does_not_disturb_a_writer(tmp_path: Path) -> None:
    database = Database.open(f"sqlite:///{tmp_path / 'signalbox.db'}")
    watch = WriteLockWatch(tmp_path / "signalbox.db.lock", patience=5)
    try:
        with database.transaction():
            assert watch.overdue(0.0) is None
            assert watch.overdue(5.1) == os.getpid()
        assert watch.overdue(5.2) is None
    finally:
        database.dispose()
