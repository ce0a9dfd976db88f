"""Rules of the house that a reader of the text can check: where SQL stands, how rows are locked, what is not named.

Each rule closes a trap that was met in practice; docs/decisions/ and docs/architecture.md say which.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("statechart", "common", "orchestrator", "task_runner", "api", "signalbox", "migrations")
SQL_ROOMS = ("common/store/", "common/db/", "migrations/")
CLOCK_ROOMS = ("common/clock.py", "common/db/", "migrations/")
# Types that a signature may name anywhere, because stores and commands take a transaction.
SQLALCHEMY_TYPES = {"Connection", "Engine", "Row"}
HIDDEN_BUT_OURS = {".ci", ".env.example", ".gitignore", ".dockerignore"}
IGNORED_FOLDERS = {"__pycache__", "node_modules", "build", "dist"}
TEXT_SUFFIXES = {
    "",
    ".py",
    ".md",
    ".toml",
    ".lock",
    ".json",
    ".yml",
    ".yaml",
    ".sql",
    ".mako",
    ".txt",
    ".example",
    ".cfg",
}


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def place(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports_of_sqlalchemy(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every name that a module takes from SQLAlchemy, types for signatures and errors aside."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, a.name) for a in node.names if a.name.partition(".")[0] == "sqlalchemy")
        elif isinstance(node, ast.ImportFrom) and re.match(r"sqlalchemy(?!\.exc$)", node.module or ""):
            yield from ((node.lineno, a.name) for a in node.names if a.name not in SQLALCHEMY_TYPES)


def test_sql_stands_in_its_rooms_only():
    outside = [
        path
        for path in python_files(*PACKAGES)
        if not place(path).startswith((*SQL_ROOMS, "common/clock.py"))
    ]

    found = [
        f"{place(path)}:{line} imports {name} from sqlalchemy"
        for path in outside
        for line, name in imports_of_sqlalchemy(ast.parse(path.read_text(encoding="utf-8")))
    ]

    assert found == []


def statements_that_lock(path: Path) -> Iterator[tuple[ast.Call, str]]:
    """Each call of `with_for_update` with the text of the statement that it ends."""
    source = path.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "with_for_update"
        ):
            yield node, ast.get_source_segment(source, node) or ""


def test_instances_are_never_locked_for_update():
    """`FOR UPDATE` conflicts with the KEY SHARE of every insert that points at the instance; NO KEY does not.

    Who deletes an instance means just that: nothing may point at it any more.
    """
    wrong = [
        f"{place(path)}:{call.lineno}"
        for path in python_files(*PACKAGES)
        if path.parts[-2:] != ("store", "retention.py")
        for call, text in statements_that_lock(path)
        if re.search(r"\binstances\b", text)
        and not any(
            keyword.arg == "key_share"
            and isinstance(keyword.value, ast.Constant)
            and keyword.value.value is True
            for keyword in call.keywords
        )
    ]

    assert wrong == []


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """The string constants of a module that do something: docstrings and bare strings left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    bare = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in bare:
            yield node.lineno, node.value


def test_no_statement_written_as_text_locks_for_update():
    """A lock in SQL text would escape the rule above; locks are asked for through `with_for_update`."""
    found = [
        f"{place(path)}:{line}"
        for path in python_files(*PACKAGES)
        for line, text in texts(path)
        if re.search(r"(?i)\bfor\s+update\b", text)
    ]

    assert found == []


def test_the_database_clock_has_one_expression():
    found = [
        f"{place(path)}:{number}"
        for path in python_files(*PACKAGES)
        if not place(path).startswith(CLOCK_ROOMS)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(
            r"\b(clock_timestamp|transaction_timestamp|statement_timestamp|CURRENT_TIMESTAMP)\b|func\.now\(",
            line,
        )
    ]

    assert found == []


def test_handlers_of_requests_get_at_the_database_of_a_tenant_alone():
    """`services.database` sees all tenants (docs/decisions/row-level-security.md): it is for the figures of an installation."""
    found = [
        place(path)
        for path in python_files("api/routes", "api/schemas")
        if re.search(r"\b(services|tenants)\.database\b", path.read_text(encoding="utf-8"))
    ]

    assert found == ["api/routes/metrics.py"]


def is_ours(parts: tuple[str, ...]) -> bool:
    """Whether a path belongs to the repository: no cache, no environment, no local data."""
    return not any(
        part in IGNORED_FOLDERS or (part.startswith(".") and part not in HIDDEN_BUT_OURS) for part in parts
    )


def text_files() -> list[Path]:
    """Every text of the repository, `uv.lock` aside, which git ignores because it names hosts."""
    return sorted(
        path
        for path in ROOT.rglob("*")
        if is_ours(path.relative_to(ROOT).parts)
        and path.suffix in TEXT_SUFFIXES
        and path.is_file()
        and path.name != "uv.lock"
    )


# Written in pieces, so that this file does not find itself.
PLACES_OF_ONE_MACHINE = [
    "/wo" + "rk/",
    "/ro" + "ot/",
    "/ho" + "me/",
    "/opt" + "/py",
    "/opt" + "/wheels",
    "/Us" + "ers/",
]
REGISTRY_HOSTS = [
    "py" + "pi.org",
    "python" + "hosted",
    "npmjs" + ".",
    "docker" + ".io",
    "gh" + "cr.io",
    "qu" + "ay.io",
]


@pytest.mark.parametrize("words", [PLACES_OF_ONE_MACHINE, REGISTRY_HOSTS], ids=["folders", "registries"])
def test_no_file_names_one_machine_or_a_registry(words):
    found = [
        f"{place(path)} names {word!r}"
        for path in text_files()
        for text in [path.read_text(encoding="utf-8", errors="replace")]
        for word in words
        if word in text
    ]

    assert found == []
