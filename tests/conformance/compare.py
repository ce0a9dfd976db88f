"""Two answers to one case, snapshot by snapshot: do the kernel and XState agree, and where they do not, why.

An answer is `{"id", "snapshots"}` or `{"id", "error"}`; a snapshot is `{"configuration", "context", "status"}` and, of a
machine that is done, `output`. Each difference that docs/conformance.md tells has a name here; whatever has none is a
disagreement.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeAlias

from statechart.compile import compile_document
from statechart.problems import DefinitionInvalid, StepFailed
from statechart.simulate import Simulation

Json: TypeAlias = Any
COMPARED = ("configuration", "context", "status", "output")


class Known(StrEnum):
    """The known differences that random charts come upon, each with its paragraph in docs/conformance.md."""

    GAPS = "half-entered states"
    ILLEGAL = "configurations that are not legal"
    ENDLESS = "machines that never rest"
    LIMITS = "steps beyond the limits"


@dataclass(frozen=True, slots=True)
class Verdict:
    """How the comparison ended. `at` is the snapshot where it stopped, None where all were compared."""

    agrees: bool
    known: Known | None = None
    at: int | None = None
    what: str = ""
    compared: int = 0


def kernel_answer(case: Mapping[str, Json]) -> Json:
    """The kernel's answer, as `signalbox simulate` gives it, with the output beside it."""
    try:
        simulation = Simulation(compile_document(case["spec"], as_xstate=True))
        return {"id": case["id"], "snapshots": [_view(simulation), *_views(simulation, case["events"])]}
    except (DefinitionInvalid, StepFailed) as failure:
        return {"id": case["id"], "error": str(failure)}


def compare(case: Mapping[str, Json], theirs: Json, ours: Json) -> Verdict:
    """XState's answer and the kernel's."""
    if "error" in theirs or "error" in ours:
        return _compare_refusals(theirs, ours)
    snapshots = zip(theirs["snapshots"], ours["snapshots"], strict=True)
    for at, (expected, found) in enumerate(snapshots):
        known = _known(expected, found)
        if known is not None:
            return Verdict(True, known, at, compared=at)
        for part in COMPARED:
            if part == "output" and "output" not in case["spec"]:
                continue  # XState's machine has none then, the kernel's that of its final state
            if expected.get(part) != found.get(part):
                what = f"{part}: XState has {expected.get(part)!r}, the kernel {found.get(part)!r}"
                return Verdict(False, None, at, what, at)
    return Verdict(True, compared=len(theirs["snapshots"]))


def _known(expected: Json, found: Json) -> Known | None:
    if expected.get("gaps"):
        return Known.GAPS
    if expected.get("illegal"):
        return Known.ILLEGAL
    if "Infinite loop" in expected.get("thrown", "") and found["status"] == "error":
        return Known.ENDLESS
    if found["status"] == "error" and _is_beyond_limits(found["error"]):
        return Known.LIMITS
    return None


def _is_beyond_limits(error: Json) -> bool:
    return error["code"] in ("step.endless", "step.too_large") or "needs more than" in error["message"]


def _compare_refusals(theirs: Json, ours: Json) -> Verdict:
    if "error" in theirs and "error" in ours:
        return Verdict(True)
    who, why = ("XState", theirs["error"]) if "error" in theirs else ("the kernel", ours["error"])
    return Verdict(False, None, 0, f"only {who} refuses the case: {why}")


def _views(simulation: Simulation, events: Json) -> list[Json]:
    views = []
    for event in events:
        simulation.take(event)
        views.append(_view(simulation))
    return views


def _view(simulation: Simulation) -> Json:
    view = simulation.view()
    if view["status"] == "done":
        view["output"] = simulation.snapshot["output"]
    return view
