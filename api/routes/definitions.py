"""Definitions: apply, read, move versions about, check, simulate, draw."""

from __future__ import annotations

import re
from base64 import b64encode
from datetime import timedelta
from functools import lru_cache
from hashlib import sha256
from itertools import groupby, islice
from typing import Any

from api.auth import Permission
from api.operations import Answer, Call, Routes, Shape
from api.pages import Paging
from api.reading import missing
from api.schemas.answers import (
    CheckReport,
    Definition,
    DefinitionDiff,
    DefinitionPage,
    DefinitionStatistics,
    Simulation,
    VersionPage,
)
from api.schemas.queries import DefinitionListQuery, DiagramQuery, DiffQuery, PageQuery, StatisticsQuery
from api.schemas.requests import ApplyBody, CheckBody, EmptyBody, RestoreBody, SimulateBody
from api.shapes import (
    current_definition_json,
    definition_json,
    definition_summary,
    figures_json,
    instant,
    task_figures_json,
)
from api.simulation import simulate_within
from common.canonical import read
from common.commands import definitions as commands
from common.config import Limits
from common.db.now import read_now
from common.errors import NotFound
from common.kept import Kept
from common.store import definitions as store
from common.store import statistics
from common.store.overview import hold_still
from statechart import Chart, diagram, json_schema, load
from statechart.differences import differences

routes = Routes("definitions")

EXAMPLE_DOCUMENT: dict[str, Any] = {
    "id": "greeting",
    "initial": "waiting",
    "states": {"waiting": {"on": {"GREET": "greeted"}}, "greeted": {"type": "final"}},
}


def _compile(body: ApplyBody, limits: Limits) -> commands.Compiled:
    return commands.compile_definition(body.document, limits)


@routes.post(
    "/definitions",
    permission=Permission.DEFINE,
    prepare=_compile,
    answers={
        201: Shape("applied as a new version", Definition),
        200: Shape("the newest version is this document already", Definition),
    },
    example={"document": EXAMPLE_DOCUMENT},
)
def apply_definition(call: Call, body: ApplyBody, prepared: commands.Compiled) -> Answer:
    """Apply a definition.

    The document is checked wholly; with errors it is refused and nothing is stored. It becomes the next version of its
    `id`, and unless `activate` is false it starts new instances from now on; running ones stay on their version. The
    document of the newest version again changes nothing.
    """
    applied = commands.apply_compiled(
        call.tx,
        call.tenant_id,
        prepared,
        activate=body.activate,
        actor=call.actor,
        limits=call.limits,
        allow_unknown_types=body.allow_unknown_types,
    )
    return _applied(call, applied)


def _applied(call: Call, applied: commands.Applied) -> Answer:
    found = store.find_version(call.tx, call.tenant_id, applied.key, applied.version)
    if found is None:
        raise LookupError(f"definition {applied.id} was applied in this transaction and is not there")
    return Answer(definition_json(found), 201 if applied.created else 200)


@routes.get("/definitions", answers={200: Shape("one item a key, by key", DefinitionPage)})
def list_definitions(call: Call, query: DefinitionListQuery) -> Answer:
    """List definitions, each by its active version or else its newest."""
    paging = Paging(call, query)
    found = store.list_current(
        call.tx, call.tenant_id, search=query.search, after=paging.after_text(), limit=paging.limit + 1
    )
    shown = found[: paging.limit]
    following = [shown[-1].facts.key] if len(found) > len(shown) else None
    return Answer(paging.answer(shown, current_definition_json, following))


@routes.get("/definitions/{key}", answers={200: Shape("the active version, else the newest", Definition)})
def get_definition(call: Call, key: str) -> Answer:
    """Read a definition."""
    return Answer(definition_json(_current(call, key)))


@routes.get("/definitions/{key}/versions", answers={200: Shape("newest first", VersionPage)})
def list_versions(call: Call, key: str, query: PageQuery) -> Answer:
    """List the versions of a definition."""
    paging = Paging(call, query)
    found = store.list_versions(
        call.tx, call.tenant_id, key, before=paging.after_number(), limit=paging.limit + 1
    )
    if not found and paging.position is None:
        raise missing("key", key)
    shown = found[: paging.limit]
    following = [shown[-1].version] if len(found) > len(shown) else None
    return Answer(paging.answer(shown, definition_summary, following))


@routes.get("/definitions/{key}/versions/{version}", answers={200: Shape("the version", Definition)})
def get_version(call: Call, key: str, version: int) -> Answer:
    """Read one version of a definition."""
    return Answer(definition_json(_version(call, key, version)))


_MOVED = {200: Shape("the version, in its new status", Definition)}


@routes.post("/definitions/{key}/versions/{version}/activate", permission=Permission.DEFINE, answers=_MOVED)
def activate_version(call: Call, key: str, version: int, body: EmptyBody | None = None) -> Answer:  # noqa: ARG001
    """Let a version start new instances.

    The version that does so now becomes inactive in the same transaction. Running instances stay on theirs.
    """
    moved = commands.activate_definition(
        call.tx, call.tenant_id, key, version, actor=call.actor, limits=call.limits
    )
    return Answer(definition_json(moved))


@routes.post("/definitions/{key}/versions/{version}/deactivate", permission=Permission.DEFINE, answers=_MOVED)
def deactivate_version(call: Call, key: str, version: int, body: EmptyBody | None = None) -> Answer:  # noqa: ARG001
    """Start no new instances of a version.

    Those that run go on.
    """
    moved = commands.deactivate_definition(
        call.tx, call.tenant_id, key, version, actor=call.actor, limits=call.limits
    )
    return Answer(definition_json(moved))


@routes.post("/definitions/{key}/versions/{version}/archive", permission=Permission.DEFINE, answers=_MOVED)
def archive_version(call: Call, key: str, version: int, body: EmptyBody | None = None) -> Answer:  # noqa: ARG001
    """Put a version away.

    It stays readable; only a restore brings it back, as a new version.
    """
    moved = commands.archive_definition(
        call.tx, call.tenant_id, key, version, actor=call.actor, limits=call.limits
    )
    return Answer(definition_json(moved))


@routes.post(
    "/definitions/{key}/versions/{version}/restore",
    permission=Permission.DEFINE,
    answers={
        201: Shape("restored as a new version", Definition),
        200: Shape("the newest version is this document already", Definition),
    },
)
def restore_version(call: Call, key: str, version: int, body: RestoreBody | None = None) -> Answer:
    """Restore an old version: its document becomes the next version.

    Nothing is deleted and no version changes.
    """
    applied = commands.restore_definition(
        call.tx,
        call.tenant_id,
        key,
        version,
        activate=body.activate if body is not None else True,
        actor=call.actor,
        limits=call.limits,
    )
    return _applied(call, applied)


# -- comparing ----------------------------------------------------------------------------------------------------

MAX_CHANGES = 1_000


@routes.get(
    "/definitions/{key}/diff", answers={200: Shape("what differs, in the older's order", DefinitionDiff)}
)
def compare_versions(call: Call, key: str, query: DiffQuery) -> Answer:
    """Tell what differs between two versions of a definition.

    Members are compared one by one and lists by position. Without `to` it is the active version, else the newest;
    without `from` the one before that.
    """
    newer = _current(call, key) if query.to is None else _version(call, key, query.to)
    older = _version(call, key, _before(newer.facts) if query.from_ is None else query.from_)
    found = list(islice(differences(read(older.document), read(newer.document)), MAX_CHANGES + 1))
    return Answer(
        {
            "key": key,
            "from": older.facts.version,
            "to": newer.facts.version,
            "changes": [one._asdict() for one in found[:MAX_CHANGES]],
            "truncated": len(found) > MAX_CHANGES,
        }
    )


def _before(newer: store.DefinitionFacts) -> int:
    if newer.version == 1:
        raise NotFound(
            f'version 1 of "{newer.key}" is its first: name the two to compare by "from" and "to"',
            code="definition.not_found",
        )
    return newer.version - 1


# -- how they have fared --------------------------------------------------------------------------------------------

SHOWN_FOR = timedelta(days=30)


@routes.get(
    "/definitions/{key}/stats", answers={200: Shape("in all, by version and by task", DefinitionStatistics)}
)
def get_definition_stats(call: Call, key: str, query: StatisticsQuery) -> Answer:
    """Tell how the instances of a definition have fared: how many ended how, how long they took, and their tasks.

    Reads every instance of the definition: for people, not for polling. What retention has deleted does not count.
    """
    hold_still(call.tx)
    if store.find_newest_version(call.tx, call.tenant_id, key) is None:
        raise missing("key", key)
    since = read_now(call.tx) - SHOWN_FOR if query.since is None else query.since
    fared = statistics.read_instances(call.tx, call.tenant_id, key, since=since)
    tasks = statistics.read_tasks(call.tx, call.tenant_id, key, since=since)
    return Answer(
        {
            "key": key,
            "since": instant(since),
            **figures_json(fared),
            "versions": [
                {"version": version, **figures_json(list(some))}
                for version, some in groupby(fared, key=lambda one: one.version)
            ],
            "tasks": [task_figures_json(one) for one in tasks],
        }
    )


# -- drawing ------------------------------------------------------------------------------------------------------

_DRAWN = {
    200: Shape("Mermaid text, or SVG with format=svg", media_type="text/plain", texts=["image/svg+xml"])
}
_MEDIA_TYPES = {"mermaid": "text/plain; charset=utf-8", "svg": "image/svg+xml"}


@routes.get("/definitions/{key}/diagram", answers=_DRAWN)
def draw_definition(call: Call, key: str, query: DiagramQuery) -> Answer:
    """Draw a definition's active version, else its newest."""
    return _drawn(_current(call, key), query)


@routes.get("/definitions/{key}/versions/{version}/diagram", answers=_DRAWN)
def draw_version(call: Call, key: str, version: int, query: DiagramQuery) -> Answer:
    """Draw one version of a definition."""
    return _drawn(_version(call, key, version), query)


def _drawn(definition: store.Definition, query: DiagramQuery) -> Answer:
    drawing = diagram(chart_of(definition.document), format=query.format).encode()
    headers = {"Content-Security-Policy": _drawing_policy(drawing)} if query.format == "svg" else {}
    return Answer(drawing, headers=headers, media_type=_MEDIA_TYPES[query.format])


def _drawing_policy(svg: bytes) -> str:
    """A drawing opened by itself may use the style sheets that stand in it, by their hashes, and nothing else."""
    styles = re.findall(rb"<style>(.*?)</style>", svg, re.DOTALL)
    hashes = (
        " ".join(f"'sha256-{b64encode(sha256(style).digest()).decode()}'" for style in styles) or "'none'"
    )
    return f"default-src 'none'; style-src {hashes}; frame-ancestors 'none'; sandbox"


_CHARTS: Kept[str, Chart] = Kept(most=64, characters=16_000_000)
"""By their documents. A chart never changes, and takes up to fifteen times as many bytes as its document has characters."""


def chart_of(document: str) -> Chart:
    """The chart of a stored document; the one that was compiled for this text serves again."""
    chart = _CHARTS.find(document)
    if chart is None:
        chart = load(read(document))
        _CHARTS.keep(document, chart, len(document))
    return chart


def _current(call: Call, key: str) -> store.Definition:
    found = store.find_current(call.tx, call.tenant_id, key)
    if found is None:
        raise missing("key", key)
    return found


def _version(call: Call, key: str, version: int) -> store.Definition:
    found = store.find_version(call.tx, call.tenant_id, key, version)
    if found is None:
        raise missing("version", f"{key} {version}")
    return found


# -- without storing ----------------------------------------------------------------------------------------------


@routes.post(
    "/definitions/check",
    permission=Permission.READ,
    kind="calculation",
    answers={200: Shape("everything found, errors and warnings", CheckReport)},
    example={"document": EXAMPLE_DOCUMENT},
)
def check_definition(call: Call, body: CheckBody) -> Answer:
    """Check a definition without applying it.

    A document with errors is no error here: its problems are the answer.
    """
    with call.services.calculating.place_of(call.tenant_id):
        commands.require_definition_size(commands.document_text(body.document), call.limits)
        published = store.read_published_types(call.tx, call.tenant_id)
        problems = commands.find_problems(body.document, published)
    return Answer({"problems": [problem.to_json() for problem in problems]})


@routes.post(
    "/definitions/simulate",
    permission=Permission.READ,
    kind="calculation",
    answers={200: Shape("the initial snapshot, then one after each event", Simulation)},
    example={"document": EXAMPLE_DOCUMENT, "events": [{"type": "GREET"}]},
)
def simulate_definition(call: Call, body: SimulateBody) -> Answer:
    """Run events through a definition, on a virtual clock and without effects.

    `{"advance_ms": N}` among the events moves the clock. Tasks are not run: send their completion events yourself,
    the engine's own events (`done.*`, `error.*`, `xstate.*`) included.
    """
    with call.services.calculating.place_of(call.tenant_id):
        snapshots = simulate_within(
            body.document, body.events, config=body.config, input=body.input, limits=call.limits
        )
    return Answer({"snapshots": snapshots})


@routes.get(
    "/schema/definition.json", answers={200: Shape("a JSON Schema", media_type="application/schema+json")}
)
def get_definition_schema(call: Call) -> Answer:  # noqa: ARG001 - the schema is the same for everyone
    """The JSON Schema of a definition document."""
    return Answer(_schema(), media_type="application/schema+json")


@lru_cache(maxsize=1)
def _schema() -> dict[str, Any]:
    return json_schema()
