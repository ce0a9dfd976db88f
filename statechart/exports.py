"""What XState takes and a definition does not: for `simulate`, which runs machines as they were exported.

XState passes over keys that it does not know, and an action that is only a name is a function that stayed where the
machine was exported from. Here both are left out, so that what JSON can say still runs. A definition that is applied
is not read like this: there an unknown name is a mistake, and `check` says so. Keys that XState itself has renamed since
version 4 are kept, to be refused: passing over a `cond` would take every transition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from statechart.actions import NAMED_ADDRESSEES
from statechart.document import (
    ACTION_KINDS,
    Definition,
    Initial,
    Invoke,
    Part,
    State,
    Transition,
    action_kind,
)
from statechart.env import Json
from statechart.templates import is_template

RENAMED = {
    "cond": "guard",
    "internal": "reenter",
    "in": "guard",
    "services": "invoke",
    "activities": "invoke",
    "onEntry": "entry",
    "onExit": "exit",
    "data": "output",
    "parallel": "type",
}
# What an action of XState's own cannot do without; its functions are lost where a machine becomes JSON.
_ESSENTIAL = {
    "raise": ("event",),
    "send": ("event",),
    "emit": ("event",),
    "cancel": ("id", "sendId"),
    "assign": ("path", "values", "assignment"),
}


def tolerated(document: Mapping[str, Json]) -> dict[str, Json]:
    """The document without what XState would pass over. Bounded documents only: it goes down by recursion."""
    return _state(document, Definition)


def _state(body: Mapping[str, Json], model: type[Part]) -> dict[str, Json]:
    kept = _known(body, model)
    for key, change in _PARTS_OF_A_STATE.items():
        if key in kept:
            kept[key] = change(kept[key])
    return kept


def _states(states: Json) -> Json:
    return _mapped(states, lambda body: _state(body, State) if isinstance(body, Mapping) else body)


def _table(candidates: Json) -> Json:
    return _mapped(candidates, lambda written: {} if written is None else _transitions(written))


def _transitions(written: Json) -> Json:
    return _each(written, _transition)


def _transition(written: Json) -> Json:
    return _with_actions(written, Transition)


def _initial(written: Json) -> Json:
    return _with_actions(written, Initial)


def _with_actions(written: Json, model: type[Part]) -> Json:
    if not isinstance(written, Mapping):
        return written
    kept = _known(written, model)
    if "actions" in kept:
        kept["actions"] = _actions(kept["actions"])
    return kept


def _invokes(written: Json) -> Json:
    return _each(written, _invoke)


def _invoke(written: Json) -> Json:
    if not isinstance(written, Mapping):
        return written
    kept = _known(written, Invoke)
    for key in ("onDone", "onError", "onSnapshot"):
        if key in kept:
            kept[key] = _transitions(kept[key])
    return kept


def _actions(written: Json) -> list[Json]:
    """Only the actions that can be done here."""
    return [action for action in _listed(written) if not _is_only_a_name(action)]


def _is_only_a_name(action: Json) -> bool:
    if action is None or isinstance(action, str):
        return True
    if not isinstance(action, Mapping) or not isinstance(action.get("type"), str):
        return False  # no action at all: refused
    kind = action_kind(action["type"])
    if kind not in ACTION_KINDS:
        return True
    if action["type"] in ACTION_KINDS:
        return False  # in our own spelling what is missing is a mistake
    params = action.get("params")
    given = {**action, **params} if isinstance(params, Mapping) else action
    essential = _ESSENTIAL.get(kind, ())
    has_lost_its_function = bool(essential) and all(given.get(key) is None for key in essential)
    return has_lost_its_function or (kind == "send" and _is_for_an_actor(given.get("to")))


def _is_for_an_actor(to: Json) -> bool:
    """Actors that a machine has beside it exist only where it was exported from."""
    return isinstance(to, str) and to not in NAMED_ADDRESSEES and not is_template(to)


def _known(written: Mapping[str, Json], model: type[Part]) -> dict[str, Json]:
    known = {field.alias or name for name, field in model.model_fields.items()}
    return {
        key: value
        for key, value in written.items()
        if key in RENAMED or (key in known and not (value is None and key not in _MAY_BE_NULL))
    }


_MAY_BE_NULL = ("output", "input", "meta")


def _mapped(written: Json, change: Callable[[Json], Json]) -> Json:
    return {key: change(item) for key, item in written.items()} if isinstance(written, Mapping) else written


def _each(written: Json, change: Callable[[Json], Json]) -> Json:
    return [change(item) for item in written] if isinstance(written, list) else change(written)


def _listed(written: Json) -> Iterable[Json]:
    return written if isinstance(written, list) else [written]


_PARTS_OF_A_STATE: Mapping[str, Callable[[Json], Json]] = {
    "states": _states,
    "on": _table,
    "after": _table,
    "always": _transitions,
    "onDone": _transitions,
    "entry": _actions,
    "exit": _actions,
    "initial": _initial,
    "invoke": _invokes,
}
