"""Handlers that come with Signalbox: importing this package registers them."""

from task_runner.handlers import ai, email, http, noop

__all__ = ["ai", "email", "http", "noop"]
