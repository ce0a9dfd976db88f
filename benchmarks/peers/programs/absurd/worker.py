"""A process that works one queue: `worker.py QUEUE CONCURRENCY`."""

import sys

from absurd_sdk import Absurd
from driver import DATABASE_URL, SETTINGS
from workflow import register

apps = {name: Absurd(DATABASE_URL, queue_name=name) for name in ("default", "items")}
register(apps["default"], apps["items"])
apps[sys.argv[1]].start_worker(concurrency=int(sys.argv[2]), poll_interval=SETTINGS["poll"])
