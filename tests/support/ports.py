"""Free ports on the loopback, for servers that the tests start themselves."""

import socket
from contextlib import closing

LOOPBACK = "127.0.0.1"


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody listens on at this moment.

    The kernel hands out ephemeral ports in turn, so the gap between asking and using is small but
    not zero: a server that finds its port taken has to be started again with another one.
    """
    with closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port
