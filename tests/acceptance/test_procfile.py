"""The production set, as the Procfile starts it and Compose asks for its health, on real PostgreSQL and Valkey."""

import json
import os
import re
import secrets
import shlex
import subprocess
from base64 import b64encode
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import yaml

from signalbox.ports import LOOPBACK, free_port
from tests.support.forked import forked_command
from tests.support.processes import Child, Processes, plain_environment
from tests.support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
PROCFILE = dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text(encoding="utf-8").splitlines())
SERVICES: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))[
    "services"
]


class Production:
    """The processes of the Procfile in one environment, each at a port of its own."""

    def __init__(self, processes: Processes, env: dict[str, str]) -> None:
        self.processes, self.env = processes, env
        self.children: dict[str, Child] = {}

    def run(self, *argv: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end in this environment."""
        environment = plain_environment(self.processes.folder, {**self.env, **env})
        return subprocess.run(
            argv,
            capture_output=True,
            text=True,
            check=False,
            env=environment,
            cwd=self.processes.folder,
            timeout=60,
        )

    def signalbox(self, *argv: str) -> Any:
        """Run `signalbox … --json`, in a process that has its libraries already, and read its answer."""
        environment = plain_environment(self.processes.folder, self.env)
        answer = forked_command(
            (*argv, "--json"), env=environment, folder=self.processes.folder, stdin="", seconds=60
        )
        assert answer.returncode == 0, answer.stderr + answer.stdout
        return json.loads(answer.stdout)

    def start(self, name: str) -> Child:
        """Start a line of the Procfile as a Procfile runner does: by a shell, with PORT."""
        line = PROCFILE[name].replace("--port=5555", f"--port={self.env['FLOWER_PORT']}")
        self.children[name] = self.processes.start(name, "/bin/sh", "-c", f"exec {line}", env=self.env)
        return self.children[name]


@pytest.fixture
def production(processes, empty_postgres_url, valkey_url):
    port = free_port()
    env = {
        "DATABASE_URL": empty_postgres_url,
        "REDIS_URL": valkey_url,
        "SIGNALBOX_SECRET": b64encode(secrets.token_bytes(32)).decode(),
        "SIGNALBOX_URL": f"http://{LOOPBACK}:{port}",
        "PORT": str(port),
        "FLOWER_PORT": str(free_port()),
        "SIGNALBOX_ALIVE_FOLDER": str(processes.folder / "alive"),
    }
    return Production(processes, env)


def healthy(production: Production, service: str) -> bool:
    """Ask what Compose asks, at the ports of this run."""
    kind, *words = SERVICES[service]["healthcheck"]["test"]
    words = words if kind == "CMD" else ["/bin/sh", "-c", words[0].replace("$$", "$")]
    moved = [
        w.replace(":8000/", f":{production.env['PORT']}/").replace(
            ":5555/", f":{production.env['FLOWER_PORT']}/"
        )
        for w in words
    ]
    return production.run(*moved).returncode == 0


def page(port: str, path: str) -> str:
    with urlopen(f"http://{LOOPBACK}:{port}{path}", timeout=30) as answer:
        text: str = answer.read().decode()
        return text


def test_the_production_set_runs_hello_workflow_is_healthy_and_ends_when_asked(production):
    assert production.run(*SERVICES["migrate"]["command"]).returncode == 0
    key = production.signalbox("keys", "create", "--tenant", "default", "--name", "first", "--role", "admin")[
        "key"
    ]
    production.env["SIGNALBOX_KEY"] = key
    for name in ("orchestrator", "task-runner", "web", "flower"):
        production.start(name)
    for service in ("api", "orchestrator", "task-runner", "flower"):
        wait_until(lambda s=service: healthy(production, s), what=f"{service} to be healthy", seconds=60)

    production.signalbox("apply", str(ROOT / "fixtures/001-hello-workflow.json"))
    started = production.signalbox("start", "hello-workflow")
    done = wait_until(
        lambda: (found := production.signalbox("show", started["id"]))["status"] == "completed" and found,
        what="hello-workflow to complete",
        seconds=20,
    )

    assert done["configuration"] == ["done"]
    assert list(production.processes.folder.glob("**/*.eml")), "without SMTP_URL, mail is written to a folder"
    assert production.run("signalbox", "doctor").returncode == 0

    def shown() -> set[str]:
        workers = page(production.env["FLOWER_PORT"], "/workers?json=1")
        return set(re.findall(r"(orchestrator|task-runner)@", workers))

    wait_until(lambda: {"orchestrator", "task-runner"} <= shown(), what="Flower to show both workers")

    for name in ("web", "task-runner", "orchestrator"):
        assert production.children[name].terminate() == 0, production.children[name].log_tail()


def test_a_process_without_a_schema_says_what_to_run(production):
    web = production.start("web")

    assert web.wait(seconds=30) != 0
    assert "signalbox db upgrade" in web.log()


def test_a_process_without_a_secret_says_what_to_set(production, postgres_url):
    production.env["DATABASE_URL"] = postgres_url
    del production.env["SIGNALBOX_SECRET"]
    web = production.start("web")

    assert web.wait(seconds=30) != 0
    assert "SIGNALBOX_SECRET" in web.log()


def test_the_procfile_line_of_the_web_process_takes_its_port_from_the_environment():
    shell = ["/bin/sh", "-c", f"printf '%s ' {PROCFILE['web']}"]

    with_port = subprocess.run(
        shell, capture_output=True, text=True, check=True, env={**os.environ, "PORT": "9000"}
    )

    assert shlex.split(with_port.stdout)[-2:] == ["--port", "9000"]
