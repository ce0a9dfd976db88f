"""Run a definition at a desk: a virtual clock, no database, snapshots as a person reads them.

The clock is XState's `SimulatedClock`: it jumps, then what has fallen due is fired, earliest first. Tasks are created
on paper only; an event of the type that an open task or invoke is waiting for answers it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime

from statechart.chart import Chart
from statechart.compile import compile_document
from statechart.draft import Snapshot
from statechart.env import Env, Json, after, format_instant, parse_instant
from statechart.problems import StepFailed
from statechart.step import start, step

EPOCH = datetime(2000, 1, 1, tzinfo=UTC)  # when the virtual clock starts
LAST_YEAR = 9_800  # of the virtual clock: delays of a century that count from it are still in the calendar
MAX_FIRED = 10_000  # timers fired by one move of the clock


def simulate(
    document: Json,
    events: Sequence[Mapping[str, Json]],
    *,
    config: Mapping[str, Mapping[str, Json]] | None = None,
    input: Json = None,
) -> list[dict[str, Json]]:
    """The snapshot `{"configuration", "context", "status"}` at the start, then after each event.

    `{"advance_ms": N}` moves the clock instead. `status` is "active" or "done"; where a step fails it is "error", with
    `error` {code, message, path}, and what comes after is not taken any more. `config` is what expressions read as such,
    {module: {key: value}}, before the definition's own defaults; `input` is what it is started with, and is held to no schema. The document may be a machine that XState
    has exported: keys that it passes over are passed over, and actions that are only names do nothing. Raises
    `DefinitionInvalid`, and `StepFailed("event.invalid")` for what is no event.
    """
    simulation = Simulation(compile_document(document, as_xstate=True), config, input)
    return [simulation.view(), *(simulation.take(event) for event in events)]


class Simulation:
    """One run. Starts on construction."""

    def __init__(
        self, chart: Chart, config: Mapping[str, Mapping[str, Json]] | None = None, input: Json = None
    ) -> None:
        self.chart = chart
        self.config = _read_config(config)
        self.now = EPOCH
        self.steps = 0
        self.error: dict[str, Json] | None = None
        self.snapshot: Snapshot = {"configuration": [], "context": dict(chart.context), "status": "error"}
        try:
            self.snapshot = start(chart, input, self._env(), deliver_start=False).snapshot
        except StepFailed as failure:
            self._fail(failure)

    def take(self, event: Mapping[str, Json]) -> dict[str, Json]:
        """Take an event or move the clock; returns the view afterwards."""
        milliseconds = event.get("advance_ms") if isinstance(event, Mapping) else None
        if milliseconds is None and not (isinstance(event, Mapping) and isinstance(event.get("type"), str)):
            raise StepFailed(
                "event.invalid", f'expected an event with a type, or {{"advance_ms": N}}, found {event!r:.80}'
            )
        later = self.now if milliseconds is None else self._moved(milliseconds)
        if self.error is None:
            try:
                if milliseconds is not None:
                    self._advance(later)
                else:
                    self._step(event, self._answered_by(event))
            except StepFailed as failure:
                self._fail(failure)
        return self.view()

    def view(self) -> dict[str, Json]:
        """What `simulate` prints."""
        view: dict[str, Json] = {
            "configuration": self.snapshot["configuration"],
            "context": self.snapshot["context"],
            "status": self.snapshot["status"] if self.error is None else "error",
        }
        if self.error is not None:
            view["error"] = self.error
        return view

    def _env(self) -> Env:
        self.steps += 1
        return Env(now=self.now, config=self.config, seed=f"simulate/{self.steps}")

    def _step(self, event: Mapping[str, Json], obligation: str | None) -> None:
        taken = step(self.chart, self.snapshot, event, self._env(), obligation=obligation)
        self.snapshot = taken.snapshot
        if (
            taken.outcome == "ignored"
            and taken.reason == "no_transition"
            and self._is_failure(event, obligation)
        ):
            raise StepFailed("task.failed", f"the failure {event['type']!r} is caught nowhere")

    def _is_failure(self, event: Mapping[str, Json], obligation: str | None) -> bool:
        asked = self.snapshot["tasks"].get(obligation) or self.snapshot["children"].get(obligation)
        return event["type"].startswith("xstate.error.actor.") or (
            asked is not None and event["type"] == asked["failureEvent"]
        )

    def _answered_by(self, event: Mapping[str, Json]) -> str | None:
        for holder in ("tasks", "children"):
            for key, entry in self.snapshot[holder].items():
                if event["type"] in (entry["completionEvent"], entry["failureEvent"]):
                    return str(key)
        return None

    def _moved(self, milliseconds: Json) -> datetime:
        """Where the clock stands after a move. Raises `StepFailed` for what is no move, or one that leaves the calendar."""
        if isinstance(milliseconds, bool) or not isinstance(milliseconds, int | float) or milliseconds < 0:
            raise StepFailed(
                "event.invalid",
                f"expected advance_ms to be milliseconds, at least 0, found {milliseconds!r:.80}",
            )
        try:
            later = after(self.now, round(milliseconds))
        except (ValueError, OverflowError):
            later = None
        if later is None or later.year > LAST_YEAR:
            raise StepFailed(
                "event.invalid",
                f"expected advance_ms to keep the clock, which stands at {format_instant(self.now)}, in the years up to "
                f"{LAST_YEAR}, found {milliseconds!r:.80}",
            )
        return later

    def _advance(self, later: datetime) -> None:
        """Move the clock, then fire what is due. A timer that is armed on the way counts from the new time."""
        self.now = later
        fired = 0
        while (more := self._fire_due()) is not None:
            fired += more
            if fired > MAX_FIRED:
                raise StepFailed("simulate.endless", f"more than {MAX_FIRED:,} timers are due at once")

    def _fire_due(self) -> int | None:
        """Fire the timers that are due, earliest first; how many, once their steps have changed the others.

        None when all have had their turn. As in XState's `SimulatedClock`, the timer that is last of all is not
        followed by another look: what it arms without any delay waits for the next move of the clock.
        """
        waiting = sorted(self.snapshot["timers"], key=lambda key: self.snapshot["timers"][key]["dueAt"])
        for count, key in enumerate(waiting, start=1):
            others = self.snapshot["timers"].keys() - {key}
            timer = self.snapshot["timers"][key]
            if parse_instant(timer["dueAt"]) > self.now:
                return None
            self._step(timer["event"], key)
            if self.snapshot["timers"].keys() != others and count < len(waiting):
                return count
        return None

    def _fail(self, failure: StepFailed) -> None:
        self.error = {"code": failure.code, "message": failure.message, "path": failure.path}


def _read_config(config: Json) -> Mapping[str, Mapping[str, Json]]:
    """Raises `StepFailed("config.invalid")` for what is not {module: {key: value}}."""
    found = {} if config is None else config
    if not isinstance(found, Mapping) or not all(isinstance(values, Mapping) for values in found.values()):
        raise StepFailed(
            "config.invalid", f"expected config to be {{module: {{key: value}}}}, found {config!r:.80}"
        )
    return found


def simulate_lines(lines: Iterable[str]) -> Iterator[str]:
    """`simulate --batch`: JSON lines `{"id", "spec", "events", "config"?, "input"?}` to `{"id", "snapshots"}` or `{"id", "error"}`.

    One line out for each line in that is not blank; whatever is wrong with one of them never stops the next.
    """
    for line in lines:
        if line.strip():
            yield json.dumps(_answer(line), separators=(",", ":"))


def _answer(line: str) -> dict[str, Json]:
    case: Json = None
    try:
        case = json.loads(line, parse_constant=_refuse_constant)
        if not isinstance(case, dict) or "spec" not in case:
            raise ValueError('expected an object with "id", "spec" and "events"')
        events = case.get("events") or []
        if not isinstance(events, list):
            raise ValueError(f'expected "events" to be a list, found {events!r:.80}')
        snapshots = simulate(case["spec"], events, config=case.get("config"), input=case.get("input"))
        return {"id": case.get("id"), "snapshots": snapshots}
    except Exception as failure:  # noqa: BLE001 - the outer loop of a batch: a bad case never stops the next
        return {
            "id": case.get("id") if isinstance(case, dict) else None,
            "error": str(failure) or type(failure).__name__,
        }


def _refuse_constant(name: str) -> Json:
    raise ValueError(f"expected JSON, found {name}")
