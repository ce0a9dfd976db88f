"""The request of docs/guides/schedules.md is accepted, and does what the page says."""

import json
import re
from datetime import timedelta
from pathlib import Path

from api.routes.schedules import _request
from api.schemas.requests import ScheduleBody
from common.canonical import read
from common.commands.schedules import create_schedule
from common.schedule import WORDS
from tests.integration.engine.documents import ON_SQLITE
from tests.integration.schedules.scheduling import SHORT, fire, row
from tests.support.brute_cron import utc
from tests.support.engine import LIMITS, Engine
from tests.support.manual_clock import ManualClock

PAGE = (Path(__file__).parents[3] / "docs" / "guides" / "schedules.md").read_text()
REQUEST, *_ = map(json.loads, re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL))


@ON_SQLITE
def test_the_report_starts_at_night_with_its_input(clock: ManualClock, engine: Engine) -> None:
    engine.apply({**SHORT, "id": "nightly-report"})
    request = _request(ScheduleBody.model_validate(REQUEST))
    with engine.database.transaction() as tx:
        made = create_schedule(tx, engine.tenant_id, request, actor="test", limits=LIMITS)
    assert made.scheduled_at == utc(2026, 3, 2, 1, 30)
    assert made.next_at is not None
    assert timedelta(0) <= made.next_at - made.scheduled_at <= timedelta(minutes=2)

    clock.advance(timedelta(hours=14))
    fire(engine)

    assert row(engine, made.id).fired == 1
    ((key, input, labels),) = engine.execute("SELECT business_key, input, labels FROM instances")
    assert key == "report-2026-03-02T01:30:00.000000Z"
    assert read(input) == {"for": "2026-03-02T01:30:00.000000Z", "format": "pdf"}
    assert read(labels) == {"schedule": "report"}


def test_the_page_names_every_word() -> None:
    assert all(f"`{word}`" in PAGE for word in WORDS)
