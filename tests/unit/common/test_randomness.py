"""Random bytes that are read a page at a time: given out once, to whichever thread and process asks."""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from common.randomness import PAGE, random_bytes


def test_what_is_given_out_has_the_length_and_does_not_repeat() -> None:
    given = [random_bytes(16) for _ in range(2_000)]

    assert {len(one) for one in given} == {16}
    assert len(set(given)) == len(given)


def test_a_piece_larger_than_what_is_left_is_whole() -> None:
    random_bytes(PAGE - 5)
    random_bytes(PAGE - 7)

    assert len(random_bytes(PAGE)) == PAGE
    assert random_bytes(0) == b""


@pytest.mark.parametrize("count", [-1, PAGE + 1])
def test_more_than_a_page_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match="expected 0 to 4096 bytes"):
        random_bytes(count)


def test_threads_are_given_different_bytes() -> None:
    with ThreadPoolExecutor(8) as pool:
        given = list(pool.map(lambda _: random_bytes(8), range(4_000)))

    assert len(set(given)) == len(given)


def test_a_forked_process_is_given_others_than_its_parent() -> None:
    random_bytes(16)  # the parent has a supply by now
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, random_bytes(16))
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(reading, 16)
    os.close(reading)
    os.close(writing)

    assert theirs not in {random_bytes(16) for _ in range(PAGE // 16)}
