"""`python -m orchestrator OPTIONS`: what `celery -A orchestrator.worker worker OPTIONS` starts, sooner."""

from __future__ import annotations

import gc
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from celery import Celery

if __name__ == "__main__":
    # What is loaded now stays: looking through it for garbage, again and again, takes a tenth of the start.
    gc.disable()
    os.environ.setdefault("NOSETPS", "1")  # Celery would write over the command that `ps` shows
    from common.queues.command import run_worker

    def load() -> Celery:
        from orchestrator.worker import app  # noqa: PLC0415 - it reads its settings, which may be wrong

        gc.enable()
        return app

    run_worker(load, sys.argv[1:])
