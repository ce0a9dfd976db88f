"""Links of tasks at the door: what cannot be one, and references to one that is not there."""

from typing import Any

import pytest

import statechart
from statechart import DefinitionInvalid
from tests.unit.statechart.charts import env


def mail(links: Any, text: str = "Approve: ${link.approve}", **task: Any) -> dict[str, Any]:
    wanted = {"type": "EMAIL", "input": {"to": "boss@example.com", "text": text}, "links": links, **task}
    return {
        "id": "asks",
        "initial": "asking",
        "context": {"amount": 7},
        "states": {"asking": {"entry": [{"type": "createTask", "task": wanted}]}},
    }


GOOD = {
    "approve": {
        "task": "review",
        "output": {"approved": True, "amount": "${context.amount}"},
        "expiresIn": "2d",
    }
}


def test_a_link_stays_text_and_what_it_does_is_evaluated() -> None:
    step = statechart.start(statechart.load(mail(GOOD)), None, env())

    [task] = [effect for effect in step.effects if isinstance(effect, statechart.effects.CreateTask)]
    assert task.input["text"] == "Approve: ${link.approve}"
    assert task.secrets == (("text",),)
    assert task.options["links"]["approve"]["output"] == {"approved": True, "amount": 7}


BAD = {
    "reference": (mail(GOOD, "${link.aprove}"), "unknown link 'aprove'", "approve"),
    "none": (mail(None), "the task has no links", None),
    "field": (mail({"approve": {"task": "review", "outptu": 1}}), "unknown field 'outptu'", "output"),
    "both": (
        mail({"approve": {"task": "review", "event": "GO"}}),
        "either task, the name of a HUMAN task, or event",
        None,
    ),
    "neither": (mail({"approve": {}}), "either task, the name of a HUMAN task, or event", None),
    "output beside event": (
        mail({"approve": {"event": "GO", "output": 1}}),
        "output and reject are for a task",
        None,
    ),
    "output and reject": (
        mail({"approve": {"task": "a", "output": 1, "reject": "no"}}),
        "either output",
        None,
    ),
    "duration": (mail({"approve": {"task": "a", "expiresIn": "soon"}}), "expiresIn", None),
    "list": (mail([1]), "expected an object of at most 20 links", None),
    "name": (mail({"approve": {"event": "A"}, "a b": {"event": "B"}}), "a link's name is", None),
}


@pytest.mark.parametrize("case", BAD)
def test_a_link_that_cannot_be_is_refused_at_the_door(case: str) -> None:
    document, message, suggestion = BAD[case]

    with pytest.raises(DefinitionInvalid) as refused:
        statechart.load(document)

    [problem] = [one for one in refused.value.problems if one.severity == "error"]
    assert problem.code == "link.invalid"
    assert message in f"{problem.path} {problem.message}"
    assert problem.suggestion == suggestion


def test_a_link_stands_in_the_input_of_a_task_and_nowhere_else() -> None:
    document = mail(GOOD, title="${link.approve}")

    with pytest.raises(DefinitionInvalid, match="a secret, or a link, stands in the input of a task"):
        statechart.load(document)
