"""Being a Celery worker without the rest of Celery's command line.

`celery -A APP worker` loads every command there is before it runs one: Flower with its web server, a prompt, and more, a third of the
CPU time of a worker's start. Here is the worker's own command alone, with the same options from the same places.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from celery import Celery, maybe_patch_concurrency
from celery.bin.base import CLIContext
from celery.bin.worker import worker

_command: Any = worker


def run_worker(load: Callable[[], Celery], options: Sequence[str]) -> NoReturn:
    """Be a worker of the app that `load` imports until it ends, and exit: what `celery -A … worker OPTIONS` does, CELERY_WORKER_… included."""
    app = load()
    maybe_patch_concurrency(["celery", "worker", *options])
    context = CLIContext(app=app, no_color="NO_COLOR" in os.environ, workdir=None, quiet=False)
    _command.main(list(options), prog_name="celery worker", obj=context, auto_envvar_prefix="CELERY_WORKER")
    sys.exit()
