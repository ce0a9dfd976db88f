"""The settings of Prefect's server and of its clients: our PostgreSQL, the loopback, silent to the outside.

Prefect reads its settings when it is imported, so this has to be imported before.
"""

from __future__ import annotations

import os
import socket

from driver import DATABASE_URL

HOST = "127.0.0.1"


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind((HOST, 0))
        return int(listening.getsockname()[1])


PORT = _free_port()
API = f"http://{HOST}:{PORT}/api"
os.environ |= {
    "PREFECT_API_URL": API,
    # The client loads all certificates for each flow that it runs, for a server that has none.
    "PREFECT_API_TLS_INSECURE_SKIP_VERIFY": "true",
    "PREFECT_SERVER_DATABASE_CONNECTION_URL": DATABASE_URL.replace("postgresql:", "postgresql+asyncpg:", 1),
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    # Nobody listens there: its server asks GitHub for what kinds of work pools there are, and then takes its own list.
    "HTTPS_PROXY": f"http://{HOST}:9",
    "NO_PROXY": HOST,
    "PREFECT_SERVER_UI_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",
    "PREFECT_LOGGING_LEVEL": "WARNING",
    "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
    "PREFECT_CLI_PROMPT": "false",
    "PREFECT_RUNNER_POLL_FREQUENCY": "1",  # the least that it takes; 10 by default, as the next
    "PREFECT_WORKER_QUERY_SECONDS": "1",
}
