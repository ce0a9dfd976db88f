"""TCP ports on the loopback: is one free, which is, and listening on one before its server is there."""

from __future__ import annotations

import socket
from contextlib import closing

LOOPBACK = "127.0.0.1"
BACKLOG = 512


def is_free(port: int, host: str = LOOPBACK) -> bool:
    """Whether a server could listen on `host`:`port` at this moment."""
    with closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as probe:
        # As servers do it: a port in TIME_WAIT is free, one that somebody listens on is not.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def free_port(host: str = LOOPBACK) -> int:
    """A port that nobody listens on at this moment. Whoever binds it next may still find it taken."""
    with closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def listen(port: int, host: str = LOOPBACK) -> socket.socket | None:
    """Listen on `host`:`port` (0: any) for a server to come; None where somebody else does.

    Whoever holds the socket cannot lose the port to another program, and callers who come while the server starts or
    is started again wait for it, instead of being refused.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        return None
    return listener
