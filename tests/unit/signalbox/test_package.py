"""What `signalbox` is for whoever imports it, and what travels with it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import signalbox
from common.version import signalbox_version
from signalbox import examples

REPOSITORY = Path(__file__).parents[3]
HEAVY = ("celery", "flask", "kombu", "sqlalchemy", "httpx2", "redis", "rich", "typer", "alembic")


def modules_after(code: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after `code`."""
    answer = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys, json\nprint(json.dumps(list(sys.modules)))"],
        capture_output=True,
        text=True,
        check=True,
        cwd=REPOSITORY,
    )
    return set(json.loads(answer.stdout))


def test_importing_signalbox_loads_nothing_heavy() -> None:
    assert modules_after("import signalbox").isdisjoint(HEAVY)


def test_a_module_of_handlers_loads_neither_celery_nor_flask() -> None:
    loaded = modules_after("from signalbox import handler, Retryable, Permanent")

    assert loaded.isdisjoint({"celery", "flask", "sqlalchemy", "httpx2"})


def test_help_loads_none_of_what_commands_need() -> None:
    code = "\n".join(
        (
            "import sys, signalbox.cli",
            "sys.argv = ['signalbox', '--help']",
            "import contextlib, io",
            "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):",
            "    signalbox.cli.main()",
        )
    )

    assert modules_after(code).isdisjoint({"celery", "flask", "sqlalchemy", "httpx2", "redis", "alembic"})


def test_the_command_tells_its_version() -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "signalbox", "--version"],
        capture_output=True,
        text=True,
        check=True,
        cwd=REPOSITORY,
    )

    assert answer.stdout == f"signalbox {signalbox_version()}\n"


@pytest.mark.parametrize("name", signalbox.__all__)
def test_every_public_name_can_be_imported(name: str) -> None:
    assert getattr(signalbox, name).__name__ == name


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = signalbox.nothing


def test_the_example_that_travels_with_the_package_is_the_fixture() -> None:
    packaged = Path(examples.__file__).with_name("hello-workflow.json").read_bytes()

    assert packaged == (REPOSITORY / "fixtures" / "001-hello-workflow.json").read_bytes()
    assert examples.document("hello-workflow")["id"] == "hello-workflow"
