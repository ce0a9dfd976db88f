"""Which ways out of an incident are legal: all sixteen combinations of what may stand in the way."""

from itertools import product

import pytest

from common.ways_out import legal_ways, needs_place

BOOLS = (False, True)


@pytest.mark.parametrize(
    ("is_key_held", "is_over", "is_shut_out", "is_undoing"), list(product(BOOLS, repeat=4))
)
def test_a_way_out_is_legal_unless_something_stands_in_its_way(
    is_key_held: bool, is_over: bool, is_shut_out: bool, is_undoing: bool
) -> None:
    ways = legal_ways(
        is_key_held=is_key_held, is_over=is_over, is_shut_out=is_shut_out, is_undoing=is_undoing
    )

    goes_on = not is_key_held and not is_over and (not is_shut_out or is_undoing)
    assert ("retry" in ways, "skip" in ways) == (goes_on, goes_on)
    assert ("restart" in ways) == (not is_key_held and not is_shut_out)
    assert ways[-1] == "cancel"
    assert len(set(ways)) == len(ways)


def test_only_who_goes_on_needs_a_place() -> None:
    assert [needs_place(way, is_undoing=False) for way in ("retry", "skip", "restart", "cancel")] == [
        True,
        True,
        True,
        False,
    ]
