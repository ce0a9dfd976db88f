"""A process that runs what waits in the queue."""

import signal

import workflow_queued  # noqa: F401 - registers the workflows
from dbos import DBOS
from driver import DATABASE_URL, SETTINGS

DBOS(
    config={
        "name": "peers",
        "system_database_url": DATABASE_URL,
        "sys_db_pool_size": SETTINGS["pool"],
        "log_level": "WARNING",
    }
)
DBOS.launch()
DBOS.register_queue(
    "peers",
    worker_concurrency=SETTINGS["concurrency"],
    polling_interval_sec=SETTINGS["poll"],
    on_conflict="always_update",
)
signal.sigwait([signal.SIGTERM])
