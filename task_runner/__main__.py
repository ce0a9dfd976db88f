"""`python -m task_runner OPTIONS`: what `celery -A task_runner.worker worker OPTIONS` starts, sooner."""

import gc
import sys

if __name__ == "__main__":
    # What is loaded now stays: looking through it for garbage, again and again, takes a tenth of the start.
    gc.disable()
    from common.queues.command import run_worker
    from task_runner.worker import app

    gc.enable()
    run_worker(app, sys.argv[1:])
