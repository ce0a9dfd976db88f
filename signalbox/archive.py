"""Export and import of instances: JSON lines, one instance a line with everything that belongs to it.

    {"kind": "signalbox.export", "format": 1, "tenant": {id, name}, "kernel", "schema", "createdAt"}
    {"kind": "definition", "key", "version", "checksum", "document", …}       before the first instance that runs on it
    {"kind": "instance", "id", "definition": {key, version, checksum}, "rows": {table: [row, …]}}
    {"kind": "end", "definitions": n, "instances": n, "sha256": of all lines before it}

A chain names its tenant, so a file can only be imported where the tenant has the same id; where there is none of that id,
the import makes it. Ids, hashes and times stay what they were, and each instance is verified before it is committed. The
SHA-256 of the end finds accidents, it is no signature: whoever changes a file can write another; who changes a history
cannot, as long as its last hash is known elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import orjson
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from common.clock import instant_text
from common.commands.doctor import check_obligations
from common.commands.limits import asked_again, declare
from common.commands.verify import verify_instance
from common.config import Limits
from common.db import Database, is_trouble
from common.db.now import read_now
from common.db.tables import DefinitionStatus, InboxType, IncidentStatus, incidents, tasks, timers
from common.decision import NOT_RUN_BY_A_RUNNER
from common.errors import Conflict, Invalid, LimitExceeded, NotFound, SignalboxError
from common.ids import TenantId, is_id, new_id
from common.lifecycle import FINAL, InstanceStatus, TaskStatus
from common.store import archive, definitions, instances, keys, listing, overview
from common.store.invariants import read_obligations_of
from common.store.listing import InstanceFilter
from statechart import KERNEL

FORMAT = 1
MAX_NAME = 200
MAX_LINE = 256 * 1024 * 1024
PAGE = 500
REFUSALS_KEPT = 1_000
CARRIED = (*FINAL, InstanceStatus.PAUSED, InstanceStatus.FAILED)
"""Statuses in which an instance can be imported: nothing moves it, here or where it came from."""

Line = bytes


# -- export ---------------------------------------------------------------------------------------------------------


@dataclass
class Exported:
    """How far an export is. `live` were neither finished nor frozen: they are in the file, and no import takes them."""

    definitions: int = 0
    instances: int = 0
    live: list[str] = field(default_factory=list)


def export_lines(
    database: Database, tenant_id: TenantId, wanted: InstanceFilter, *, schema: str | None, done: Exported
) -> Iterator[Line]:
    """The lines of an export, oldest instance first, so that parents come before their children.

    Each instance is read at one instant; memory is bounded by the largest of them. `done` is filled on the way.
    """
    digest = sha256()
    told: set[tuple[str, int]] = set()

    def line(body: Mapping[str, Any]) -> Line:
        written = orjson.dumps(body, option=orjson.OPT_APPEND_NEWLINE)
        digest.update(written)
        return written

    yield line(_header(database, tenant_id, schema))
    for instance_id in _ids(database, tenant_id, wanted):
        with database.reading() as tx:
            overview.hold_still(tx)
            rows = archive.read_all(tx, tenant_id, instance_id)
            if rows is None:
                continue  # deleted since it was listed
            [row] = rows["instances"]
            key, version = row["definition_key"], row["definition_version"]
            definition = archive.read_definition(tx, tenant_id, key, version)
            is_moving = row["status"] not in CARRIED or archive.has_leases(tx, instance_id)
        if definition is None:
            raise NotFound(f'no definition "{key}" version {version}', code="definition.not_found")
        if (key, version) not in told:
            told.add((key, version))
            done.definitions += 1
            yield line({"kind": "definition", **definition})
        done.instances += 1
        if is_moving:
            done.live.append(instance_id)
        reference = {"key": key, "version": version, "checksum": definition["checksum"]}
        yield line({"kind": "instance", "id": instance_id, "definition": reference, "rows": rows})
    end = {"kind": "end", "definitions": done.definitions, "instances": done.instances}
    yield orjson.dumps({**end, "sha256": digest.hexdigest()}, option=orjson.OPT_APPEND_NEWLINE)


def _header(database: Database, tenant_id: TenantId, schema: str | None) -> dict[str, Any]:
    with database.reading() as tx:
        tenant = {"id": tenant_id, "name": archive.find_tenant_name(tx, tenant_id)}
        created_at = instant_text(read_now(tx))
    head = {"kind": "signalbox.export", "format": FORMAT, "tenant": tenant}
    return {**head, "kernel": KERNEL, "schema": schema, "createdAt": created_at}


def _ids(database: Database, tenant_id: TenantId, wanted: InstanceFilter) -> Iterator[str]:
    after: str | None = None
    while True:
        with database.reading() as tx:
            page = listing.page_ids(tx, tenant_id, wanted, after=after, limit=PAGE)
        yield from page
        if len(page) < PAGE:
            return
        after = page[-1]


# -- import ---------------------------------------------------------------------------------------------------------


@dataclass
class Imported:
    """What became of a file's lines. `refused` keeps the first 1,000 of `refusals`."""

    tenant_id: str | None = None
    definitions: int = 0
    instances: int = 0
    skipped: int = 0
    refusals: int = 0
    refused: list[dict[str, str]] = field(default_factory=list)

    def refuse(self, what: str, error: SignalboxError) -> None:
        self.refusals += 1
        if len(self.refused) < REFUSALS_KEPT:
            self.refused.append({"id": what, "code": error.code, "message": error.message})


def check_lines(lines: Iterator[Line]) -> None:
    """Read a file to its end without importing anything. Raises `Invalid` (`import.torn`) where it is not whole."""
    digest, counts = sha256(), {"definition": 0, "instance": 0}
    for number, line in enumerate(lines, start=1):
        body = _read_line(line, number)
        if body["kind"] == "end":
            told = (body.get("definitions"), body.get("instances"), body.get("sha256"))
            if told != (counts["definition"], counts["instance"], digest.hexdigest()):
                raise _torn("its end does not fit what comes before it")
            if next(lines, None) is not None:
                raise _torn("something follows its end")
            return
        counts[body["kind"]] = counts.get(body["kind"], 0) + 1
        digest.update(line)
    raise _torn("it has no end")


def _torn(why: str) -> Invalid:
    return Invalid(f"the file is not whole: {why}; nothing was imported from it", code="import.torn")


def import_lines(
    database: Database, lines: Iterator[Line], *, tenant: str | None, limits: Limits, done: Imported
) -> None:
    """Import what `export_lines` wrote: each instance in a transaction of its own, verified before the commit.

    An instance that is there already, with the same last hash, is skipped, so an import that was broken off can be said
    again. Others are refused one by one, in `done`. `tenant`: the name of the tenant that is made where there is none of
    the file's id. Raises `Invalid` (`import.header`, `import.line`) and `Conflict` (`import.tenant`) for the file.
    """
    header = _read_line(next(lines, b""), 1)
    tenant_id = _tenant_of(database, header, tenant)
    done.tenant_id = tenant_id
    for number, line in enumerate(lines, start=2):
        body = _read_line(line, number)
        match body["kind"]:
            case "definition":
                what = f"{body.get('key')} version {body.get('version')}"
                _try(
                    database, done, what, lambda tx, body=body: _definition(tx, tenant_id, body, limits, done)
                )
            case "instance":
                what = str(body.get("id"))
                _try(database, done, what, lambda tx, body=body: _instance(tx, tenant_id, body, done))
            case "end":
                return
            case other:
                raise Invalid(f'line {number}: unknown kind "{str(other)[:80]}"', code="import.line")
    raise _torn("it has no end")


def _read_line(line: Line, number: int) -> dict[str, Any]:
    if len(line) > MAX_LINE:
        raise LimitExceeded(f"line {number} is too long", limit="import_line_bytes", allowed=MAX_LINE)
    try:
        body = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise Invalid(f"line {number} is not JSON: {error}", code="import.line") from error
    if not isinstance(body, dict) or not isinstance(body.get("kind"), str):
        raise Invalid(f'line {number}: expected an object with a "kind"', code="import.line")
    return body


def _tenant_of(database: Database, header: Mapping[str, Any], wanted: str | None) -> TenantId:
    tenant = header.get("tenant")
    if header["kind"] != "signalbox.export" or header.get("format") != FORMAT or not isinstance(tenant, dict):
        raise Invalid(f"expected an export of format {FORMAT}, found another file", code="import.header")
    tenant_id, name = str(tenant.get("id")), wanted or tenant.get("name")
    if not is_id(tenant_id) or not isinstance(name, str) or not 0 < len(name) <= MAX_NAME:
        raise Invalid("the header names no tenant", code="import.header")

    def find_or_make(tx: Connection) -> None:
        found = archive.find_tenant_name(tx, tenant_id)
        if found is not None and wanted is not None and found != wanted:
            raise Conflict(
                f'the tenant of this file is "{found}" here, not "{wanted}"; a history verifies under its own tenant only',
                code="import.tenant",
            )
        if found is not None:
            return
        if keys.find_tenant(tx, name) is not None:
            raise Conflict(
                f'"{name}" is another tenant here; the file\'s can be made under a new name: --tenant NAME',
                code="import.tenant",
            )
        archive.insert_tenant(tx, tenant_id, name)

    database.run(find_or_make)
    return TenantId(tenant_id)


def _try(database: Database, done: Imported, what: str, use_case: Any) -> None:
    try:
        database.run(use_case)
    except SignalboxError as error:
        done.refuse(what[:200], error)
    except DBAPIError as error:
        if is_trouble(error):
            raise
        why = str(error.orig).strip().splitlines()[0][:300]
        done.refuse(what[:200], Conflict(f"the database refuses it: {why}", code="import.refused"))


def _definition(
    tx: Connection, tenant_id: TenantId, body: Mapping[str, Any], limits: Limits, done: Imported
) -> None:
    """Insert a version that is not there, inactive: what may start new instances is decided by hand."""
    key, version, document = body.get("key"), body.get("version"), body.get("document")
    if not (
        isinstance(key, str) and type(version) is int and 0 < version < 2**31 and isinstance(document, str)
    ):
        raise Invalid("a definition without key, version and document", code="import.row")
    if len(document.encode()) > limits.max_definition_bytes:
        allowed = limits.max_definition_bytes
        raise LimitExceeded(
            f"a definition may have {allowed} bytes", limit="max_definition_bytes", allowed=allowed
        )
    checksum = sha256(document.encode()).hexdigest()
    known = definitions.find_facts(tx, tenant_id, key, version=version)
    if checksum != body.get("checksum"):
        raise Invalid(
            f'"{key}" version {version}: the document is not that of its checksum', code="import.definition"
        )
    if known is not None:
        if known.checksum != checksum:
            raise Conflict(f'"{key}" version {version} is another document here', code="import.definition")
        return
    try:
        parsed = orjson.loads(document)
        orjson.loads(body.get("warnings") or "[]")
        retention = body.get("retention")
        if not isinstance(parsed, dict) or parsed.get("id") != key or not isinstance(retention, str | None):
            raise TypeError
        orjson.loads(retention or "null")
    except (orjson.JSONDecodeError, TypeError) as error:
        raise Invalid(
            f'"{key}" version {version}: not a definition of this key', code="import.definition"
        ) from error
    definitions.insert_version(
        tx,
        tenant_id,
        definition_id=new_id(),
        key=key,
        version=version,
        document=document,
        checksum=checksum,
        warnings=body.get("warnings") or "[]",
        retention=retention,
        created_by=str(body.get("created_by"))[:200],
        now=read_now(tx),
    )
    definitions.set_status(tx, tenant_id, key, version, DefinitionStatus.INACTIVE)
    done.definitions += 1


def _instance(tx: Connection, tenant_id: TenantId, body: Mapping[str, Any], done: Imported) -> None:
    rows = _rows(body)
    instance_id, [row] = body["id"], rows["instances"]
    there = archive.find_head(tx, tenant_id, instance_id)
    if there == (row["sequence"], row["head_hash"]):
        done.skipped += 1
        return
    if there is not None:
        raise Conflict("an instance of this id is here, and its history is another one", code="import.exists")
    if archive.was_deleted(tx, tenant_id, instance_id):
        raise Conflict("it was deleted here, when its time of keeping was over", code="import.deleted")
    parent_id = row["parent_id"]
    if parent_id is not None and not instances.existing(tx, tenant_id, [parent_id]):
        raise Conflict(f"its parent {parent_id} is not here; import that one first", code="import.parent")
    facts = _definition_of(tx, tenant_id, body, row)
    archive.write_all(tx, tenant_id, facts.id, rows)
    verdict = verify_instance(tx, tenant_id, instance_id)
    if not verdict["valid"]:
        said = "; ".join(problem["message"] for problem in verdict["problems"][:3])
        raise Invalid(f"its history does not verify: {said}", code="import.invalid")
    _require_whole(tx, instance_id, rows)
    # Limits are no part of an instance: those that its open tasks ask for stand here once they are.
    declare(tx, {}, again=asked_again(tx, sorted(one["id"] for one in rows[tasks.name])), now=read_now(tx))
    done.instances += 1


def _require_whole(tx: Connection, instance_id: str, rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Raise `Invalid` (`import.invalid`) for an instance that verifies, and whose other rows are not what it needs to go on."""
    [one] = read_obligations_of(tx, instance_id)
    try:
        # Its children come behind it in the file.
        lacking = [found.message for found in check_obligations(one) if not found.code.startswith("child.")]
    except (AttributeError, KeyError, TypeError):
        lacking = ["a row of its inbox is none that the engine writes"]
    if one.status is InstanceStatus.FAILED and not any(
        incident["status"] == IncidentStatus.OPEN for incident in rows[incidents.name]
    ):
        lacking.append("it has failed, and no incident of it is open")
    if lacking:
        raise Invalid(
            f"its rows do not agree with its history: {'; '.join(lacking[:3])}", code="import.invalid"
        )


def _rows(body: Mapping[str, Any]) -> dict[str, Sequence[dict[str, Any]]]:
    """The rows of a line, each of its column's type, and all of this one instance."""
    instance_id, told = body.get("id"), body.get("rows")
    names = {table.name for table in archive.TABLES}
    if (
        not isinstance(instance_id, str)
        or not is_id(instance_id)
        or not isinstance(told, dict)
        or told.keys() != names
    ):
        raise Invalid(f"expected an id, and rows of exactly {', '.join(sorted(names))}", code="import.row")
    rows: dict[str, Sequence[dict[str, Any]]] = {}
    for table in archive.TABLES:
        found = told[table.name]
        if not isinstance(found, list):
            raise Invalid(f"{table.name}: expected a list of rows", code="import.row")
        rows[table.name] = [archive.decode(table, one, f"{table.name}[{at}]") for at, one in enumerate(found)]
    mine = {one["id"] for one in rows[tasks.name]}
    owners = {one["id"] for one in rows["instances"]}
    for name, found in rows.items():
        for one in found:
            owners.add(one.get("instance_id", instance_id))
            task_id = one.get("task_id")
            if task_id is not None and task_id not in mine:
                raise Invalid(f"{name}: a row of another instance's task", code="import.row")
    if owners != {instance_id} or len(rows["instances"]) != 1:
        raise Invalid("rows of another instance are among them", code="import.row")
    for one in rows[timers.name]:
        if one["inbox_type"] not in list(InboxType):
            found_type = one["inbox_type"][:80]
            raise Invalid(
                f'{timers.name}: expected inbox_type to be one of {", ".join(InboxType)}, found "{found_type}"',
                code="import.row",
            )
    status = rows["instances"][0]["status"]
    if status not in CARRIED:
        raise Conflict(f"it was {status} when it was exported; pause it first", code="import.live")
    if any(
        one["status"] == TaskStatus.RUNNING and one["type"] not in NOT_RUN_BY_A_RUNNER
        for one in rows[tasks.name]
    ):
        raise Conflict("a runner was at work on it when it was exported; export it again", code="import.live")
    return rows


def _definition_of(
    tx: Connection, tenant_id: TenantId, body: Mapping[str, Any], row: Mapping[str, Any]
) -> Any:
    key, version = row["definition_key"], row["definition_version"]
    reference = body.get("definition")
    facts = definitions.find_facts(tx, tenant_id, key, version=version)
    checksum = reference.get("checksum") if isinstance(reference, dict) else None
    if facts is None or facts.checksum != checksum:
        raise Conflict(f'"{key}" version {version} of its checksum is not here', code="import.definition")
    return facts
