"""Publishing an event: every trigger that answers it starts an instance, and correlated instances get it.

The same from outside (`POST /events`) and for what an instance emits, which `orchestrator/triggers.py` brings here. A trigger
that cannot start its instance is told as refused, and stops no other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn

from sqlalchemy import Connection

from common.canonical import clean, dumps, read, size
from common.commands.send import event_text, send_event
from common.commands.start import MAX_KEY, Start, Started, start_instance
from common.commands.trigger_charts import charts_of_triggers
from common.commands.triggers import chart_of_trigger
from common.config import Limits
from common.db.now import read_now
from common.errors import Conflict, Invalid, LimitExceeded, SignalboxError
from common.ids import DefinitionId, InstanceId, TenantId, new_id
from common.lifecycle import LIVE
from common.store import listing
from common.store import triggers as store
from common.store.triggers import Trigger
from statechart import Chart, DefinitionInvalid, Env
from statechart.cel.meter import MAX_RESULT_BYTES
from statechart.draft import ActionFailed
from statechart.expressions import MAX_OPERATIONS, ExpressionFailed, Meter
from statechart.triggers import CompiledTrigger, patterns_of

MAX_DELIVERED = 1_000
MAX_TRIGGER_OPERATIONS = 5 * MAX_OPERATIONS
MAX_TRIGGER_BYTES = MAX_RESULT_BYTES
"""What all triggers of one event may take together, and what they may start has as inputs. Each is bounded by itself, but a thousand may answer, and
on SQLite nobody else writes meanwhile."""


@dataclass(frozen=True, slots=True)
class Correlation:
    """Which live instances get a published event: those of a business key, those with all of these labels, or both."""

    definition_key: str | None = None
    business_key: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reaction:
    """What one trigger or one instance made of a published event.

    `started`, `held` (a live instance has the business key), `delivered`, or `refused` with the error.
    """

    kind: Literal["started", "held", "delivered", "refused"]
    instance_id: InstanceId | None
    trigger_id: str | None = None
    definition_key: str | None = None
    error: SignalboxError | None = None


def publish_event(
    tx: Connection,
    tenant_id: TenantId,
    event: Any,
    correlation: Correlation | None,
    *,
    actor: str,
    limits: Limits,
) -> list[Reaction]:
    """Publish an event from outside. The caller commits; bells ring afterwards.

    Raises `Invalid` (`event.invalid`, `event.reserved`, `correlation.invalid`) and `LimitExceeded`, before anything is written: also
    where the triggers together cost too much.
    """
    text = event_text(event, limits=limits)
    targets = [] if correlation is None else _targets(tx, tenant_id, correlation)
    found = store.find_matching(tx, tenant_id, patterns_of(event["type"]))
    reactions = start_by_triggers(tx, found, text, actor=actor, depth=0, limits=limits)
    for instance_id in targets:
        try:
            send_event(tx, tenant_id, instance_id, read(text), actor=actor, limits=limits)
        except Conflict as error:  # it has ended since we looked
            reactions.append(Reaction("refused", InstanceId(instance_id), error=error))
        else:
            reactions.append(Reaction("delivered", InstanceId(instance_id)))
    return reactions


# -- triggers -----------------------------------------------------------------------------------------------------


_Charts = Mapping[DefinitionId, Chart | str]


@dataclass(frozen=True, slots=True)
class _Wanted:
    trigger: Trigger
    business_key: str | None
    input: Any


class _Costs:
    """What the triggers of one event have taken together."""

    def __init__(self) -> None:
        self._operations = 0
        self._bytes = 0

    def charge(self, operations: int) -> None:
        self._operations += operations
        if self._operations > MAX_TRIGGER_OPERATIONS:
            _refuse_costs(
                "max_trigger_operations",
                MAX_TRIGGER_OPERATIONS,
                "operations in their conditions and templates",
            )

    def charge_input(self, input: Any) -> None:
        self._bytes += size(dumps(input))
        if self._bytes > MAX_TRIGGER_BYTES:
            _refuse_costs("max_trigger_bytes", MAX_TRIGGER_BYTES, "bytes of input for what they start")


def _refuse_costs(limit: str, allowed: int, what: str) -> NoReturn:
    message = (
        f"the triggers that answer this event take more than {allowed:,} {what} together; nothing was started"
    )
    raise LimitExceeded(message, limit=limit, allowed=allowed)


def start_by_triggers(
    tx: Connection, found: Sequence[Trigger], text: str, *, actor: str | None, depth: int, limits: Limits
) -> list[Reaction]:
    """Start an instance for each trigger whose condition holds for the event `text`.

    `actor` None: each trigger is named as the actor of what it starts. `depth`: how many instances have led to this event.
    Whoever starts with business keys waits for them in the one order that all others wait in. Raises `LimitExceeded`, before anything is written,
    where they cost too much together.
    """
    reactions: list[Reaction] = []
    wanted: list[_Wanted] = []
    charts = charts_of_triggers(tx, (one.definition_id for one in found if one.definition_id is not None))
    now, event, costs = read_now(tx), read(text), _Costs()
    for trigger in found:
        meter = Meter()
        try:
            asked = _ask(charts, trigger, event, Env(now, seed=new_id()), meter)
        except SignalboxError as error:
            reactions.append(_refused(trigger, error))
        else:
            if asked is not None:
                wanted.append(asked)
                costs.charge_input(asked.input)
        costs.charge(meter.operations)
    for one in sorted(wanted, key=lambda one: (one.trigger.definition_key, one.business_key or "")):
        reactions.append(_start(tx, one, actor or actor_of(one.trigger), depth, limits))
    return reactions


def actor_of(trigger: Trigger) -> str:
    """How a trigger is named in the history of what it starts."""
    return f"trigger:{trigger.name or trigger.id}"


def _start(tx: Connection, wanted: _Wanted, actor: str, depth: int, limits: Limits) -> Reaction:
    trigger = wanted.trigger
    request = Start(
        definition_key=trigger.definition_key,
        business_key=wanted.business_key,
        input=wanted.input,
        labels={"trigger": trigger.name or trigger.id},
        depth=depth,
    )
    try:
        if depth > limits.max_child_depth:
            raise LimitExceeded(
                f"an instance may have {limits.max_child_depth} that led to it, this one would have {depth}",
                limit="max_child_depth",
                allowed=limits.max_child_depth,
            )
        started: Started = start_instance(tx, trigger.tenant_id, request, actor=actor, limits=limits)
    except SignalboxError as error:  # raised before anything was written: the others are not touched
        return _refused(trigger, error)
    kind: Literal["started", "held"] = "started" if started.created else "held"
    return Reaction(kind, started.instance_id, trigger.id, trigger.definition_key)


def _refused(trigger: Trigger, error: SignalboxError) -> Reaction:
    return Reaction("refused", None, trigger.id, trigger.definition_key, error)


def _ask(charts: _Charts, trigger: Trigger, event: Any, env: Env, meter: Meter) -> _Wanted | None:
    chart, compiled = _compiled(charts, trigger)
    try:
        asked = compiled.ask(chart, event, env, meter)
        if asked is None:
            return None
        key, input = asked
        return _Wanted(trigger, _business_key(key), clean(input))
    except (ExpressionFailed, ActionFailed) as error:
        raise Invalid(str(error)[:2_000], code="trigger.failed") from error


def _business_key(key: Any) -> str | None:
    """A number names an order as well as a text does."""
    if isinstance(key, int) and not isinstance(key, bool):
        key = str(key)
    if key is not None and not (isinstance(key, str) and 0 < len(key) <= MAX_KEY):
        raise Invalid(
            f"businessKey: expected text of 1 to {MAX_KEY} characters, found {dumps(clean(key))[:100]}",
            code="trigger.failed",
        )
    return key


def _compiled(charts: _Charts, trigger: Trigger) -> tuple[Chart, CompiledTrigger]:
    """What a trigger is asked by: the chart of its version's triggers, or one that was made for a trigger by hand.

    Raises `Invalid` (`trigger.failed`) where the code of today cannot read it.
    """
    if trigger.definition_id is None:
        try:
            chart = chart_of_trigger(trigger)
        except DefinitionInvalid as invalid:
            raise Invalid(str(invalid)[:2_000], code="trigger.failed") from None
        return chart, chart.triggers[0]
    found = charts.get(trigger.definition_id)
    if found is None:
        raise Invalid("the version that it is written in is gone", code="trigger.failed")
    if isinstance(found, str):
        raise Invalid(found, code="trigger.failed")
    named = next((one for one in found.triggers if one.name == trigger.name), None)
    if named is None:
        raise Invalid(f'the version names no trigger "{trigger.name}"', code="trigger.failed")
    return found, named


# -- correlation --------------------------------------------------------------------------------------------------


def _targets(tx: Connection, tenant_id: TenantId, correlation: Correlation) -> list[InstanceId]:
    if correlation.business_key is None and not correlation.labels:
        raise Invalid(
            "correlation: expected a businessKey or labels, which name the instances",
            code="correlation.invalid",
        )
    wanted = listing.InstanceFilter(
        statuses=LIVE,
        definition_key=correlation.definition_key,
        business_key=correlation.business_key,
        labels=list(correlation.labels.items()),
    )
    page = listing.list_statuses(tx, tenant_id, wanted, before=None, limit=MAX_DELIVERED)
    if page.has_more:
        raise LimitExceeded(
            f"an event is delivered to at most {MAX_DELIVERED} instances; name fewer of them",
            limit="max_delivered",
            allowed=MAX_DELIVERED,
        )
    return [one.id for one in page.items]
