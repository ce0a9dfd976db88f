"""Telling how tasks ended: at once, those that end together in one call, and handed back where no receipt comes."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from common.commands.outcome import Outcome
from common.ids import InstanceId, TaskId, TenantId, WorkerId, new_id, new_token
from common.queues.answers import Answer, Envelope
from task_runner import answering
from task_runner.answering import Answering
from tests.support.waiting import wait_until

ENVELOPE = Envelope(b"k" * 32)
HERE, THERE = (ENVELOPE.address(WorkerId(new_id())) for _ in range(2))
AT = datetime(2026, 3, 1, tzinfo=UTC)


def an_outcome(output: str = "7") -> Outcome:
    return Outcome(
        TaskId(new_id()), TenantId(new_id()), InstanceId(new_id()), new_token(), "k", "SYSTEM", "work", 1, None, "DONE", "FAILED",
        output=output, only_since=AT, ended_at=AT, answers_one=True,
    )  # fmt: skip


class Post:
    """Who is called, and with what; `heard` is what the one who calls learns of the call before."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[Answer]]] = []
        self.handed_back: list[Outcome] = []
        self.heard: int | None = 1
        self.back = threading.Event()

    def say(self, whom: str, said: bytes) -> int | None:
        self.calls.append((whom, ENVELOPE.open(whom, said)))
        return self.heard

    def hand_back(self, outcome: Outcome) -> None:
        self.handed_back.append(outcome)

    @property
    def told(self) -> list[str]:
        return [answer.end.task_id for _, answers in self.calls for answer in answers]

    @property
    def receipts(self) -> list[str]:
        return [answer.receipt for _, answers in self.calls for answer in answers]


@pytest.fixture
def post() -> Post:
    return Post()


@pytest.fixture
def telling(post: Post, monkeypatch: pytest.MonkeyPatch) -> Iterator[Answering]:
    monkeypatch.setattr(answering, "PATIENCE", 600.0)
    made = Answering(worker=WorkerId(new_id()), say=post.say, envelope=ENVELOPE, hand_back=post.hand_back)
    made.start()
    yield made
    made.close()


def test_the_first_is_told_at_once_and_is_known_until_its_receipt(post: Post, telling: Answering) -> None:
    outcome = an_outcome()

    assert telling.tell(outcome, HERE)

    assert post.told == [outcome.task_id]
    assert telling.take(["another's"]) == []
    assert telling.take(post.receipts * 2) == [outcome]
    assert telling.take(post.receipts) == []
    assert telling.close() == []


def test_those_that_end_together_go_together(
    post: Post, telling: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering, "TOGETHER", 0.2)
    outcomes = [an_outcome() for _ in range(20)]

    for outcome in outcomes:
        assert telling.tell(outcome, HERE if outcome is not outcomes[-1] else THERE)

    wait_until(lambda: len(post.told) == 20, what="all to be told")
    assert [(whom, len(answers)) for whom, answers in post.calls] == [(HERE, 1), (HERE, 18), (THERE, 1)]
    assert len(set(post.receipts)) == 20


def test_what_no_receipt_comes_for_is_handed_back_once(
    post: Post, telling: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering, "PATIENCE", 0.05)
    stored, unstored = an_outcome(), an_outcome()

    assert telling.tell(stored, HERE)
    assert telling.take(post.receipts) == [stored]
    assert telling.tell(unstored, HERE)

    wait_until(lambda: post.handed_back, what="the outcome to come back")
    assert post.handed_back == [unstored]
    assert telling.take(post.receipts) == []


def test_where_nobody_listens_all_that_was_told_there_comes_back(post: Post, telling: Answering) -> None:
    first, second = an_outcome(), an_outcome()
    assert telling.tell(first, HERE)
    post.heard = 0

    assert telling.tell(second, HERE)

    wait_until(lambda: len(post.handed_back) == 2, what="both to come back")
    assert post.handed_back == [first, second]


def test_what_cannot_be_told_is_refused(
    post: Post, telling: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    strangers = Envelope(b"l" * 32).address(WorkerId(new_id()))

    assert not telling.tell(an_outcome("x" * answering.ANSWER_BYTES), HERE)
    assert not telling.tell(an_outcome(), strangers)
    monkeypatch.setattr(answering, "ON_THEIR_WAY_MAX", 1)
    assert telling.tell(an_outcome(), HERE)
    assert not telling.tell(an_outcome(), HERE)
    assert len(telling.close()) == 1
    assert not telling.tell(an_outcome(), HERE)
    assert len(post.told) == 1
