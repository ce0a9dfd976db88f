"""Column types and SQL constructs that mean the same on PostgreSQL and SQLite."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import orjson
from sqlalchemy import JSON, BigInteger, ColumnElement, Integer, LargeBinary, String, Text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, UUID
from sqlalchemy.dialects.sqlite.base import SQLiteCompiler
from sqlalchemy.engine import Dialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import FunctionElement, bindparam
from sqlalchemy.types import Boolean, TypeDecorator, TypeEngine, UserDefinedType

from common.clock import UtcDateTime

__all__ = [
    "BigId",
    "BigIdList",
    "CanonicalText",
    "Digest",
    "Id",
    "IdList",
    "JsonList",
    "Labels",
    "TextList",
    "TransactionId",
    "UtcDateTime",
    "among",
    "current_transaction",
    "say_flags_bare",
]


class Id(TypeDecorator[str]):
    """A UUID as text in Python: `uuid` on PostgreSQL, 36 characters on SQLite."""

    impl = String(36)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(UUID(as_uuid=False) if dialect.name == "postgresql" else String(36))


class CanonicalText(TypeDecorator[str]):
    """JSON kept as the very text that was hashed; never parsed by the database."""

    impl = Text
    cache_ok = True


class Labels(TypeDecorator[dict[str, str]]):
    """The one JSON column that is searched: `jsonb` on PostgreSQL."""

    impl = JSON
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(JSONB() if dialect.name == "postgresql" else JSON())


class JsonList(TypeDecorator[list[str]]):
    """A list of texts that is searched: `jsonb` on PostgreSQL."""

    impl = JSON
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(
            JSONB(none_as_null=True) if dialect.name == "postgresql" else JSON(none_as_null=True)
        )


class Digest(TypeDecorator[bytes]):
    """32 bytes of SHA-256 (or a salt)."""

    impl = LargeBinary
    cache_ok = True


BigId = BigInteger().with_variant(Integer(), "sqlite")
"""An identity column's type: SQLite numbers rows only in a column declared INTEGER."""


class _Xid8(UserDefinedType[str]):
    cache_ok = True

    def get_col_spec(self, **_kw: Any) -> str:
        return "xid8"


class TransactionId(TypeDecorator[Any]):
    """The writing transaction, for readers across instances: `xid8` on PostgreSQL, an integer on SQLite."""

    impl = BigInteger
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(_Xid8() if dialect.name == "postgresql" else Integer())


class current_transaction(FunctionElement[Any]):  # noqa: N801 - reads as the SQL function that it is
    """The writing transaction's id; 0 on SQLite, whose single writer needs no such order."""

    type = TransactionId()
    inherit_cache = True


@compiles(current_transaction, "postgresql")
def _postgresql_transaction(_element: Any, _compiler: Any, **_kw: Any) -> str:
    return "pg_current_xact_id()"


@compiles(current_transaction, "sqlite")
def _sqlite_transaction(_element: Any, _compiler: Any, **_kw: Any) -> str:
    return "0"


class _List(TypeDecorator[Sequence[str]]):
    """A bound list of texts: an array on PostgreSQL, a JSON array on SQLite; one statement for every length."""

    impl = Text
    cache_ok = True
    element: TypeEngine[Any] = Text()

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(ARRAY(self.element) if dialect.name == "postgresql" else Text())

    def process_bind_param(self, value: Iterable[Any] | None, dialect: Dialect) -> Any:
        if value is None:
            return None
        return list(value) if dialect.name == "postgresql" else orjson.dumps(list(value)).decode()


class IdList(_List):
    cache_ok = True
    element = UUID(as_uuid=False)


class TextList(_List):
    cache_ok = True
    element = Text()


class BigIdList(_List):
    cache_ok = True
    element = BigInteger()


class among(FunctionElement[bool]):  # noqa: N801 - reads as the SQL operator that it is
    """`column = ANY(list)`: unlike IN, one compiled statement whatever the length, so it stays prepared."""

    type = Boolean()
    inherit_cache = True
    _is_implicitly_boolean = True  # else SQLite is asked for `(… IN …) = 1`, and finds no index for it

    def __init__(
        self, column: ColumnElement[Any], name: str, kind: Literal["id", "text", "big"] = "id"
    ) -> None:
        listing: TypeDecorator[Any] = {"id": IdList, "text": TextList, "big": BigIdList}[kind]()
        super().__init__(column, bindparam(name, type_=listing))


@compiles(among, "postgresql")
def _postgresql_among(element: Any, compiler: Any, **kw: Any) -> str:
    column, listing = list(element.clauses)
    return f"{compiler.process(column, **kw)} = ANY({compiler.process(listing, **kw)})"


@compiles(among, "sqlite")
def _sqlite_among(element: Any, compiler: Any, **kw: Any) -> str:
    column, listing = list(element.clauses)
    return f"{compiler.process(column, **kw)} IN (SELECT value FROM json_each({compiler.process(listing, **kw)}))"


class _FlagsBare(SQLiteCompiler):
    """Says `column` and `NOT column` to SQLite, where SQLAlchemy says `column = 1` and `= 0`: by those no planner finds a partial index."""

    def visit_is_true_unary_operator(self, element: Any, operator: Any, **kw: Any) -> str:  # noqa: ARG002
        return self.process(element.element, **kw)

    def visit_is_false_unary_operator(self, element: Any, operator: Any, **kw: Any) -> str:  # noqa: ARG002
        return f"(NOT {self.process(element.element, **kw)})"


def say_flags_bare(dialect: Dialect) -> None:
    """Have a SQLite dialect say conditions on flags as the predicates of indexes do."""
    dialect.statement_compiler = _FlagsBare
