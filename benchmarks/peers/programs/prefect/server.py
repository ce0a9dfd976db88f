"""Prefect's server on our PostgreSQL."""

from __future__ import annotations

import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
from driver import DATABASE_URL, Workers, end_with_parent
from environment import API, HOST, PORT

READY_SECONDS = 90
PREFECT = str(Path(sys.executable).with_name("prefect"))


@contextmanager
def running_server() -> Iterator[psycopg.Connection]:
    """A server that answers, and a connection to its database."""
    end_with_parent()  # it takes long to start, and looks for the end of its input only when it has
    server = Workers([[PREFECT, "server", "start", "--host", HOST, "--port", str(PORT)]])
    server.start()
    try:
        deadline = time.monotonic() + READY_SECONDS
        while not _answers():
            if time.monotonic() > deadline:
                raise TimeoutError(f"Prefect's server does not answer within {READY_SECONDS} s")
            time.sleep(0.1)
        with psycopg.connect(DATABASE_URL, autocommit=True) as connection:
            yield connection
    finally:
        server.stop()


def _answers() -> bool:
    with suppress(OSError), urllib.request.urlopen(f"{API}/health", timeout=2):
        return True
    return False
