"""Testing definitions in process: the engine's own decisions, virtual time, answers that the test gives. No database.

    from signalbox.testing import Workflow, fails, succeeds

    def test_an_order_is_shipped():
        order = Workflow.load("order.json").task("orders.validate", fails("http.503"), succeeds({"ok": True}))
        run = order.start({"lines": [1]})
        run.settle(advance=True)
        run.expect(status="waiting", configuration=["review"])

The guide is docs/guides/testing.md. `World` plays the engine, on rows in `Memory`; `Run` is what a test holds.
"""

from signalbox.testing.answers import Answer, crashes, fails, hangs, says, succeeds
from signalbox.testing.history import Entry, History
from signalbox.testing.run import IncidentView, Run, SuggestionView, TaskView, Unexpected
from signalbox.testing.workflow import InvalidDefinition, UnknownName, Workflow
from signalbox.testing.world import NeverSettles, WrongAnswer

__all__ = [
    "Answer",
    "Entry",
    "History",
    "IncidentView",
    "InvalidDefinition",
    "NeverSettles",
    "Run",
    "SuggestionView",
    "TaskView",
    "Unexpected",
    "UnknownName",
    "Workflow",
    "WrongAnswer",
    "crashes",
    "fails",
    "hangs",
    "says",
    "succeeds",
]
