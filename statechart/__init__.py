"""The statechart kernel: XState v5's semantics as a pure function over plain JSON.

`load` compiles a definition document into a `Chart`; `start` and `step` answer with the next snapshot and a list of
effects; `check`, `explain`, `simulate` and `diagram` look at the same chart. Nothing in this package touches a
clock, a database, a network, an id generator or a log: same inputs, same step, always. See docs/statecharts.md.
"""

from statechart.chart import Chart
from statechart.check import check, load
from statechart.compensating import COMPENSATING, compensate
from statechart.diagram import diagram
from statechart.draft import KERNEL
from statechart.effects import (
    ArmTimer,
    CancelChild,
    CancelTask,
    CancelTimer,
    CreateTask,
    Effect,
    Emit,
    Event,
    Log,
    SendEvent,
    StartWorkflow,
)
from statechart.env import Env, Json
from statechart.explain import explain
from statechart.problems import DefinitionInvalid, Problem, StepFailed
from statechart.schema import json_schema
from statechart.simulate import simulate, simulate_lines
from statechart.step import Step, accepts, ask_again, close, restart, start, step, stop

__all__ = [
    "COMPENSATING",
    "KERNEL",
    "ArmTimer",
    "CancelChild",
    "CancelTask",
    "CancelTimer",
    "Chart",
    "CreateTask",
    "DefinitionInvalid",
    "Effect",
    "Emit",
    "Env",
    "Event",
    "Json",
    "Log",
    "Problem",
    "SendEvent",
    "StartWorkflow",
    "Step",
    "StepFailed",
    "accepts",
    "ask_again",
    "check",
    "close",
    "compensate",
    "diagram",
    "explain",
    "json_schema",
    "load",
    "restart",
    "simulate",
    "simulate_lines",
    "start",
    "step",
    "stop",
]
