"""Results of work in the engine: recorded with the answer, replayed, and told by place."""

from typing import Any

from common.commands.incidents import resolve_incident
from common.commands.verify import verify_instance
from common.config import Limits
from common.lifecycle import InstanceStatus
from common.store.incidents import read_open
from task_runner.registry import Permanent
from tests.support.engine import Engine

LOOP: dict[str, Any] = {
    "id": "loop",
    "initial": "work",
    "context": {"total": 0},
    "states": {
        "work": {
            "invoke": {
                "src": "count",
                "input": {"total": "${context.total}"},
                "onDone": [
                    {
                        "target": "done",
                        "guard": "steps.work.output.n >= 3",
                        "actions": [{"type": "assign", "path": "total", "value": "${steps.work.output.n}"}],
                    },
                    {
                        "target": "work",
                        "reenter": True,
                        "actions": [{"type": "assign", "path": "total", "value": "${steps.work.output.n}"}],
                    },
                ],
                "onError": "failed",
            }
        },
        "failed": {"on": {"GO": {"target": "done", "guard": "steps.work.error.code == 'count.broke'"}}},
        "done": {"type": "final", "output": "${steps.work.?output}"},
    },
}


def is_verified(engine: Engine, instance_id: str) -> bool:
    with engine.database.reading() as tx:
        verdict = verify_instance(tx, engine.tenant_id, instance_id)
    assert verdict["problems"] == []
    return bool(verdict["replayed"])


def test_results_decide_and_the_history_replays_them(engine: Engine) -> None:
    engine.handler("count", lambda input: {"n": input["total"] + 1})
    instance_id = engine.start(LOOP)
    engine.settle()

    assert engine.status(instance_id) is InstanceStatus.COMPLETED
    assert engine.snapshot(instance_id)["output"] == {"n": 3}
    assert engine.snapshot(instance_id)["steps"] == {"work": {"output": {"n": 3}, "error": None}}
    assert is_verified(engine, instance_id)


def test_an_error_is_read_long_after_its_event(engine: Engine) -> None:
    def broken(_input: Any) -> None:
        raise Permanent("out of order", code="count.broke")

    engine.handler("count", broken)
    instance_id = engine.start(LOOP)
    engine.settle()
    engine.send(instance_id, "GO")
    engine.settle()

    assert engine.status(instance_id) is InstanceStatus.COMPLETED
    assert is_verified(engine, instance_id)


def test_a_failed_step_that_is_skipped_has_the_output_that_it_was_given(engine: Engine) -> None:
    document = LOOP | {
        "id": "uncaught",
        "states": LOOP["states"]
        | {
            "work": {
                "invoke": {"src": "count", "retry": 1, "onDone": "done"},
            }
        },
    }

    def broken(_input: Any) -> None:
        raise Permanent("out of order")

    engine.handler("count", broken)
    instance_id = engine.start(document)
    engine.settle()
    assert engine.status(instance_id) is InstanceStatus.FAILED
    assert engine.snapshot(instance_id)["steps"] == {}

    skip(engine, instance_id, {"n": 7})
    engine.settle()

    assert engine.snapshot(instance_id)["output"] == {"n": 7}
    assert is_verified(engine, instance_id)


def skip(engine: Engine, instance_id: str, output: Any) -> None:
    with engine.database.transaction() as tx:
        [one] = read_open(tx, engine.tenant_id, instance_id)
        about = {"way": "skip", "output": output, "reason": None, "actor": "test", "limits": Limits()}
        resolve_incident(tx, engine.tenant_id, one.id, **about)
