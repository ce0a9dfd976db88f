"""What a child logged: warnings are picked out, each once, whatever the file does meanwhile."""

from pathlib import Path

import pytest

from signalbox.tail import (
    AT_ONCE,
    LONGEST_LINE,
    QUIET_SECONDS,
    READ_BYTES,
    REPEATS_MAX,
    LogTail,
    Repeats,
    warning_in,
)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "worker.log"


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def warning(event: str) -> str:
    return f'{{"level": "warning", "event": "{event}"}}\n'


@pytest.mark.parametrize("level", ["warning", "error", "critical"])
def test_a_loud_line_is_told_with_its_facts(level: str) -> None:
    line = f'{{"event": "broker away", "level": "{level}", "logger": "x", "process": "y", "seconds": 3}}'

    assert warning_in(line.encode()) == "broker away seconds=3"


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"a banner",
        b'{"level": "info", "event": "fine"}',
        b'{"level": "warn',
        b"[1]",
        b'{"event": "no level"}',
    ],
)
def test_anything_else_is_not_told(line: bytes) -> None:
    assert warning_in(line) is None


def test_a_long_or_many_lined_warning_is_told_on_one_short_line() -> None:
    told = warning_in(b'{"level": "error", "event": "a\\nb", "body": "' + b"x" * 1_000 + b'"}')

    assert told is not None
    assert told.startswith("a b body=xxx")
    assert len(told) == LONGEST_LINE
    assert "\n" not in told


def test_of_a_traceback_the_last_line_is_told() -> None:
    line = (
        b'{"event": "step.raised", "level": "error", "exception": "Traceback:\\n  File x\\nValueError: no"}'
    )

    assert warning_in(line) == "step.raised ValueError: no"


def test_a_warning_is_told_once(log: Path) -> None:
    tail = LogTail(log)
    append(log, warning("one"))

    assert tail.new_warnings() == ["one"]
    assert tail.new_warnings() == []


def test_a_log_that_was_emptied_is_read_from_its_beginning(log: Path) -> None:
    tail = LogTail(log)
    append(log, warning("before, and a good deal longer than what comes"))
    assert len(tail.new_warnings()) == 1

    log.write_text("")
    append(log, warning("after"))

    assert tail.new_warnings() == ["after"]


def test_a_line_is_told_when_it_is_whole(log: Path) -> None:
    tail = LogTail(log)
    whole = warning("halved")
    append(log, whole[:20])
    assert tail.new_warnings() == []

    append(log, whole[20:])

    assert tail.new_warnings() == ["halved"]


def test_what_stood_in_the_file_before_is_not_told_again(log: Path) -> None:
    append(log, warning("of yesterday"))
    tail = LogTail(log)
    append(log, warning("of today"))

    assert tail.new_warnings() == ["of today"]


def test_of_a_flood_the_first_are_told_and_the_rest_counted(log: Path) -> None:
    tail = LogTail(log)
    append(log, "".join(warning(str(number)) for number in range(AT_ONCE + 7)))

    told = tail.new_warnings()

    assert told[:AT_ONCE] == [str(number) for number in range(AT_ONCE)]
    assert told[AT_ONCE:] == [f"and 7 more, see {log}"]


def test_a_large_file_is_put_aside_at_the_next_life(log: Path) -> None:
    append(log, "x" * 101)
    tail = LogTail(log)

    tail.rotate(100)
    append(log, warning("fresh"))

    assert tail.new_warnings() == ["fresh"]
    assert log.with_name("worker.log.1").read_text() == "x" * 101


def test_a_large_file_is_put_aside_while_its_writer_goes_on(log: Path) -> None:
    tail = LogTail(log)
    with log.open("ab", buffering=0) as writer:  # as a child has it
        writer.write(warning("before").encode() + b"x" * 100)
        assert tail.new_warnings() == ["before"]

        tail.shorten(1_000)
        assert not log.with_name("worker.log.1").exists()
        tail.shorten(100)
        writer.write(warning("after").encode())

        assert tail.new_warnings() == ["after"]
    assert log.read_text() == warning("after")
    assert log.with_name("worker.log.1").read_text() == warning("before") + "x" * 100
    assert tail.last_lines(5) == [warning("after").rstrip()]


def test_a_file_that_cannot_be_put_aside_stays_as_it_is(log: Path) -> None:
    append(log, "x" * 101)
    log.with_name("worker.log.1").mkdir()
    tail = LogTail(log)

    with pytest.raises(OSError, match="directory"):
        tail.shorten(100)

    assert log.read_text() == "x" * 101
    assert sorted(path.name for path in log.parent.iterdir()) == ["worker.log", "worker.log.1"]


def test_what_has_no_end_is_not_kept(log: Path) -> None:
    """A handler that prints dots had `signalbox up` keep all of them, and copy them four times a second."""
    tail = LogTail(log)
    for _ in range(4):
        append(log, "." * READ_BYTES)
        assert tail.new_warnings() == []
    assert len(tail._rest) <= READ_BYTES

    append(log, "\n" + warning("and then"))

    assert tail.new_warnings() == ["and then"]


def test_the_last_lines_are_those_of_the_present_life(log: Path) -> None:
    append(log, "before\n")
    tail = LogTail(log)
    tail.rotate(1_000)
    append(log, "one\ntwo\nthree\n")

    assert tail.last_lines(2) == ["two", "three"]
    assert tail.last_lines(10) == ["one", "two", "three"]


def test_a_line_that_comes_again_and_again_is_told_now_and_then() -> None:
    repeats = Repeats()

    assert repeats.pass_on(["away", "other"], 0.0) == ["away", "other"]
    assert repeats.pass_on(["away"], 1.0) == []
    assert repeats.pass_on(["away", "new"], QUIET_SECONDS - 1) == ["new"]
    assert repeats.pass_on(["away"], QUIET_SECONDS) == ["away (2 times more since)"]
    assert repeats.pass_on(["away"], 2 * QUIET_SECONDS) == ["away"]


def test_lines_that_never_come_any_more_are_forgotten() -> None:
    repeats = Repeats()
    for number in range(3 * REPEATS_MAX):
        repeats.pass_on([f"task {number}"] * 2, float(number))

    repeats.pass_on([], 4.0 * REPEATS_MAX)

    assert len(repeats._told) <= REPEATS_MAX
    assert repeats.pass_on([f"task {3 * REPEATS_MAX - 1}"], 4.0 * REPEATS_MAX) == [
        f"task {3 * REPEATS_MAX - 1} (1 times more since)"
    ]
