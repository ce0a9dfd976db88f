"""What an API process does before it serves: logs, fault points, limits, and the settings it cannot do without."""

from __future__ import annotations

import logging

from common import faults
from common.config import Limits, Settings
from common.credentials import read_secret
from common.observability import configure_logging


def prepare(settings: Settings) -> Limits:
    """Set this process up by its settings and return the limits of the environment. Raises `Misconfigured`."""
    configure_logging("api", log_format=settings.log_format, level=settings.log_level)
    logging.getLogger("alembic").setLevel(logging.WARNING)  # it greets whenever the schema's version is read
    read_secret(settings.secret.get_secret_value() if settings.secret else None)
    faults.arm_from_environment(settings.faults)
    return Limits.load()
