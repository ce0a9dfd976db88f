"""What runs work that waits at the server, by its first argument.

`served` runs flows, each in a process; `deploy` stores them for the workers of a pool, and ends; `tasks` runs background
tasks in its own process.
"""

import sys
from pathlib import Path

from driver import SETTINGS

if sys.argv[1] == "served":
    from prefect import serve
    from workflow import fan_out, three_steps

    serve(three_steps.to_deployment("peers"), fan_out.to_deployment("peers"), limit=SETTINGS["limit"])
elif sys.argv[1] == "deploy":
    from prefect import flow

    for name in ("three_steps", "fan_out"):
        source = flow.from_source(source=str(Path(__file__).parent), entrypoint=f"workflow.py:{name}")
        source.deploy("peers", work_pool_name=sys.argv[2], print_next_steps=False)
else:
    from prefect.task_worker import serve
    from workflow_tasks import fan_out, three_steps

    serve(three_steps, fan_out, limit=SETTINGS["limit"])
