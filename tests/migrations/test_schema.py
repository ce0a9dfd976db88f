"""Migrations: one line of versions, each of them upgradable, and at its end exactly the tables of the code.

Alembic's `compare_metadata` judges drift in tables, columns and keys. It is blind to CHECK constraints,
defaults and the predicates of partial indexes, therefore a second test makes the tables straight from
the code and compares the two databases by what they tell about themselves.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Column, Connection, inspect, text

import migrations
from common.db import Database
from common.db.migrate import upgrade
from common.db.schema import current_version, head_version, require_schema
from common.db.schema import versions as known_versions
from common.db.tables import metadata
from common.errors import Misconfigured

# PostgreSQL's 8-byte transaction id is unknown to SQLAlchemy's reflection; it comes back as NullType.
pytestmark = pytest.mark.filterwarnings("ignore:Did not recognize type 'xid8'")


def scripts() -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", migrations.__path__[0])
    config.set_main_option("path_separator", "os")
    return ScriptDirectory.from_config(config)


def versions() -> list[str]:
    """Every version, oldest first."""
    return [script.revision for script in scripts().walk_revisions()][::-1]


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database(request, tmp_path):
    """An open database without any table, on each of the two."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/empty.db"
    else:
        url = request.getfixturevalue("empty_postgres_url")
    database = Database.open(url)
    yield database
    database.dispose()


@pytest.fixture
def made_from_code(empty_database, postgres, tmp_path):
    """A second database of the same kind, its tables made by `tables.py` and no migration."""
    name = None if empty_database.is_sqlite else postgres.create_database()
    database = Database.open(postgres.url(name) if name else f"sqlite:///{tmp_path}/made.db")
    with database.transaction() as tx:
        metadata.create_all(tx)
    yield database
    database.dispose()
    if name:
        postgres.drop_database(name)


def drift(database: Database) -> list[object]:
    """What Alembic would still change to make the database look like `tables.py`."""

    def is_comparable(thing: object, name: str | None, kind: str, _reflected: bool, _other: object) -> bool:
        # Alembic reads an index over an expression back from SQLite as one over plain columns; such
        # an index is compared by its own text in the second test.
        return not (database.is_sqlite and kind == "index" and name in INDEXES_OVER_EXPRESSIONS)

    with database.reading() as tx:
        options = {"compare_type": True, "render_as_batch": True, "include_object": is_comparable}
        return list(compare_metadata(MigrationContext.configure(tx, opts=options), metadata))


INDEXES_OVER_EXPRESSIONS = {
    index.name
    for table in metadata.tables.values()
    for index in table.indexes
    if not all(isinstance(expression, Column) for expression in index.expressions)
}

INDEX_TEXTS = {
    "sqlite": "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name = :table AND sql IS NOT NULL",
    "postgresql": "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = :table",
}


def schema(database: Database) -> dict[str, dict[str, object]]:
    """Every table as the database itself describes it, in its own normal form."""
    with database.reading() as tx:
        catalogue = inspect(tx)
        return {
            table: {
                "columns": sorted(
                    (c["name"], str(c["type"]), c["nullable"], c["default"])
                    for c in catalogue.get_columns(table)
                ),
                "primary key": catalogue.get_pk_constraint(table)["constrained_columns"],
                "indexes": index_texts(tx, table),
                "unique": by_name(catalogue.get_unique_constraints(table)),
                "checks": by_name(catalogue.get_check_constraints(table)),
                "foreign keys": by_name(catalogue.get_foreign_keys(table)),
            }
            for table in sorted(set(catalogue.get_table_names()) - {"alembic_version"})
        }


def index_texts(tx: Connection, table: str) -> dict[str, str]:
    """The indexes of a table as statements, predicates and directions included."""
    rows = tx.execute(text(INDEX_TEXTS[tx.dialect.name]), {"table": table})
    return {name: " ".join(statement.split()) for name, statement in rows}


def by_name(things: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Constraints as comparable text, under their names."""
    return {
        str(thing["name"]): str({k: v for k, v in thing.items() if k != "dialect_options"})
        for thing in things
    }


def test_the_versions_form_one_line():
    assert len(scripts().get_heads()) == 1
    assert len(scripts().get_bases()) == 1


def test_processes_know_the_versions_that_alembic_has() -> None:
    assert list(known_versions()) == versions()
    assert head_version() == scripts().get_current_head()


def test_the_upgraded_schema_is_the_one_in_the_code(empty_database):
    upgrade(empty_database)

    assert drift(empty_database) == []


def test_constraints_defaults_and_predicates_are_the_ones_in_the_code(empty_database, made_from_code):
    upgrade(empty_database)

    upgraded, made = schema(empty_database), schema(made_from_code)

    assert upgraded.keys() == made.keys()
    assert [
        f"{table}, {part}: the migrations give {upgraded[table][part]}, the code says {made[table][part]}"
        for table in made
        for part in made[table]
        if upgraded[table][part] != made[table][part]
    ] == []


def test_an_upgrade_of_the_newest_schema_changes_nothing(empty_database):
    upgrade(empty_database)
    before = schema(empty_database)

    assert upgrade(empty_database) == (head_version(), head_version())
    assert schema(empty_database) == before


@pytest.mark.parametrize("version", versions())
def test_every_earlier_version_upgrades_to_the_same_schema(empty_database, version):
    upgrade(empty_database, version)
    assert current_version(empty_database) == version

    upgrade(empty_database)

    assert current_version(empty_database) == head_version()
    assert drift(empty_database) == []


def test_code_refuses_a_database_without_a_schema_and_names_the_cure(empty_database):
    with pytest.raises(Misconfigured, match="signalbox db upgrade"):
        require_schema(empty_database)


def set_version(database: Database, version: str) -> None:
    with database.transaction() as tx:
        tx.execute(text("UPDATE alembic_version SET version_num = :version"), {"version": version})


def test_a_schema_of_newer_code_is_left_as_it_is_and_accepted(empty_database):
    """Code that is taken back starts with `signalbox db upgrade`, too."""
    upgrade(empty_database)
    set_version(empty_database, "9999")

    assert upgrade(empty_database) == ("9999", "9999")
    require_schema(empty_database)


def test_a_database_of_another_program_is_told(empty_database):
    upgrade(empty_database)
    set_version(empty_database, "ae1027a6acf")

    for ask in (upgrade, require_schema):
        with pytest.raises(Misconfigured, match='"ae1027a6acf", which is no version of Signalbox'):
            ask(empty_database)
    assert current_version(empty_database) == "ae1027a6acf"


def test_both_databases_have_the_same_tables_and_columns(empty_postgres_url, tmp_path):
    names = []
    for url in (f"sqlite:///{tmp_path}/a.db", empty_postgres_url):
        database = Database.open(url)
        upgrade(database)
        with database.reading() as tx:
            catalogue = inspect(tx)
            names.append(
                {t: sorted(c["name"] for c in catalogue.get_columns(t)) for t in catalogue.get_table_names()}
            )
        database.dispose()

    assert names[0] == names[1]
