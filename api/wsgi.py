"""For any WSGI server: `gunicorn --worker-class gthread --threads 32 api.wsgi:app`, settings from the environment."""

from __future__ import annotations

import atexit

from api.app import create_app, services_of
from common import faults
from common.config import Settings
from common.observability import configure_logging

settings = Settings.load()
configure_logging("api", log_format=settings.log_format, level=settings.log_level)
faults.arm_from_environment(settings.faults)
app = create_app(settings)
atexit.register(services_of(app).close)
