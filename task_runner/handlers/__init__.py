"""Handlers that come with Signalbox: importing this package registers them."""

from task_runner.handlers import email, noop

__all__ = ["email", "noop"]
