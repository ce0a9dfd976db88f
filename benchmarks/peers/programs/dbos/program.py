"""DBOS in one process: workflows are started directly, in the process that runs them."""

from __future__ import annotations

from dbos import DBOS
from driver import DATABASE_URL, SETTINGS, WARM_UP, one_at_a_time, serve, start_many, timed
from workflow import fan_out, three_steps


def main() -> None:
    DBOS(
        config={
            "name": "peers",
            "system_database_url": DATABASE_URL,
            "sys_db_pool_size": SETTINGS["pool"],
            "log_level": "WARNING",
        }
    )
    DBOS.launch()
    try:
        for _ in range(WARM_UP):
            three_steps()
        serve({"live": live, "latencies": lambda n: one_at_a_time(three_steps, n), "fan_out": whole_fan_out})
    finally:
        DBOS.destroy()


def live(n: int) -> dict[str, float]:
    def work() -> None:
        if SETTINGS["callers"] > 4:
            three_steps()  # as a request handler would call it, in its own thread
        else:
            handles.append(DBOS.start_workflow(three_steps))

    def run() -> None:
        start_many(work, n, SETTINGS["callers"])
        for handle in handles:
            handle.get_result(polling_interval_sec=0.01)

    handles: list = []
    return timed(run)


def whole_fan_out(n: int) -> dict[str, float]:
    return timed(lambda: fan_out(n))


if __name__ == "__main__":
    main()
