"""The judge of the chaos suite finds what it is there to find: books that do not agree with the database."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import chaos_chart, chaos_handlers, chaos_saga
from tests.support.chaos_callers import Story, Verb
from tests.support.chaos_judge import Judgement, judge
from tests.support.cluster import Cluster
from tests.support.ledger import Ledger
from tests.support.processes import Processes
from tests.support.waiting import wait_until

ADDS = (("start", 0.0), ("ADD", 0.0), ("ADD", 0.0))


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    path = tmp_path / "ledger"
    monkeypatch.setenv("LEDGER", str(path))
    return Ledger(path)


@pytest.fixture
def cluster(tmp_path: Path, sqlite_url: str, ledger: Ledger) -> Iterator[Cluster]:
    """No process is started: the engine takes its turns in this one."""
    with Cluster(Processes(tmp_path), sqlite_url) as cluster:
        cluster.engine.handler("chaos.work", chaos_handlers.work)
        cluster.engine.handler("chaos.unsteady", chaos_handlers.unsteady)
        cluster.engine.apply(chaos_chart.CHILD)
        cluster.engine.handler("chaos.refuse", chaos_handlers.refuse)
        cluster.engine.apply(chaos_chart.CHART)
        cluster.engine.apply(chaos_saga.SAGA)
        yield cluster


def tell(cluster: Cluster, story: Story) -> Story:
    """Tell the engine a story, and take turns until its instance is final."""
    engine = cluster.engine
    story.instance_id = engine.start(story.key, business_key=story.business_key)
    for verb, _ in story.steps[1:]:
        match verb:
            case "ADD":
                story.acknowledged.append(len(story.acknowledged) + 1)
                engine.send(story.instance_id, "ADD", n=story.acknowledged[-1])
            case "CLOSE":
                engine.send(story.instance_id, "CLOSE")
            case _:
                engine.settle()
                engine.control(verb, story.instance_id)

    def is_final() -> bool:
        engine.settle()
        if engine.status(story.instance_id) == "failed":
            engine.control("cancel", story.instance_id)
        return engine.status(story.instance_id) in ("completed", "cancelled")

    wait_until(is_final, what=f"the end of {story}", seconds=20)
    return story


@pytest.fixture
def story(cluster: Cluster) -> Story:
    return tell(cluster, Story(0, [*ADDS, ("CLOSE", 0.0)]))


def faults(judgement: Judgement) -> set[str]:
    return {finding.fault for finding in judgement.findings}


def test_a_true_book_is_clean(cluster: Cluster, story: Story, ledger: Ledger) -> None:
    others = [
        tell(cluster, Story(1, [*ADDS, ("cancel", 0.0)])),
        tell(cluster, Story(2, [*ADDS, ("pause", 0.0), ("resume", 0.0), ("CLOSE", 0.0)])),
    ]

    judgement = judge(cluster, [story, *others], ledger)

    judgement.assert_clean()
    assert judgement.counts["attempts"] == judgement.counts["handlers_called"] > chaos_chart.TASKS


def test_an_acknowledged_event_that_is_nowhere_is_lost(
    cluster: Cluster, story: Story, ledger: Ledger
) -> None:
    story.acknowledged.append(3)

    assert "lost" in faults(judge(cluster, [story], ledger))


def test_an_event_that_came_twice_is_doubled(cluster: Cluster, ledger: Ledger) -> None:
    story = Story(0, [*ADDS, ("CLOSE", 0.0)])
    story.instance_id = cluster.engine.start(chaos_chart.KEY, business_key=story.business_key)
    for number in (1, 1, 2):
        cluster.engine.send(story.instance_id, "ADD", n=number)
    cluster.engine.settle()
    story.acknowledged += [1, 2]

    assert "doubled" in faults(judge(cluster, [story], ledger))


def test_an_instance_that_does_not_end_is_stuck(cluster: Cluster, ledger: Ledger) -> None:
    story = Story(0, [("start", 0.0)])
    story.instance_id = cluster.engine.start(chaos_chart.KEY, business_key=story.business_key)
    cluster.engine.settle()

    assert "stuck" in faults(judge(cluster, [story], ledger))


def test_another_end_than_the_story_s_is_wrong(cluster: Cluster, story: Story, ledger: Ledger) -> None:
    story.steps = [*ADDS, ("cancel", 0.0)]

    assert "wrong" in faults(judge(cluster, [story], ledger))


def test_an_instance_that_nobody_asked_for_is_wrong(cluster: Cluster, story: Story, ledger: Ledger) -> None:
    tell(cluster, Story(1, [*ADDS, ("CLOSE", 0.0)]))

    assert faults(judge(cluster, [story], ledger)) == {"wrong"}


def test_more_children_at_once_than_may_run_are_wrong(cluster: Cluster, ledger: Ledger) -> None:
    stories = [
        tell(cluster, Story(number, [*ADDS, ("CLOSE", 0.0)]))
        for number in range(chaos_chart.CHILDREN_AT_ONCE + 1)
    ]
    cluster.engine.execute(
        "UPDATE instances SET concurrency_key = 'low', started_at = '2026-03-01 12:00:00', "
        f"finished_at = '2026-03-01 12:00:01' WHERE definition_key = '{chaos_chart.CHILD_KEY}'"
    )

    judgement = judge(cluster, stories, ledger)

    assert [finding.text for finding in judgement.findings] == [
        "4 children of the shelf low ran at once, 3 may"
    ]


def test_a_handler_that_was_called_without_a_claim_is_doubled(
    cluster: Cluster, story: Story, ledger: Ledger
) -> None:
    [line, *_] = ledger.lines("began")
    with ledger.path.open("a") as book:
        book.write(f"began {line.task_id} {line.attempt} {os.getpid()}\n")

    assert faults(judge(cluster, [story], ledger)) == {"doubled"}


def test_an_outcome_without_a_handler_is_wrong(cluster: Cluster, story: Story, ledger: Ledger) -> None:
    lines = ledger.path.read_text().splitlines(keepends=True)
    ledger.path.write_text("".join(line for line in lines if not line.startswith("ended")))

    assert faults(judge(cluster, [story], ledger)) == {"wrong"}


def test_a_timer_that_fired_early_is_wrong(cluster: Cluster, story: Story, ledger: Ledger) -> None:
    cluster.engine.execute("UPDATE timers SET due_at = '2100-01-01 00:00:00.000000' WHERE status = 'fired'")

    assert "wrong" in faults(judge(cluster, [story], ledger))


def saga(cluster: Cluster, number: int = 7, verb: Verb = "CLOSE") -> Story:
    return tell(cluster, Story(number, [*ADDS, (verb, 0.0)], key=chaos_saga.KEY))


def test_sagas_that_were_undone_are_clean(cluster: Cluster, ledger: Ledger) -> None:
    stories = [saga(cluster, 7), saga(cluster, 8, "cancel")]

    judge(cluster, stories, ledger).assert_clean()
    undone = "SELECT count(*) FROM tasks WHERE name LIKE 'undo-%' AND status = 'succeeded'"
    assert cluster.count(undone) > len(chaos_saga.AMOUNTS)


def test_work_that_was_not_undone_is_wrong(cluster: Cluster, ledger: Ledger) -> None:
    story = saga(cluster)
    cluster.engine.execute("UPDATE tasks SET name = 'undo-nothing' WHERE name = 'undo-left'")

    assert "wrong" in faults(judge(cluster, [story], ledger))


def test_work_that_was_undone_and_not_done_is_wrong(cluster: Cluster, ledger: Ledger) -> None:
    story = saga(cluster)
    cluster.engine.execute("UPDATE tasks SET status = 'cancelled' WHERE name = 'right'")

    assert "wrong" in faults(judge(cluster, [story], ledger))


def test_more_tasks_at_once_than_their_limit_allows_are_wrong(cluster: Cluster, ledger: Ledger) -> None:
    number = chaos_chart.LIMIT["maxRunning"] + 1
    stories = [tell(cluster, Story(one, [*ADDS, ("CLOSE", 0.0)])) for one in range(number)]
    assert judge(cluster, stories, ledger).counts["limited_at_once"] == 1

    cluster.engine.execute(
        "UPDATE attempts SET ended_at = (SELECT max(ended_at) FROM attempts)"
        " WHERE task_id IN (SELECT id FROM tasks WHERE limit_key IS NOT NULL)"
    )

    found = judge(cluster, stories, ledger)
    assert f"{number} attempts at once under a limit of {number - 1}" in {one.text for one in found.findings}
