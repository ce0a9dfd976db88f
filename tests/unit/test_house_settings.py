"""Every setting stands in `.env.example` with its default, and nothing else does."""

import re
from enum import Enum
from itertools import pairwise
from pathlib import Path

from pydantic import AliasChoices
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from common.config import Limits, Settings

ROOT = Path(__file__).resolve().parents[2]
SETTING = re.compile(r"^#([A-Z][A-Z0-9_]*)=(.*)$", re.MULTILINE)

# Read by the command line before any settings object exists: where the API is and what to show it.
OF_THE_COMMAND_LINE = {"SIGNALBOX_URL": "", "SIGNALBOX_KEY": ""}


def environment_name(prefix: str, name: str, field: FieldInfo) -> str:
    alias = field.validation_alias
    return str(alias.choices[0]) if isinstance(alias, AliasChoices) else f"{prefix}{name}".upper()


def as_written(default: object) -> str:
    """A default as one writes it into an environment file."""
    if default is None:
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    return str(default.value if isinstance(default, Enum) else default)


def settings_of(model: type[BaseSettings]) -> dict[str, str]:
    prefix = model.model_config.get("env_prefix", "")
    return {
        environment_name(prefix, name, field): as_written(field.get_default(call_default_factory=True))
        for name, field in model.model_fields.items()
    }


def example() -> list[tuple[str, str]]:
    return SETTING.findall((ROOT / ".env.example").read_text(encoding="utf-8"))


def test_the_example_shows_every_setting_with_its_default():
    assert dict(example()) == {**settings_of(Settings), **settings_of(Limits), **OF_THE_COMMAND_LINE}


def test_no_setting_is_shown_twice():
    names = [name for name, _ in example()]

    assert len(names) == len(set(names))


def test_every_shown_setting_is_explained_above_it():
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()

    unexplained = [
        line for above, line in pairwise(lines) if SETTING.match(line) and not above.startswith("# ")
    ]

    assert unexplained == []
