"""Celery as doorbells: the app, ringing, and the dispatcher that answers. Nothing here carries a business fact."""
