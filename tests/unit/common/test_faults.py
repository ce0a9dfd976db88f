"""Fault points: armed exactly where a test says, refused where it misspells, nothing otherwise."""

import subprocess
import sys
from collections.abc import Iterator

import pytest

from common import faults


@pytest.fixture(autouse=True)
def disarmed_afterwards() -> Iterator[None]:
    yield
    faults.disarm()


def test_a_point_that_nobody_armed_does_nothing() -> None:
    for point in faults.POINTS:
        faults.hit(point)


def test_an_armed_point_acts_at_each_pass_until_it_is_disarmed() -> None:
    passes: list[str] = []
    faults.arm("after_claim", lambda: passes.append("claim"))

    faults.hit("after_claim")
    faults.hit("after_claim", "anybody")
    faults.hit("before_commit")
    faults.disarm()
    faults.hit("after_claim")

    assert passes == ["claim", "claim"]


def test_a_point_armed_for_a_subject_lets_all_others_pass() -> None:
    passes: list[str] = []
    faults.arm("in_step", lambda: passes.append("order-7"), subject="order-7")

    faults.hit("in_step", "order-6")
    faults.hit("in_step", None)
    faults.hit("in_step", "order-7")

    assert passes == ["order-7"]


def test_the_environment_names_point_subject_verb_and_pass() -> None:
    faults.arm_from_environment("in_step:order-7=raise@2, after_lock=raise")

    with pytest.raises(faults.FaultInjected):
        faults.hit("after_lock")
    faults.hit("in_step", "order-7")
    faults.hit("in_step", "order-6")
    with pytest.raises(faults.FaultInjected):
        faults.hit("in_step", "order-7")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("before_comit=kill", 'unknown fault point "before_comit"'), ("in_step=explode", "kill | raise | stop")],
)
def test_what_is_misspelt_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint.replace("|", r"\|")):
        faults.arm_from_environment(text)


def test_kill_ends_the_process_where_it_stands() -> None:
    program = "from common import faults; faults.arm_from_environment('after_lock=kill'); faults.hit('after_lock'); print('on')"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False, timeout=20)

    assert (ended.returncode, ended.stdout) == (-9, b"")
