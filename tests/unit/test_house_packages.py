"""What is installed, from where, and under which names."""

import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ("requirements.lock", "requirements-dev.lock", "requirements-build.lock")
REQUIREMENT = re.compile(r"^([a-z0-9][a-z0-9.\-]*)(?:\[[a-z,]+\])?==(\S+)")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
OUR_PACKAGES = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]

# Slow to import and not needed to define a handler; `import signalbox` must load none of them.
HEAVY = (
    "celery",
    "kombu",
    "flask",
    "gunicorn",
    "flower",
    "tornado",
    "redis",
    "rich",
    "typer",
    "alembic",
    "anthropic",
    "openai",
    "jsonschema_rs",
    "cryptography",
    "jinja2",
)


def locked(lock: str) -> dict[str, list[str]]:
    """The requirements of a lock file with the lines that belong to each."""
    found: dict[str, list[str]] = {}
    for line in (ROOT / lock).read_text(encoding="utf-8").splitlines():
        match = REQUIREMENT.match(line)
        if match:
            found[match[1]] = []
        elif found:
            found[list(found)[-1]].append(line.strip())
    return found


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=;! ]", requirement)[0].lower() for requirement in requirements}


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_file_names_no_host(lock):
    text = (ROOT / lock).read_text(encoding="utf-8")

    options = re.findall(r"^\s*(-\S+)", text, re.MULTILINE)

    assert "://" not in text
    assert {option.partition(":")[0] for option in options} == {"--hash=sha256"}


@pytest.mark.parametrize("lock", LOCKS)
def test_every_locked_requirement_has_a_hash(lock):
    requirements = locked(lock)

    assert requirements
    assert [
        name for name, lines in requirements.items() if not any("--hash=sha256:" in line for line in lines)
    ] == []


def test_the_lock_files_hold_what_the_project_asks_for():
    groups = PROJECT["dependency-groups"]
    extras = {
        name for wanted in PROJECT["project"]["optional-dependencies"].values() for name in names(wanted)
    }
    runtime, dev = (
        names(PROJECT["project"]["dependencies"]),
        names(groups["dev"]) - {PROJECT["project"]["name"]},
    )

    assert runtime <= locked("requirements.lock").keys()
    assert runtime | dev | extras <= locked("requirements-dev.lock").keys()
    assert names(PROJECT["build-system"]["requires"]) <= names(groups["build"])
    assert names(groups["build"]) <= locked("requirements-build.lock").keys()


def test_the_development_lock_has_the_runtime_versions():
    def versions(lock: str) -> set[str]:
        return set(re.findall(r"^[a-z0-9]\S*==\S+", (ROOT / lock).read_text(encoding="utf-8"), re.MULTILINE))

    assert versions("requirements.lock") <= versions("requirements-dev.lock")


@pytest.mark.parametrize("package", OUR_PACKAGES)
def test_no_other_distribution_provides_our_top_level_names(package):
    assert set(packages_distributions().get(package, [])) <= {PROJECT["project"]["name"]}


def test_every_package_of_ours_is_in_the_wheel():
    assert {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"} == set(OUR_PACKAGES)


def test_importing_signalbox_is_light():
    show = "import json, sys, signalbox; print(json.dumps(sorted(sys.modules)))"
    answer = subprocess.run(
        [sys.executable, "-c", show], capture_output=True, text=True, check=True, cwd=ROOT
    )

    assert [name for name in HEAVY if name in json.loads(answer.stdout)] == []
