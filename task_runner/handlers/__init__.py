"""Handlers that come with Signalbox: importing this package registers them."""

from task_runner.handlers import email, http, noop

__all__ = ["email", "http", "noop"]
