"""The definition and the request of docs/guides/triggers.md do what the page says."""

import json
import re
from pathlib import Path

from common.commands.definitions import apply_definition
from common.commands.publish import Correlation, publish_event
from common.lifecycle import InstanceStatus
from statechart import check
from tests.integration.engine.documents import ON_SQLITE
from tests.integration.schedules.scheduling import instants, to_due
from tests.support.brute_cron import utc
from tests.support.engine import LIMITS, Engine
from tests.support.manual_clock import ManualClock

PAGE = (Path(__file__).parents[3] / "docs" / "guides" / "triggers.md").read_text()
WELCOME, REQUEST = map(json.loads, re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL))


def test_it_raises_no_alarm() -> None:
    assert check(WELCOME) == []


@ON_SQLITE
def test_a_customer_is_greeted_and_leaves(clock: ManualClock, engine: Engine) -> None:
    with engine.database.transaction() as tx:
        apply_definition(tx, engine.tenant_id, WELCOME, actor="test", limits=LIMITS)

    def publish(event: dict, correlation: Correlation | None = None) -> list[str]:
        with engine.database.transaction() as tx:
            found = publish_event(tx, engine.tenant_id, event, correlation, actor="test", limits=LIMITS)
        engine.settle()
        return [f"{one.kind} {one.instance_id or ''}".split()[0] for one in found]

    created = {"type": "customer.created", "customerId": 7, "country": "CH"}
    assert publish(created) == ["started"]
    assert publish(created) == ["held"]
    assert publish({**created, "customerId": 8, "country": "FR"}) == []
    ((one, input),) = engine.execute("SELECT id, input FROM instances")
    assert json.loads(input) == {"customer": 7, "country": "CH"}

    event = {name: value for name, value in REQUEST.items() if name != "correlation"}
    assert publish(event, Correlation(business_key=REQUEST["correlation"]["businessKey"])) == ["delivered"]
    assert engine.status(one) is InstanceStatus.COMPLETED

    assert to_due(engine, clock) == utc(2026, 3, 2, 7), "Monday, eight o'clock in Zurich"
    engine.settle()
    ((schedule_id,),) = engine.execute("SELECT id FROM schedules")
    assert instants(engine, schedule_id) == [utc(2026, 3, 2, 7)]
