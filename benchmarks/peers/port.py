"""What the comparison knows of one system, and how it speaks to it.

Each system runs as a program of its own in an environment of its own: it reads one JSON command a line (`live`,
`backlog`, `latencies`, `fan_out`, `stop`, each with `n`) and answers with one JSON line. Our own is no exception. What
the program starts (workers, servers) are its children, so that memory counts them, and it ends them when its input ends.
"""

from __future__ import annotations

import hashlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.peers.memory import proportional_megabytes
from benchmarks.peers.servers import CONTRIB, Server, contrib_programs, run_servers

HERE = Path(__file__).parent
PROGRAMS = HERE / "programs"
ROOT = HERE.parents[1]
BUILT = ROOT / "build" / "peers"
START_SECONDS = 120.0
MODE_SECONDS = 600.0
INSTALL_SECONDS = 900
STOP_SECONDS = 20.0
SAMPLE_SECONDS = 0.1

Settings = Mapping[str, Any]


class PeerFailed(Exception):
    """A system that could not be installed, started or measured, with the reason."""


@dataclass(frozen=True)
class Port:
    """One system. `settings` are those that were tried; the comparison takes the one that is fastest live.

    `share` is the part of the workflows that a slow system gets, so that a run ends; rates stay comparable.
    `latency_share` is the part of those that run one at a time. `lacks` names the modes that the system has no
    equivalent of, with the reason.
    """

    name: str
    title: str
    program: tuple[str, ...]
    user_code: tuple[str, ...]
    servers: frozenset[Server] = frozenset()
    settings: tuple[Settings, ...] = ({},)
    is_durable: bool = True
    share: float = 1.0
    latency_share: float = 1.0
    lacks: Mapping[str, str] = field(default_factory=dict)
    environment_of: str | None = None

    @property
    def folder(self) -> Path:
        """Where its environment is built; ports of one system share it."""
        return BUILT / (self.environment_of or self.name)

    @property
    def source(self) -> Path:
        return PROGRAMS / (self.environment_of or self.name)

    def lines_of_user_code(self) -> int:
        """Lines that somebody writes for the 3 steps and the fan-out: without blanks, comments and docstrings."""
        return sum(count_lines((self.source / name).read_text(encoding="utf-8")) for name in self.user_code)

    def install(self) -> None:
        """Build its environment below `build/peers` from the pinned versions, unless that has been done."""
        if self.name.startswith("signalbox"):
            return
        if CONTRIB in self.servers:
            contrib_programs()
        if (self.source / "package.json").exists():
            self._install_npm()
        else:
            self._install_pip()

    def _install_pip(self) -> None:
        pinned = self.source / "requirements.txt"
        if _is_built(self.folder, pinned):
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(self.folder)])
        _run([str(self.folder / "bin" / "pip"), "install", "--quiet", "-r", str(pinned)])
        _mark_built(self.folder, pinned)

    def _install_npm(self) -> None:
        pinned = self.source / "package-lock.json"
        if not _is_built(self.folder, pinned):
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            for name in ("package.json", "package-lock.json"):
                shutil.copy(self.source / name, self.folder)
            _run(["npm", "ci", "--no-audit", "--no-fund"], cwd=self.folder)
            _mark_built(self.folder, pinned)
        # Modules are looked up beside the file that imports them.
        for script in [*self.source.glob("*.mjs"), PROGRAMS / "driver.mjs"]:
            shutil.copy(script, self.folder)

    @contextmanager
    def start(self, settings: Settings) -> Iterator[Session]:
        """Fresh servers and the program on them, ready and warmed up; all ended and deleted after."""
        with ExitStack() as ending:
            place = ending.enter_context(run_servers(self.servers))
            is_ours = self.name.startswith("signalbox")
            ours = {
                "PATH": os.environ.get("PATH", os.defpath),
                "HOME": str(place.folder),
                "LC_ALL": "C.UTF-8",
                "PEER_FOLDER": str(place.folder),
                "PEER_DATABASE_URL": place.database_url,
                "PEER_REDIS_URL": place.redis_url,
                "PEER_SETTINGS": json.dumps(dict(settings)),
                # Of Signalbox this very checkout is measured, whichever is installed.
                "PYTHONPATH": os.pathsep.join(
                    map(str, (PROGRAMS, self.source, *([ROOT] if is_ours else ())))
                ),
            }
            log = ending.enter_context((place.folder / "program.log").open("w+b"))
            program = subprocess.Popen(
                [part.format(folder=self.folder, python=sys.executable) for part in self.program],
                cwd=ROOT if is_ours else self.folder,
                env=ours,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
            ending.callback(_end, program)
            session = Session(self, program, place.folder / "program.log")
            session.await_answer(START_SECONDS)
            yield session


@dataclass
class Session:
    """A running system that answers commands."""

    port: Port
    program: subprocess.Popen[bytes]
    log: Path

    def live(self, n: int) -> float:
        """Workflows a second, started one by one while the workers run."""
        return float(n / self._ask("live", n)["seconds"])

    def backlog(self, n: int) -> tuple[float, float]:
        """Workflows a second, all started before the workers ran: from the first end to the last, and with the workers' start."""
        answer = self._ask("backlog", n)
        return float(n / answer["seconds"]), float(n / answer["with_start"])

    def latencies(self, n: int) -> list[float]:
        """Milliseconds from the start to the caller's knowing of the end, one workflow at a time."""
        return [float(one) for one in self._ask("latencies", n)["milliseconds"]]

    def fan_out(self, n: int) -> float:
        """Seconds of one workflow over `n` no-op items and their join."""
        return float(self._ask("fan_out", n)["seconds"])

    def memory(self, n: int) -> float:
        """The most proportional memory (MB) of all its processes, servers among them, while `n` workflows run live."""
        peak = 0.0
        done = threading.Event()

        def sample() -> None:
            nonlocal peak
            while not done.is_set():
                # Our own children are exactly what this system started: one runs at a time.
                peak = max(peak, proportional_megabytes(os.getpid()))
                done.wait(SAMPLE_SECONDS)

        sampler = threading.Thread(target=sample, daemon=True)
        sampler.start()
        try:
            self.live(n)
        finally:
            done.set()
            sampler.join()
        return peak

    def _ask(self, mode: str, n: int) -> dict[str, Any]:
        assert self.program.stdin is not None
        try:
            self.program.stdin.write(json.dumps({"do": mode, "n": n}).encode() + b"\n")
            self.program.stdin.flush()
        except BrokenPipeError:
            raise PeerFailed(f"its program has ended: {self._log_end()}") from None
        return self.await_answer(MODE_SECONDS)

    def await_answer(self, seconds: float) -> dict[str, Any]:
        """The next answer. Raises `PeerFailed` when there is none in time or it is an error."""
        assert self.program.stdout is not None
        if not select.select([self.program.stdout], [], [], seconds)[0]:
            raise PeerFailed(f"no answer within {seconds:g} s: {self._log_end()}")
        line = self.program.stdout.readline()
        if not line:
            raise PeerFailed(f"its program has ended: {self._log_end()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise PeerFailed(f"{answer['error']}; {self._log_end()}")
        return answer

    def _log_end(self) -> str:
        return " | ".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-12:])[-1_500:]


def count_lines(source: str) -> int:
    """Lines of code, without blank ones, comments (`#`, `//`) and docstrings."""
    count, in_docstring = 0, False
    for line in (raw.strip() for raw in source.splitlines()):
        quotes = line.count('"""')
        if in_docstring or line.startswith('"""'):
            in_docstring = in_docstring != (quotes % 2 == 1)
        elif line and not line.startswith(("#", "//")):
            count += 1
    return count


def _end(program: subprocess.Popen[bytes]) -> None:
    """Let the program end in order by closing its input; whoever is left in its session is killed."""
    assert program.stdin is not None
    with suppress(BrokenPipeError):
        program.stdin.close()
    with suppress(subprocess.TimeoutExpired):
        program.wait(STOP_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(program.pid, signal.SIGKILL)
    program.wait()


def _digest(pinned: Path) -> str:
    return hashlib.sha256(pinned.read_bytes()).hexdigest()


def _is_built(folder: Path, pinned: Path) -> bool:
    mark = folder / "built"
    return mark.exists() and mark.read_text(encoding="utf-8") == _digest(pinned)


def _mark_built(folder: Path, pinned: Path) -> None:
    (folder / "built").write_text(_digest(pinned), encoding="utf-8")


def _run(command: list[str], cwd: Path | None = None) -> None:
    try:
        found = subprocess.run(
            command, cwd=cwd, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerFailed(f"{command[0]}: {error}") from error
    if found.returncode != 0:
        raise PeerFailed(f"{' '.join(command)}: {(found.stderr or found.stdout).strip()[-800:]}")
