"""What `up` tells: in order to who reads it, and without waiting for who does not."""

import os
import time
from collections.abc import Iterator
from io import FileIO
from typing import TextIO

import pytest

from signalbox.unhurried import KEPT, LAST_WORDS_SECONDS, Unhurried
from tests.support.waiting import wait_until

Pipe = tuple[FileIO, TextIO]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    """What is read, and the stream that is written to."""
    reader, writer = os.pipe()
    with FileIO(reader) as heard, os.fdopen(writer, "w", encoding="utf-8") as stream:
        yield heard, stream


def test_everything_is_told_in_order(pipe: Pipe) -> None:
    reader, stream = pipe
    told = Unhurried(stream)

    for number in range(100):
        told.write(f"{number} ✓\n")
    told.finish()

    assert reader.read(100_000).decode() == "".join(f"{number} ✓\n" for number in range(100))
    assert not told.isatty()


def test_a_reader_who_has_gone_is_told_nothing(pipe: Pipe) -> None:
    reader, stream = pipe
    told = Unhurried(stream)
    reader.close()

    assert told.write("nobody hears it") == len("nobody hears it")
    wait_until(lambda: not told._is_heard, what="the broken pipe to be noticed")
    told.write("nor this")
    told.finish()


def test_a_reader_who_does_not_read_keeps_nobody(pipe: Pipe) -> None:
    reader, stream = pipe
    told = Unhurried(stream)
    began = time.monotonic()

    for _ in range(2 * KEPT):
        told.write("x" * 1_000)
    told.finish()

    assert LAST_WORDS_SECONDS <= time.monotonic() - began < LAST_WORDS_SECONDS + 5
    assert set(reader.read(10)) == {ord("x")}
    reader.close()
    wait_until(lambda: not told._is_heard, what="its thread to end")


def test_a_stream_that_was_closed_from_the_beginning_takes_everything() -> None:
    told = Unhurried(None)

    assert told.write("nobody") == len("nobody")
    told.finish()
    assert not told.isatty()
