"""Exit codes: one for each kind of no."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import (
    Conflict,
    Forbidden,
    Invalid,
    LimitExceeded,
    Misconfigured,
    NotFound,
    SignalboxError,
    Unauthorized,
    Unavailable,
)
from signalbox.cli.exits import Exit, Failed, TimedOut, UsageError, exit_code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Failed("no"), Exit.FAILED),
        (Invalid("no"), Exit.FAILED),
        (LimitExceeded("no", limit="x", allowed=1), Exit.FAILED),
        (UsageError("no"), Exit.USAGE),
        (Misconfigured("no"), Exit.USAGE),
        (NotFound("no"), Exit.NOT_FOUND),
        (Conflict("no"), Exit.CONFLICT),
        (Unauthorized("no"), Exit.NO_ACCESS),
        (Forbidden("no"), Exit.NO_ACCESS),
        (Unavailable("no"), Exit.NO_ACCESS),
        (TimedOut("no"), Exit.TIMED_OUT),
        (SignalboxError("no"), Exit.FAILED),
    ],
)
def test_each_kind_of_error_has_its_code(error: SignalboxError, code: Exit) -> None:
    assert exit_code(error) is code


def test_codes_are_those_of_the_manual() -> None:
    assert [(code.name, int(code)) for code in Exit] == [
        ("OK", 0),
        ("FAILED", 1),
        ("USAGE", 2),
        ("NOT_FOUND", 3),
        ("CONFLICT", 4),
        ("NO_ACCESS", 5),
        ("TIMED_OUT", 6),
        ("INTERRUPTED", 130),
    ]


def asked(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "signalbox", *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=folder,
        env={"PYTHONPATH": str(Path(__file__).parents[3])},
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("apply", "--json"), "Missing argument 'FILE…'."),
        (("start", "flow", "--wait", "x", "--json"), "Invalid value for '--wait': "),
        (("ls", "--jsom", "--json"), "No such option: --jsom"),
        (("frobnicate", "--json"), "No such command 'frobnicate'."),
        (("apply", "nowhere.json", "--json"), 'cannot read "nowhere.json"'),
    ],
    ids=lambda one: " ".join(one) if isinstance(one, tuple) else "",
)
def test_a_usage_error_of_a_json_command_is_json(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    answer = asked(tmp_path, *words)

    assert (answer.returncode, answer.stderr) == (Exit.USAGE, "")
    error = json.loads(answer.stdout)["error"]
    assert error["code"] == "cli.usage"
    assert error["message"].startswith(said)


def test_for_people_it_stays_as_typer_tells_it(tmp_path: Path) -> None:
    answer = asked(tmp_path, "apply")

    assert (answer.returncode, answer.stdout) == (Exit.USAGE, "")
    assert "Missing argument" in answer.stderr


def test_a_json_command_exits_with_the_code_that_it_says(tmp_path: Path) -> None:
    states = {"a": {"on": {"GO": "nowhere"}}}
    (tmp_path / "bad.json").write_text(json.dumps({"id": "bad", "initial": "a", "states": states}))
    (tmp_path / "good.json").write_text(json.dumps({"id": "good", "initial": "a", "states": {"a": {}}}))

    refused, passed = (asked(tmp_path, "check", f"{name}.json", "--json") for name in ("bad", "good"))

    assert refused.returncode == Exit.FAILED, refused.stdout
    assert passed.returncode == Exit.OK, passed.stdout
    assert json.loads(refused.stdout) != json.loads(passed.stdout)


def test_ctrl_c_while_code_is_loaded_ends_the_process_and_tells_nothing() -> None:
    program = (
        "import signal, time; from signalbox import entry\n"
        # As for a command in a terminal: whoever runs the tests in the background has it ignored, which is kept.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        # A module that takes long to load, so that whoever reads this is never too late.
        "entry.import_module = lambda name: (print('loads', name, flush=True), time.sleep(60))\n"
        "entry.main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    with process, process.stdout as told:
        assert told.readline() == "loads signalbox.cli.app\n"
        process.send_signal(signal.SIGINT)
        rest = told.read()

    assert process.returncode == -signal.SIGINT
    assert rest == ""
