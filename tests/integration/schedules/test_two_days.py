"""200 schedules over two days and a change of the clocks in four zones: exactly the expected runs, each once.

On SQLite all of it. On PostgreSQL one of the changes, lived through by schedules of all zones: which instants there are is
arithmetic that no database takes part in (`common/schedule.py`), and what differs is how due rows are found and moved.

What is expected comes from a walk over every minute in UTC that shares no code with the engine.
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from functools import lru_cache

from tests.integration.schedules.scheduling import SHORT, fire, runs, schedule, to_due
from tests.support.brute_cron import BruteCron
from tests.support.engine import Engine
from tests.support.manual_clock import ManualClock

ZONES = ("America/New_York", "Europe/Berlin", "Australia/Lord_Howe", "Africa/Cairo")
CHANGES = {
    # The day before which two days begin, so that each zone's clocks change within them.
    "America/New_York": datetime.fromisoformat("2026-03-07T12:00:00+00:00"),
    "Europe/Berlin": datetime.fromisoformat("2026-10-24T06:00:00+00:00"),
    "Australia/Lord_Howe": datetime.fromisoformat("2026-04-03T22:00:00+00:00"),
    "Africa/Cairo": datetime.fromisoformat("2026-04-23T01:00:00+00:00"),
}
TEXTS = (
    "30 2 * * *",
    "0 0 * * *",
    "30 1 * * *",
    "15,45 1-3 * * *",
    "0 */3 * * *",
    "*/20 2 * * *",
    "0 1 * * 0",
    "5 0 1,7,8,23,24,25 * *",
    "59 23 * * *",
    "0 2 * * 1-5",
)
TWO_DAYS = timedelta(hours=48)


@lru_cache
def expected_instants(text: str, zone: str, start: datetime) -> tuple[datetime, ...]:
    return tuple(BruteCron(text, zone).between(start, start + TWO_DAYS))


def test_two_days_of_fifty_schedules_over_each_change_of_the_clocks(
    clock: ManualClock, engine: Engine
) -> None:
    engine.apply(SHORT)
    total = 0
    changes = sorted(CHANGES.items(), key=lambda pair: pair[1])
    for turn, (changing, start) in enumerate(changes if engine.database.is_sqlite else changes[:1]):
        # Each change is lived through by schedules of all four zones: fifty a change, two hundred in all.
        clock.advance(start - clock.now())
        wanted = {}
        for number in range(50):
            text, zone = TEXTS[(number + turn) % len(TEXTS)], ZONES[number % len(ZONES)]
            wanted[schedule(engine, cron=text, timezone=zone)] = (text, zone)
        assert any(zone == changing for _, zone in wanted.values())
        expected = sorted(
            (
                (one, at)
                for one, (text, zone) in wanted.items()
                for at in expected_instants(text, zone, start)
            ),
            key=lambda pair: (pair[1], pair[0]),
        )

        while (now := to_due(engine, clock)) is not None and now <= start + TWO_DAYS:
            fire(engine)
        engine.execute("UPDATE schedules SET paused = " + ("1" if engine.database.is_sqlite else "true"))

        found = [run for run in runs(engine) if run[0] in wanted and run[1] <= start + TWO_DAYS]
        assert found == expected
        assert Counter(found).most_common(1)[0][1] == 1
        assert len(found) > 100
        total += len(found)
    assert len(runs(engine)) == total, "and nothing beside them"
