"""Compiled charts, by definition id. Definitions are immutable by id, so nothing here is ever stale."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256

from sqlalchemy import Connection

from common.canonical import read, storable
from common.kept import Kept
from common.store import instances
from statechart import Chart, DefinitionInvalid, load
from statechart.record import record

KEPT = 256
KEPT_CHARACTERS = 32_000_000
"""Of their documents together: a chart takes up to fifteen times as many bytes, and a document may have a million characters."""
KNOWN = 20_000
"""Definitions of which it is known what their document is: an entry takes some hundred bytes."""


@dataclass(frozen=True, slots=True)
class CompiledChart:
    """A chart and the checksum of the document that it was made of; `chart` is None where it no longer compiles."""

    chart: Chart | None
    checksum: str
    problem: str | None = None


@record
class _Known:
    """What a definition says: the SHA-256 of its document as it is stored, and the checksum that stands beside it."""

    document: bytes
    checksum: str


@record
class _Compiled:
    chart: Chart | None
    problem: str | None


class Charts:
    """The 256 charts used last, or fewer large ones. Safe for several threads.

    They are kept by what their documents say: a thousand tenants that have each applied the same one share its chart, which a batch of
    a hundred of them would else have to compile again and again.
    """

    def __init__(self) -> None:
        self._known: Kept[str, _Known] = Kept(most=KNOWN, characters=KNOWN)
        self._compiled: Kept[bytes, _Compiled] = Kept(most=KEPT, characters=KEPT_CHARACTERS)

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
        known = self._known.find(definition_id)
        compiled = None if known is None else self._compiled.find(known.document)
        if known is None or compiled is None:
            return None
        return CompiledChart(compiled.chart, known.checksum, compiled.problem)

    def _keep(self, definition: instances.DefinitionText) -> CompiledChart:
        known = _Known(sha256(definition.document.encode()).digest(), definition.checksum)
        compiled = self._compiled.find(known.document)
        if compiled is None:
            compiled = _compile(definition.document)
            self._compiled.keep(known.document, compiled, len(definition.document))
        self._known.keep(definition.id, known, 1)
        return CompiledChart(compiled.chart, known.checksum, compiled.problem)


def _compile(document: str) -> _Compiled:
    try:
        return _Compiled(load(read(document)), None)
    except Exception as error:  # noqa: BLE001 - one document, whatever is wrong with it, must not stop a whole batch
        # Applied by a version of this code that accepted it: its instances get an incident, others go on.
        problem = str(error) if isinstance(error, DefinitionInvalid) else f"{type(error).__name__}: {error}"
        return _Compiled(None, storable(problem)[:2_000])
