"""Compiled charts, by definition id. Definitions are immutable by id, so nothing here is ever stale."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import Connection

from common.canonical import read, storable
from common.store import instances
from statechart import Chart, DefinitionInvalid, load

KEPT = 256
KEPT_CHARACTERS = 32_000_000
"""Of their documents together: a chart takes up to fifteen times as many bytes, and a document may have a million characters."""


@dataclass(frozen=True, slots=True)
class CompiledChart:
    """A chart and the checksum of the document that it was made of; `chart` is None where it no longer compiles."""

    chart: Chart | None
    checksum: str
    problem: str | None = None


class Charts:
    """The 256 charts used last, or fewer large ones. Safe for several threads."""

    def __init__(self) -> None:
        self._charts: OrderedDict[str, CompiledChart] = OrderedDict()
        self._sizes: dict[str, int] = {}
        self._turn = threading.Lock()

    def fetch(self, tx: Connection, definition_ids: Iterable[str]) -> dict[str, CompiledChart]:
        """Return the charts of these definitions, reading and compiling those that are not kept."""
        wanted = set(definition_ids)
        with self._turn:
            found = {id_: self._charts[id_] for id_ in wanted if id_ in self._charts}
            for id_ in found:
                self._charts.move_to_end(id_)
        missing = wanted - found.keys()
        if missing:
            for definition in instances.read_definitions(tx, missing):
                found[definition.id] = _compiled(definition)
                self._keep(definition.id, found[definition.id], len(definition.document))
        return found

    def _keep(self, definition_id: str, chart: CompiledChart, size: int) -> None:
        with self._turn:
            self._charts[definition_id] = chart
            self._sizes[definition_id] = size
            kept = sum(self._sizes.values())
            while len(self._charts) > KEPT or (kept > KEPT_CHARACTERS and len(self._charts) > 1):
                gone, _ = self._charts.popitem(last=False)
                kept -= self._sizes.pop(gone)


def _compiled(definition: instances.DefinitionText) -> CompiledChart:
    try:
        return CompiledChart(load(read(definition.document)), definition.checksum)
    except Exception as error:  # noqa: BLE001 - one document, whatever is wrong with it, must not stop a whole batch
        # Applied by a version of this code that accepted it: its instances get an incident, others go on.
        problem = str(error) if isinstance(error, DefinitionInvalid) else f"{type(error).__name__}: {error}"
        return CompiledChart(None, definition.checksum, storable(problem)[:2_000])
