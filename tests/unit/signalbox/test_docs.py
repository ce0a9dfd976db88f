"""The manual lists what there is, and the guide's files are what it says they are."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

import statechart
from signalbox.cli.app import app
from signalbox.cli.exits import Exit

DOCS = Path(__file__).parents[3] / "docs"
MANUAL = (DOCS / "cli.md").read_text()
GUIDE = (DOCS / "guides" / "first-workflow.md").read_text()


def commands(group: Any, prefix: str = "signalbox") -> Iterator[tuple[str, Any]]:
    """Every command that does something, by the words that a person types."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", command


COMMANDS = dict(commands(typer.main.get_command(app)))


def test_the_manual_lists_every_command_and_no_other() -> None:
    listed = set(re.findall(r"^\| `(signalbox(?: [a-z-]+)+)", MANUAL, re.MULTILINE))

    assert listed == set(COMMANDS)


@pytest.mark.parametrize("words", sorted(COMMANDS))
def test_every_command_says_what_it_does(words: str) -> None:
    help_text = COMMANDS[words].help

    assert help_text
    assert help_text.split("\n")[0].endswith(".")


WITHOUT_JSON = {
    "signalbox up": "it runs until it is stopped",
    "signalbox demo": "it is for looking at",
    "signalbox api": "it becomes the server",
    "signalbox worker orchestrator": "it becomes the worker",
    "signalbox worker task-runner": "it becomes the worker",
}


@pytest.mark.parametrize("words", sorted(set(COMMANDS) - set(WITHOUT_JSON)))
def test_every_command_that_answers_can_answer_with_json(words: str) -> None:
    options = {option for parameter in COMMANDS[words].params for option in parameter.opts}

    assert "--json" in options


def test_the_manual_lists_every_exit_code() -> None:
    listed = [int(code) for code in re.findall(r"^\| (\d+) \|", MANUAL, re.MULTILINE)]

    assert listed == [int(code) for code in Exit]


@pytest.mark.parametrize("block", re.findall(r"```json\n(.*?)```", GUIDE, re.DOTALL))
def test_a_definition_of_the_guide_has_no_problems(block: str) -> None:
    assert statechart.check(json.loads(block)) == []


def test_a_week_of_silence_refuses_the_approval_of_the_guide() -> None:
    approval = json.loads(re.findall(r"```json\n(.*?)```", GUIDE, re.DOTALL)[0])
    events = json.loads(re.findall(r"echo '(.*)' > silence\.json", GUIDE)[0])

    assert [one["configuration"] for one in statechart.simulate(approval, events)] == [
        ["asking"],
        ["refused"],
    ]


def test_the_commands_of_the_guide_exist() -> None:
    typed = re.findall(r"^(?:\w+=\S+ )?(signalbox .*)$", GUIDE, re.MULTILINE)

    assert typed
    for line in typed:
        assert any(line == words or line.startswith(f"{words} ") for words in COMMANDS), line
