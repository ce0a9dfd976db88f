"""Compiled charts, by definition id. Definitions are immutable by id, so nothing here is ever stale."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import Connection

from common.canonical import read, storable
from common.kept import Kept
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
        self._kept: Kept[str, CompiledChart] = Kept(most=KEPT, characters=KEPT_CHARACTERS)

    def fetch(self, tx: Connection, definition_ids: Iterable[str]) -> dict[str, CompiledChart]:
        """Return the charts of these definitions, reading and compiling those that are not kept."""
        wanted = set(definition_ids)
        found = {id_: chart for id_ in wanted if (chart := self._kept.find(id_)) is not None}
        missing = wanted - found.keys()
        if missing:
            for definition in instances.read_definitions(tx, missing):
                chart = found[definition.id] = _compiled(definition)
                self._kept.keep(definition.id, chart, len(definition.document))
        return found


def _compiled(definition: instances.DefinitionText) -> CompiledChart:
    try:
        return CompiledChart(load(read(definition.document)), definition.checksum)
    except Exception as error:  # noqa: BLE001 - one document, whatever is wrong with it, must not stop a whole batch
        # Applied by a version of this code that accepted it: its instances get an incident, others go on.
        problem = str(error) if isinstance(error, DefinitionInvalid) else f"{type(error).__name__}: {error}"
        return CompiledChart(None, definition.checksum, storable(problem)[:2_000])
