"""The judge of the chaos suite finds what it is there to find: books that do not agree with the database."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
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


@contextmanager
def site(folder: Path) -> Iterator[Cluster]:
    """The site of a folder, in which the engine takes its turns in this process: no other is started."""
    with (
        pytest.MonkeyPatch.context() as patch,
        Cluster(Processes(folder), f"sqlite:///{folder}/signalbox.db") as cluster,
    ):
        patch.setenv("LEDGER", str(folder / "ledger"))
        cluster.engine.handler("chaos.work", chaos_handlers.work)
        cluster.engine.handler("chaos.unsteady", chaos_handlers.unsteady)
        cluster.engine.handler("chaos.light", chaos_handlers.light)
        cluster.engine.handler("chaos.refuse", chaos_handlers.refuse)
        yield cluster


@dataclass(frozen=True)
class Told:
    """Folders that tests copy: of a site whose definitions are applied, and of the same one once a story was told there."""

    before: Path
    after: Path
    story: Story


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory, migrated_sqlite_file: Path) -> Told:
    before, after = tmp_path_factory.mktemp("before"), tmp_path_factory.mktemp("after")
    shutil.copyfile(migrated_sqlite_file, before / "signalbox.db")
    with site(before) as cluster:
        for document in (chaos_chart.CHILD, chaos_chart.CHART, chaos_saga.SAGA):
            cluster.engine.apply(document)
    shutil.copytree(before, after, dirs_exist_ok=True)
    with site(after) as cluster:
        story = tell(cluster, Story(0, [*ADDS, ("CLOSE", 0.0)]))
    return Told(before, after, story)


@pytest.fixture
def folder(request: pytest.FixtureRequest, told: Told, tmp_path: Path) -> Path:
    """A folder of the test's own: in that of one that asks for `story`, it was told."""
    copied = told.after if "story" in request.fixturenames else told.before
    return shutil.copytree(copied, tmp_path / "site")


@pytest.fixture
def ledger(folder: Path) -> Ledger:
    return Ledger(folder / "ledger")


@pytest.fixture
def cluster(folder: Path) -> Iterator[Cluster]:
    with site(folder) as cluster:
        yield cluster


def tell(cluster: Cluster, story: Story) -> Story:
    """Tell the engine a story, and take turns until its instance is final."""
    begin(cluster, story)
    end(cluster, story)
    return story


def begin(cluster: Cluster, story: Story) -> None:
    """Tell the engine all that a story says."""
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


def end(cluster: Cluster, story: Story) -> None:
    engine = cluster.engine

    def is_final() -> bool:
        engine.settle()
        if engine.status(story.instance_id) == "failed":
            engine.control("cancel", story.instance_id)
        return engine.status(story.instance_id) in ("completed", "cancelled")

    wait_until(is_final, what=f"the end of {story}", seconds=20)


@pytest.fixture
def story(told: Told) -> Story:
    return deepcopy(told.story)


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
    stories = [Story(number, [*ADDS, ("CLOSE", 0.0)]) for number in range(chaos_chart.CHILDREN_AT_ONCE + 1)]
    for story in stories:
        begin(cluster, story)
    for story in stories:
        end(cluster, story)
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
