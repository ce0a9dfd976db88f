"""What waited while an instance was frozen comes before what was accepted after the command that thawed it."""

import pytest

from tests.integration.engine.documents import COUNTER
from tests.support.engine import Engine


def test_events_that_waited_parked_come_before_those_after_the_resume(engine: Engine) -> None:
    instance_id = engine.start(COUNTER)
    engine.advance()
    engine.control("pause", instance_id)
    engine.advance()
    engine.send(instance_id, "ADD", n=1)
    engine.advance()  # it is parked

    engine.control("resume", instance_id)
    engine.send(instance_id, "ADD", n=2)
    engine.advance()

    assert engine.context(instance_id)["seen"] == [1, 2]


@pytest.mark.parametrize("more", [0, 1])
def test_an_instance_that_was_paused_before_its_start_starts_before_it_hears_anything(
    engine: Engine, more: int
) -> None:
    instance_id = engine.start(COUNTER)
    for n in range(more):
        engine.send(instance_id, "ADD", n=n)
    engine.control("pause", instance_id)
    engine.advance()

    engine.control("resume", instance_id)
    engine.send(instance_id, "ADD", n=more)
    engine.advance()

    assert engine.context(instance_id)["seen"] == list(range(more + 1))
