"""Compiled charts, by definition id. Definitions are immutable by id, so nothing here is ever stale."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import Connection

from common.canonical import read, storable
from common.kept import KNOWN, Kept, Shared
from common.store import instances
from statechart import Chart, DefinitionInvalid, load
from statechart.record import record

KEPT = 256
KEPT_CHARACTERS = 32_000_000
"""Of their documents together: a chart takes up to fifteen times as many bytes, and a document may have a million characters."""


@dataclass(frozen=True, slots=True)
class CompiledChart:
    """A chart and the checksum of the document that it was made of; `chart` is None where it no longer compiles."""

    chart: Chart | None
    checksum: str
    problem: str | None = None


@record
class _Compiled:
    chart: Chart | None
    problem: str | None


class Charts:
    """The 256 charts used last, or fewer large ones; definitions that say the same share one. Safe for several threads."""

    def __init__(self) -> None:
        self._checksums: Kept[str, str] = Kept(most=KNOWN, characters=KNOWN)
        self._compiled: Shared[_Compiled] = Shared(most=KEPT, characters=KEPT_CHARACTERS)

    def fetch(self, tx: Connection, definition_ids: Iterable[str]) -> dict[str, CompiledChart]:
        """Return the charts of these definitions, reading those that are not kept, and compiling what no other one says."""
        wanted = set(definition_ids)
        found = {id_: chart for id_ in wanted if (chart := self._find(id_)) is not None}
        missing = wanted - found.keys()
        if missing:
            for definition in instances.read_definitions(tx, missing):
                found[definition.id] = self._keep(definition)
        return found

    def _find(self, definition_id: str) -> CompiledChart | None:
        compiled, checksum = self._compiled.find(definition_id), self._checksums.find(definition_id)
        if compiled is None or checksum is None:
            return None
        return CompiledChart(compiled.chart, checksum, compiled.problem)

    def _keep(self, definition: instances.DefinitionText) -> CompiledChart:
        compiled = self._compiled.keep(definition.id, definition.document, _compile)
        self._checksums.keep(definition.id, definition.checksum, 1)
        return CompiledChart(compiled.chart, definition.checksum, compiled.problem)


def _compile(document: str) -> tuple[_Compiled, int]:
    return _compiled(document), len(document)


def _compiled(document: str) -> _Compiled:
    try:
        return _Compiled(load(read(document)), None)
    except Exception as error:  # noqa: BLE001 - one document, whatever is wrong with it, must not stop a whole batch
        # Applied by a version of this code that accepted it: its instances get an incident, others go on.
        problem = str(error) if isinstance(error, DefinitionInvalid) else f"{type(error).__name__}: {error}"
        return _Compiled(None, storable(problem)[:2_000])
