"""Names that a chart reads outside its context: configuration values, and results of work.

A result is named as `steps.NAME.output`: of a task by its name, of an invoke by its state's path or its id, of a child by
its definition's key. They are found at compile time, so that a step is given what its chart names and nothing else. A configuration value is
named as `config.module.key`; where the key is only computed, the whole module is. Names of modules have no dots, so that
`module.key` can be taken apart again.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from statechart.env import Json

MODULE = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,99}")
KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,199}")
MAX_CONFIG_NAMES = 200
"""Configuration values, or whole modules, that one definition may name."""

_PART = re.compile(r"`[^`]*`|[^.`]+")


def parts_of(path: str) -> list[str]:
    """The members of a path as expressions note them: a member with a dot in its name stands in backquotes."""
    return [part.removeprefix("`").removesuffix("`") for part in _PART.findall(path)]


def config_name(path: str) -> str | None:
    """`module.key` of a path that reads configuration, the module alone where that is all it says; else None."""
    root, *rest = parts_of(path)
    return ".".join(rest[:2]) if root == "config" and rest else None


def named_config(names: Collection[str], defaults: Mapping[str, Json]) -> dict[str, dict[str, Json]]:
    """What stands where nothing is configured: every module that is named, with the definition's own defaults."""
    modules = sorted({name.partition(".")[0] for name in names})
    return {module: dict(defaults.get(module, {})) for module in modules}


RESULT_FIELDS = ("status", "output", "error")


class Results(NamedTuple):
    """What a chart names of results: fields by name; `every`: names are computed, so that all are kept."""

    fields: Mapping[str, frozenset[str]]
    every: bool

    def kept(self, name: str) -> Collection[str]:
        """The fields to keep of a result."""
        return RESULT_FIELDS if self.every else self.fields.get(name, ())

    def __bool__(self) -> bool:
        return self.every or bool(self.fields)


NO_RESULTS = Results({}, every=False)


def named_results(paths: Collection[str]) -> Results:
    """The results that these paths read, and which fields of each; all fields where none is written out."""
    fields: dict[str, set[str]] = {}
    every = False
    for path in paths:
        root, *rest = parts_of(path)
        if root == "steps":
            every = every or not rest
            for name in rest[:1]:
                fields.setdefault(name, set()).update(rest[1:2] or RESULT_FIELDS)
    return Results({name: frozenset(found) for name, found in fields.items()}, every)


def misnamed_config(defaults: Mapping[str, Mapping[str, Json]]) -> Iterator[tuple[str, str]]:
    """(path, what is expected there) of each default that no expression and no request could name."""
    for module, values in defaults.items():
        if not MODULE.fullmatch(module):
            yield f"config.{module}", "a module's name has letters, digits, _ and -, at most 100"
        for key in values:
            if not KEY.fullmatch(key):
                yield f"config.{module}.{key}", "a key's name has letters, digits, _, - and dots, at most 200"
