"""What triggers that are written in definitions are asked by: a chart of each version's triggers alone, without its states.

A thousand triggers may answer one event, each in a version of thousands of states, and on SQLite nobody else writes meanwhile.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from itertools import islice

from sqlalchemy import Connection

from common.canonical import read
from common.ids import DefinitionId
from common.store import instances
from statechart import Chart, DefinitionInvalid, load
from statechart.triggers import without_states

KEPT = 1_000
"""Versions whose triggers this process remembers. They never change."""
AT_ONCE = 16
"""Documents that are read together: each may have a megabyte."""

_kept: OrderedDict[DefinitionId, Chart | str] = OrderedDict()
_turn = threading.Lock()


def charts_of_triggers(tx: Connection, versions: Iterable[DefinitionId]) -> dict[DefinitionId, Chart | str]:
    """The triggers of these versions, or why the code of today cannot read them. Versions that are gone are left out."""
    wanted = dict.fromkeys(versions)
    with _turn:
        found = {id_: _kept[id_] for id_ in wanted if id_ in _kept}
        for id_ in found:
            _kept.move_to_end(id_)
    missing = iter([id_ for id_ in wanted if id_ not in found])
    while some := list(islice(missing, AT_ONCE)):
        for definition in instances.read_definitions(tx, some):
            id_ = DefinitionId(definition.id)
            found[id_] = _compiled(definition.document)
            _keep(id_, found[id_])
    return found


def _compiled(text: str) -> Chart | str:
    document = read(text)
    try:
        return load(without_states(document))
    except DefinitionInvalid:
        try:  # a text that only looks like the name of a guard, of one that asks for states
            return load(document)
        except DefinitionInvalid as invalid:
            return str(invalid)[:2_000]


def _keep(id_: DefinitionId, chart: Chart | str) -> None:
    with _turn:
        _kept[id_] = chart
        while len(_kept) > KEPT:
            _kept.popitem(last=False)
