"""For any WSGI server: `gunicorn --worker-class gthread --threads 32 api.wsgi:app`, settings from the environment."""

from __future__ import annotations

import atexit

from api.app import create_app, services_of
from api.startup import prepare
from common.config import Settings

settings = Settings.load()
app = create_app(settings, limits=prepare(settings))
atexit.register(services_of(app).close)
