"""The statechart kernel: XState v5's semantics as a pure function over plain JSON.

`load` compiles a definition document into a `Chart`; `start` and `step` answer with the next snapshot and a list of
effects; `check`, `explain`, `simulate` and `diagram` look at the same chart. Nothing in this package touches a
clock, a database, a network, an id generator or a log: same inputs, same step, always. See docs/statecharts.md.
"""

from statechart.effects import (
    ArmTimer,
    CancelChild,
    CancelTask,
    CancelTimer,
    CreateTask,
    Effect,
    Emit,
    Log,
    SendEvent,
    StartWorkflow,
)
from statechart.env import Env
from statechart.problems import DefinitionInvalid, Problem, StepFailed

__all__ = [
    "ArmTimer",
    "CancelChild",
    "CancelTask",
    "CancelTimer",
    "CreateTask",
    "DefinitionInvalid",
    "Effect",
    "Emit",
    "Env",
    "Log",
    "Problem",
    "SendEvent",
    "StartWorkflow",
    "StepFailed",
]
