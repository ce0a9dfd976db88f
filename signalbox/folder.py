"""The folder of `signalbox up`: database, secret, key, logs and mail of one machine's Signalbox.

Everything in it belongs to one user: the folder is made 0700, its files 0600. `url` and `key` are how the CLI finds
a running stack. `lock` is held, by flock, by the one `up` that works here; the kernel lets go of it with the process,
so there is no stale lock to clean up.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from common.credentials import make_secret
from common.errors import Conflict, Misconfigured

DEFAULT_FOLDER = Path(".signalbox")
PRIVATE_FOLDER = 0o700
PRIVATE_FILE = 0o600


@dataclass(frozen=True)
class DataFolder:
    """Names of what stands in a data folder. `path` is absolute."""

    path: Path

    @classmethod
    def at(cls, path: Path) -> DataFolder:
        return cls(path.absolute())

    @property
    def database_path(self) -> Path:
        return self.path / "signalbox.db"

    @property
    def database_url(self) -> str:
        return f"sqlite:///{self.database_path}"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def broker(self) -> Path:
        return self.path / "broker"

    @property
    def mail(self) -> Path:
        return self.path / "mail"

    @property
    def key_path(self) -> Path:
        return self.path / "key"

    def create(self) -> None:
        """Make the folder and what it is divided into. Raises `Misconfigured` where that is impossible."""
        try:
            # Only folders that we make are narrowed: `--data` may name one that others have to enter.
            for folder in (self.path, self.logs, self.broker):
                folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
        except OSError as error:
            raise Misconfigured(
                f'cannot make the data folder "{self.path}": {error.strerror}; name another one with --data'
            ) from error

    def secret(self) -> str:
        """The secret that every key of this folder's database is derived from; made at first use.

        32 bytes in base64. Two processes that ask at the same time get the same one.
        """
        path = self.path / "secret"
        if not path.exists():
            with suppress(FileExistsError):  # another process was first, and its secret counts
                _write_private(path, make_secret(), replace=False)
        return path.read_text().strip()

    def stored_secret(self) -> str | None:
        """The secret, or None where no `up` has made one."""
        return _read(self.path / "secret")

    def url(self) -> str | None:
        """Where the last `up` of this folder answered, or answers."""
        return _read(self.path / "url")

    def key(self) -> str | None:
        """The key that `up` made for the CLI."""
        return _read(self.key_path)

    def broker_url(self) -> str | None:
        """The embedded broker of the last `up`, with its password."""
        return _read(self.broker / "url")

    def store_broker_url(self, url: str) -> None:
        _write_private(self.broker / "url", url)

    def store_url(self, url: str) -> None:
        _write_private(self.path / "url", url)

    def store_key(self, key: str) -> None:
        _write_private(self.key_path, key)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold this folder for one `up`. Raises `Conflict` (`up.running`) while another one lives."""
        lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise self._taken(lock) from None
            os.pwrite(lock, f"{os.getpid():<12}".encode(), 0)
            yield
        finally:
            os.close(lock)

    def _taken(self, lock: int) -> Conflict:
        holder = os.pread(lock, 12, 0).decode().strip() or "unknown"
        return Conflict(
            f'another Signalbox (pid {holder}) already works in "{self.path}" and answers at {self.url()}; '
            "stop it first, or name another folder with --data",
            code="up.running",
            pid=holder,
        )


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip() or None
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise Misconfigured(f'cannot read "{path}": {error.strerror}') from error


def _write_private(path: Path, text: str, *, replace: bool = True) -> None:
    """Write a file that only its owner can read: whole or not at all, whatever interrupts us.

    Raises `FileExistsError` when it exists and must not be replaced.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")  # made 0600
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text + "\n")
        if replace:
            temporary.replace(path)
        else:
            path.hardlink_to(temporary)
    finally:
        temporary.unlink(missing_ok=True)
