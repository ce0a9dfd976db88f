"""What triggers that are written in definitions are asked by: a chart of each version's triggers alone, without its states.

A thousand triggers may answer one event, each in a version of thousands of states, and on SQLite nobody else writes meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from sqlalchemy import Connection

from common.canonical import dumps, read
from common.ids import DefinitionId
from common.kept import Kept
from common.store import instances
from statechart import Chart, DefinitionInvalid, load
from statechart.triggers import without_states

KEPT = 1_000
"""Versions whose triggers this process remembers. They never change."""
AT_ONCE = 16
"""Documents that are read together: each may have a megabyte."""

KEPT_CHARACTERS = 32_000_000
"""Of what is compiled, together: a chart takes up to fifteen times as many bytes."""

_kept: Kept[DefinitionId, Chart | str] = Kept(most=KEPT, characters=KEPT_CHARACTERS)


def charts_of_triggers(tx: Connection, versions: Iterable[DefinitionId]) -> dict[DefinitionId, Chart | str]:
    """The triggers of these versions, or why the code of today cannot read them. Versions that are gone are left out."""
    wanted = dict.fromkeys(versions)
    found = {id_: kept for id_ in wanted if (kept := _kept.find(id_)) is not None}
    missing = iter([id_ for id_ in wanted if id_ not in found])
    while some := list(islice(missing, AT_ONCE)):
        for definition in instances.read_definitions(tx, some):
            id_ = DefinitionId(definition.id)
            found[id_], characters = _compiled(definition.document)
            _kept.keep(id_, found[id_], characters)
    return found


def _compiled(text: str) -> tuple[Chart | str, int]:
    """The chart of the triggers of a document, and of how many characters it was compiled."""
    document = read(text)
    asked = without_states(document)
    try:
        return load(asked), len(dumps(asked))
    except DefinitionInvalid:
        try:  # a text that only looks like the name of a guard, of one that asks for states
            return load(document), len(text)
        except DefinitionInvalid as invalid:
            return str(invalid)[:2_000], len(text)
