"""What starts Signalbox: Procfile, Compose, Dockerfile, Makefile and README name things that exist, in an order that works."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from common.config import Settings
from common.db import ORCHESTRATOR_QUEUE, TASK_RUNNER_QUEUE
from common.queues.alive import SignOfLife

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = ("migrate", "api", "orchestrator", "task-runner", "flower")
QUEUES = {"orchestrator": ORCHESTRATOR_QUEUE, "task-runner": TASK_RUNNER_QUEUE}


def procfile() -> dict[str, list[str]]:
    lines = (ROOT / "Procfile").read_text(encoding="utf-8").splitlines()
    return {name: shlex.split(command) for name, _, command in (line.partition(":") for line in lines)}


def commands() -> list[tuple[str, list[str]]]:
    """Every command that the Procfile and Compose start of our own image."""
    of_compose = [(f"docker-compose.yml {name}", SERVICES[name]["command"]) for name in OURS]
    return [(f"Procfile {name}", command) for name, command in procfile().items()] + of_compose


COMMANDS = pytest.mark.parametrize(
    "command", [c for _, c in commands()], ids=[where for where, _ in commands()]
)


def celery_app(command: list[str]) -> str | None:
    return command[command.index("-A") + 1] if command[0] == "celery" else None


@cache
def facts_of_app(module: str) -> list[str]:
    """The class of a worker module's `app`, and its pool; loaded where it cannot disturb other tests."""
    show = f"from {module} import app; print(type(app).__name__, app.conf.worker_pool)"
    answer = subprocess.run(
        [sys.executable, "-c", show], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.split()


@cache
def help_of(*words: str) -> str:
    """What a command of ours says of itself; fails for one that it does not know."""
    answer = subprocess.run(
        [*words, "--help"], capture_output=True, text=True, check=False, env={"PATH": str(BIN)}
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


@COMMANDS
def test_a_started_command_is_installed(command):
    assert command[0] in PROJECT["project"]["scripts"] or shutil.which(command[0], path=str(BIN))


@COMMANDS
def test_a_celery_command_names_an_app_that_exists(command):
    name = celery_app(command)
    if name is None:
        assert command[0] == "signalbox"
        return

    assert facts_of_app(name) == ["Celery", "threads"]


@COMMANDS
def test_a_signalbox_command_is_one_that_it_knows(command):
    if command[0] != "signalbox":
        assert celery_app(command)
        return
    words = [word for word in command if not word.startswith("-")]
    words = words[: 3 if words[1] == "db" else 2]

    known = help_of(*words)

    assert [word for word in command if word.startswith("--") and word not in known] == []


@pytest.mark.parametrize("duty", QUEUES)
def test_each_worker_takes_from_its_own_queue(duty):
    for command in (procfile()[duty], SERVICES[duty]["command"]):
        assert command[command.index("-Q") + 1] == QUEUES[duty]


def test_compose_has_every_process_of_production():
    assert set(SERVICES) == {"postgres", "redis", *OURS}


def test_every_lasting_service_says_when_it_is_healthy():
    for name in set(SERVICES) - {"migrate"}:
        check = SERVICES[name]["healthcheck"]
        assert check["test"][0] in ("CMD", "CMD-SHELL"), name
        assert check.keys() >= {"interval", "timeout", "retries"}, name


@pytest.mark.parametrize("duty", QUEUES)
def test_a_worker_is_healthy_as_long_as_it_gives_signs_of_life(duty: str, tmp_path: Path) -> None:
    kind, check = SERVICES[duty]["healthcheck"]["test"]
    assert kind == "CMD-SHELL"

    def is_healthy() -> bool:
        asked = ["/bin/sh", "-c", check.replace("$$", "$")]
        env = {"PATH": os.environ["PATH"], "SIGNALBOX_ALIVE_FOLDER": str(tmp_path)}
        return subprocess.run(asked, env=env, check=False, capture_output=True).returncode == 0

    assert not is_healthy(), "it has not begun"
    SignOfLife(tmp_path, duty).give()
    assert is_healthy()
    ago = (tmp_path / duty).stat().st_mtime - 40
    os.utime(tmp_path / duty, (ago, ago))
    assert not is_healthy(), "forty seconds without one"


def test_services_start_in_an_order_that_works():
    waits = {
        name: {n: w["condition"] for n, w in s.get("depends_on", {}).items()} for name, s in SERVICES.items()
    }

    assert waits["migrate"] == {"postgres": "service_healthy"}
    for name in ("api", "orchestrator", "task-runner"):
        assert waits[name] == {"migrate": "service_completed_successfully", "redis": "service_healthy"}, name
    assert waits["flower"]["redis"] == "service_healthy"
    assert not waits["postgres"]
    assert not waits["redis"]


def test_the_migration_runs_once_and_everything_else_comes_back():
    assert SERVICES["migrate"]["restart"] == "no"
    assert {s["restart"] for name, s in SERVICES.items() if name != "migrate"} == {"unless-stopped"}


def test_ports_are_published_on_loopback_only():
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]

    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_the_secret_has_no_default():
    for name in OURS:
        assert SERVICES[name]["environment"]["SIGNALBOX_SECRET"].startswith("${SIGNALBOX_SECRET:?"), name


def test_our_services_have_settings_that_exist():
    known = {"DATABASE_URL", "REDIS_URL", "SMTP_URL"} | {
        f"SIGNALBOX_{name.upper()}" for name in Settings.model_fields
    }

    for name in OURS:
        assert SERVICES[name]["environment"].keys() <= known, name


def test_every_setting_of_the_env_file_reaches_our_services():
    """Those that Compose does not name itself, too: a retention that is written down and not heard of deletes nothing."""
    for name in OURS:
        assert SERVICES[name]["env_file"] == [{"path": ".env", "required": False}], name
        assert SERVICES[name]["environment"]["SIGNALBOX_HOST"] == "0.0.0.0", "ports are published from there"
        assert SERVICES[name]["environment"]["SIGNALBOX_DATA"] == "/data", "the volume is mounted there"


def test_workers_are_given_longer_to_end_than_they_ask_for():
    for name in QUEUES:
        assert int(SERVICES[name]["stop_grace_period"].removesuffix("s")) > Settings().drain_seconds + 5, name


def test_the_image_holds_every_package_and_only_hashed_requirements():
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    packages = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()

    assert [package for package in packages if f"COPY {package} {package}\n" not in dockerfile] == []
    assert [package for package in packages if f"!{package}" not in ignored] == []
    for line in re.findall(r"pip install .*", dockerfile):
        assert "--require-hashes -r" in line or "--no-deps wheels/" in line, line


def test_the_image_does_not_run_as_root():
    users = re.findall(r"^USER (\S+)$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)

    assert users == ["signalbox"]


def test_the_readme_has_exactly_two_commands_to_set_up():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    setup = readme.partition("## Two commands")[2].partition("\n## ")[0]

    assert re.findall(r"```sh\n(.*?)```", setup, re.DOTALL) == ["make demo\nmake test\n"]


def test_every_make_command_in_the_docs_exists():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]

    for page in pages:
        for target in re.findall(r"`make ([a-z]+)", page.read_text(encoding="utf-8")):
            assert target in targets, f"{page.name} names `make {target}`"


def test_every_make_command_is_explained_by_help():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony

    shown = subprocess.run(["make", "help"], capture_output=True, text=True, check=True, cwd=ROOT).stdout

    for target in phony[1].split():
        assert f"make {target} " in shown, target


def test_ci_runs_the_static_checks_and_every_suite():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")

    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
    assert re.findall(r"^make (\w+)", script, re.MULTILINE) == ["check", "test"]


def test_the_shipped_example_is_the_fixture():
    fixture, example = (
        ROOT / "fixtures/001-hello-workflow.json",
        ROOT / "signalbox/examples/hello-workflow.json",
    )

    assert example.read_bytes() == fixture.read_bytes()
