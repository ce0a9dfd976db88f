"""Applying definitions and moving their versions about. A document is checked wholly before it becomes a row.

A version never changes; `restore` is an apply of an old version's document, which makes the next version of it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import orjson
from sqlalchemy import Connection

from common.canonical import dumps, read, size
from common.catalogue import OWN
from common.commands.activation import Activation, activate_starts, deactivate_starts, trigger_problems
from common.commands.contracts import schema_problems
from common.commands.task_options import option_problems
from common.config import Limits
from common.db.now import read_now
from common.db.tables import DefinitionStatus
from common.errors import Conflict, Invalid, LimitExceeded, NotFound
from common.ids import DefinitionId, TenantId, new_id
from common.literals import literal_problems
from common.retention import retention_text
from common.schemas import Schema, compile_schema, compile_text
from common.store import definitions as store
from common.store.definitions import Definition, DefinitionFacts, PublishedTypes
from statechart import Chart, DefinitionInvalid, Problem, check, load
from statechart.chart import AskedTask
from statechart.problems import nearest
from statechart.reading import read_definition

ENGINE_TYPES = frozenset(one.type for one in OWN)
"""Task types that the engine executes itself, and so no runner publishes."""

_DRAFT, _ACTIVE, _INACTIVE, _ARCHIVED = DefinitionStatus
_LEGAL: Mapping[str, tuple[Collection[DefinitionStatus], DefinitionStatus]] = {
    "activate": ((_DRAFT, _INACTIVE, _ACTIVE), _ACTIVE),
    "deactivate": ((_ACTIVE, _INACTIVE), _INACTIVE),
    "archive": (tuple(DefinitionStatus), _ARCHIVED),
}
"""Verb → the statuses in which it is legal, and the one that it leads to. Saying it twice does no harm."""

_LONGEST_KEY = 255
_TRIES = 5


@dataclass(frozen=True, slots=True)
class Applied:
    """A definition as it stands after an apply. `created` is False when the newest version was the same already."""

    id: DefinitionId
    key: str
    version: int
    status: DefinitionStatus
    warnings: list[dict[str, Any]]
    created: bool


@dataclass(frozen=True, slots=True)
class Compiled:
    """A document, its text, and its chart or why it has none: what takes long to find out, and needs no database."""

    document: Mapping[str, Any]
    text: str
    chart: Chart | None
    problems: Sequence[Problem]

    @classmethod
    def of(cls, document: Mapping[str, Any], text: str) -> Compiled:
        try:
            return cls(document, text, load(document), ())
        except DefinitionInvalid as invalid:
            return cls(document, text, None, invalid.problems)


def compile_definition(document: Mapping[str, Any], limits: Limits) -> Compiled:
    """Compile a document that is to be applied. Raises `LimitExceeded` for its size; errors in it are told when it is applied.

    To be called before the transaction begins: thousands of states take half a second, and on SQLite nobody else writes meanwhile.
    """
    text = document_text(document)
    require_definition_size(text, limits)
    return Compiled.of(document, text)


def apply_definition(
    tx: Connection,
    tenant_id: TenantId,
    document: Mapping[str, Any],
    *,
    activate: bool = True,
    actor: str,
    limits: Limits,
    allow_unknown_types: bool = False,
) -> Applied:
    """Compile a document and apply it, where nobody waits for the transaction. Raises as `apply_compiled` does."""
    return apply_compiled(
        tx,
        tenant_id,
        compile_definition(document, limits),
        activate=activate,
        actor=actor,
        limits=limits,
        allow_unknown_types=allow_unknown_types,
    )


def apply_compiled(
    tx: Connection,
    tenant_id: TenantId,
    compiled: Compiled,
    *,
    activate: bool = True,
    actor: str,
    limits: Limits,
    allow_unknown_types: bool = False,
) -> Applied:
    """Check a document and make it the next version of its key; an unchanged one is the version that it already is.

    The document has passed a door (`canonical.loads` or `clean`). With `activate` the version starts new instances from
    the commit on. Raises `Invalid` (`definition.invalid`) with every problem found, `LimitExceeded` for its triggers and schedules.
    """
    document = compiled.document
    published = store.read_published_types(tx, tenant_id)
    warnings = [
        problem.to_json()
        for problem in check_definition(compiled, published, allow_unknown_types=allow_unknown_types)
    ]
    key = document["id"]
    applied = _find_or_insert(tx, tenant_id, key, compiled.text, dumps(warnings), actor=actor)
    if not activate or applied.status is _ACTIVE:
        return applied
    store.activate(tx, tenant_id, key, applied.version)
    activation = Activation(applied.id, key, document)
    activate_starts(tx, tenant_id, activation, actor=actor, now=read_now(tx), limits=limits)
    return replace(applied, status=_ACTIVE)


def document_text(document: Mapping[str, Any]) -> str:
    """The text that is stored and hashed, of a document that has passed a door.

    Not sorted as canonical text is: the order of states and regions has a meaning. Integers are the door's to refuse: orjson's own bound
    ends one before ±2^53.
    """
    return orjson.dumps(document).decode()


def check_definition(
    compiled: Compiled, published: PublishedTypes, *, allow_unknown_types: bool = False
) -> list[Problem]:
    """Return the warnings of a document that may be applied. Raises `Invalid` (`definition.invalid`) for one that may not.

    Task types and functions that nobody offers refuse it, unless unknown types are allowed or no runner has ever published: then
    nothing can be known about types, and they are warnings.
    """
    problems = _problems(compiled, published, allow_unknown_types=allow_unknown_types)
    errors = [problem for problem in problems if problem.severity == "error"]
    if errors:
        some = "; ".join(str(problem) for problem in errors[:3])
        more = f"; and {len(errors) - 3} more" if len(errors) > 3 else ""
        raise Invalid(
            f"the definition has {_count(len(errors), 'error')}: {some}{more}",
            code="definition.invalid",
            problems=[problem.to_json() for problem in problems],
        )
    return problems


def require_definition_size(text: str, limits: Limits) -> None:
    """Refuse the text of a document that is larger than a definition may be, wherever one is read. Raises `LimitExceeded`."""
    allowed = limits.max_definition_bytes
    if size(text) > allowed:
        message = f"the definition is {size(text)} bytes, at most {allowed} are allowed"
        raise LimitExceeded(message, limit="max_definition_bytes", allowed=allowed)


def find_problems(
    document: Mapping[str, Any], published: PublishedTypes, *, allow_unknown_types: bool = False
) -> list[Problem]:
    """Everything that can be said against a document, errors first. Where no types are known, none is judged."""
    compiled = Compiled.of(document, document_text(document))
    return _problems(compiled, published, allow_unknown_types=allow_unknown_types)


def _problems(compiled: Compiled, published: PublishedTypes, *, allow_unknown_types: bool) -> list[Problem]:
    found = [*_key_problems(compiled.document), *_chart_problems(compiled, published)]
    problems = sorted(found, key=lambda problem: problem.severity)
    if allow_unknown_types or not published.types:
        return [_as_warning(problem) for problem in problems]
    return problems


def _chart_problems(compiled: Compiled, published: PublishedTypes) -> Iterator[Problem]:
    document, chart = compiled.document, compiled.chart
    if chart is None:
        yield from compiled.problems
        if read_definition(document)[0] is not None:
            yield from _problems_beside(document)
        return
    known = None if published.types is None else published.types | ENGINE_TYPES
    yield from check(chart, task_types=known, workflows=published.workflows)
    if known is not None and "SYSTEM" in known:
        yield from _unknown_functions(chart, published.functions)
    yield from _problems_beside(document)
    yield from _input_problems(chart, published)


def _problems_beside(document: Mapping[str, Any]) -> Iterator[Problem]:
    """What can be said of the parts of a well-formed document that no chart is made of."""
    yield from trigger_problems(document)
    yield from schema_problems(document)
    yield from option_problems(document)


_MAX_INPUT_PROBLEMS = 50
_OWN_SCHEMAS = {
    one.type: compile_schema(dict(one.input_schema), trusted=True)
    for one in OWN
    if one.input_schema
    and one.type not in ("MAP", "POLL", "WORKFLOW")  # these the kernel has looked at, more closely
}


def _input_problems(chart: Chart, published: PublishedTypes) -> Iterator[Problem]:
    """What the schemas of task types say of the inputs that the document writes, as far as these are literals."""
    told = 0
    for asked in chart.asked:
        schema = _schema_of(asked, published.inputs)
        for problem in () if schema is None else literal_problems(schema, asked.input, asked.at):
            yield problem
            told += 1
            if told >= _MAX_INPUT_PROBLEMS:
                return


def _schema_of(asked: AskedTask, published: Mapping[tuple[str, str], str]) -> Schema | None:
    own = _OWN_SCHEMAS.get(asked.type)
    if own is not None:
        return own
    text = published.get((asked.type, (asked.name or "") if asked.type == "SYSTEM" else ""))
    try:
        return None if text is None else compile_text(text, trusted=True)
    except Invalid:  # published by a version of the handler that another library accepted; its runner says so
        return None


def _unknown_functions(chart: Chart, functions: Collection[str]) -> Iterator[Problem]:
    """A SYSTEM task calls the function of its name; nobody claims one of a name that no runner has registered."""
    names = {use.at: use.name for use in chart.uses if use.kind == "task_name"}
    for use in chart.uses:
        name = names.get(use.at)
        if use.kind == "task_type" and use.name == "SYSTEM" and name is not None and name not in functions:
            message = (
                f"unknown function {name!r}: no runner has registered it for SYSTEM tasks; start one that has its module "
                "in SIGNALBOX_HANDLERS"
            )
            yield Problem("error", "task.unknown_function", use.at, message, nearest(name, functions))


_ABOUT_TYPES = frozenset({"task.unknown_type", "task.unknown_function"})


def _as_warning(problem: Problem) -> Problem:
    return replace(problem, severity="warning") if problem.code in _ABOUT_TYPES else problem


def _key_problems(document: Mapping[str, Any]) -> Sequence[Problem]:
    """The id is the definition's key: part of addresses, and the name by which it is started."""
    key = document.get("id")
    if key is None:
        return [
            Problem("error", "id.missing", "id", "expected an id, which is the definition's key, found none")
        ]
    if not isinstance(key, str):
        return []  # the shape is the kernel's to judge
    is_name = 0 < len(key) <= _LONGEST_KEY and key.isprintable() and key == key.strip() and "/" not in key
    if is_name:
        return []
    wanted = f'expected 1 to {_LONGEST_KEY} printable characters without "/", found {key[:80]!r}'
    return [Problem("error", "id.invalid", "id", wanted)]


def _find_or_insert(
    tx: Connection, tenant_id: TenantId, key: str, text: str, warnings: str, *, actor: str
) -> Applied:
    checksum = sha256(text.encode()).hexdigest()
    now = read_now(tx)
    for _ in range(_TRIES):
        store.lock_key(tx, tenant_id, key)
        newest = store.find_newest(tx, tenant_id, key)
        if newest is not None and _is_same(newest.facts, checksum):
            facts = newest.facts
            return Applied(facts.id, key, facts.version, facts.status, read(facts.warnings), created=False)
        definition_id = DefinitionId(new_id())
        version = 1 if newest is None else newest.facts.version + 1
        is_ours = store.insert_version(
            tx,
            tenant_id,
            definition_id=definition_id,
            key=key,
            version=version,
            document=text,
            checksum=checksum,
            warnings=warnings,
            retention=retention_text(read(text)),
            created_by=actor,
            now=now,
        )
        if is_ours:
            return Applied(definition_id, key, version, _DRAFT, read(warnings), created=True)
        # A new key has no row to lock, so two first versions can meet: the other one's is there now.
    raise Conflict(f'definition "{key}" is being applied by others; try again', code="definition.busy")


def _is_same(facts: DefinitionFacts, checksum: str) -> bool:
    """An archived version was put away on purpose: the same document again makes a new one."""
    return facts.checksum == checksum and facts.status is not _ARCHIVED


# -- verbs --------------------------------------------------------------------------------------------------------


def activate_definition(
    tx: Connection, tenant_id: TenantId, key: str, version: int, *, actor: str, limits: Limits
) -> Definition:
    """Let this version start new instances, in place of the one that does. Running instances stay on theirs.

    Its triggers and schedules take the place of those of the other version.
    """
    return _move(tx, tenant_id, key, version, "activate", actor, limits)


def deactivate_definition(
    tx: Connection, tenant_id: TenantId, key: str, version: int, *, actor: str, limits: Limits
) -> Definition:
    """Start no new instances of this version, also not by its triggers and schedules; those that run go on."""
    return _move(tx, tenant_id, key, version, "deactivate", actor, limits)


def archive_definition(
    tx: Connection, tenant_id: TenantId, key: str, version: int, *, actor: str, limits: Limits
) -> Definition:
    """Put a version away for good: it cannot be activated again, only restored as a new one."""
    return _move(tx, tenant_id, key, version, "archive", actor, limits)


def restore_definition(
    tx: Connection,
    tenant_id: TenantId,
    key: str,
    version: int,
    *,
    activate: bool = True,
    actor: str,
    limits: Limits,
) -> Applied:
    """Apply an old version's document again, as the next version; nothing is deleted and no version changes."""
    old = _found(store.find_version(tx, tenant_id, key, version), key, version)
    # It was accepted with these types once; that no runner offers one of them today is worth a warning.
    return apply_definition(
        tx,
        tenant_id,
        read(old.document),
        activate=activate,
        actor=actor,
        limits=limits,
        allow_unknown_types=True,
    )


def _move(
    tx: Connection, tenant_id: TenantId, key: str, version: int, verb: str, actor: str, limits: Limits
) -> Definition:
    store.lock_key(tx, tenant_id, key)
    found = _found(store.find_version(tx, tenant_id, key, version), key, version)
    sources, target = _LEGAL[verb]
    status = found.facts.status
    if status not in sources:
        hint = "; restore it as a new version" if status is _ARCHIVED else ""
        raise Conflict(
            f'cannot {verb} version {version} of "{key}": it is {status.value}{hint}',
            code="definition.illegal_verb",
        )
    now = read_now(tx)
    if target is _ACTIVE:
        store.activate(tx, tenant_id, key, version)
        activation = Activation(found.facts.id, key, read(found.document))
        activate_starts(tx, tenant_id, activation, actor=actor, now=now, limits=limits)
    else:
        store.set_status(tx, tenant_id, key, version, target)
        if status is _ACTIVE:
            deactivate_starts(tx, tenant_id, key, actor=actor, now=now)
    return replace(found, facts=replace(found.facts, status=target))


def _found(definition: Definition | None, key: str, version: int) -> Definition:
    if definition is None:
        raise NotFound(f'there is no version {version} of a definition "{key}"', code="definition.not_found")
    return definition


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
