"""The callers of the chaos suite: each speaks for many instances over HTTP, and asks again until it has an answer.

A **story** is what one instance is told, in order: start, some ADDs, sometimes pause and resume, at the end CLOSE or cancel.
Every request carries an `Idempotency-Key` and is repeated under it for as long as nobody answers, as a caller would; one in
ten is repeated although it was answered, and the second answer must be about the same instance. What was acknowledged is
kept here, outside the database.
"""

from __future__ import annotations

import heapq
import random
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Self

import httpx2

from tests.support.chaos_chart import KEY

Verb = Literal["start", "ADD", "pause", "resume", "cancel", "CLOSE"]

PAUSED_SHARE = 0.05
CANCELLED_SHARE = 0.03
REPEATED_SHARE = 0.1
LONGEST_STORY = 4
ANSWER_SECONDS = 3.0
"""How long a caller waits for one answer before it breaks off and asks again."""
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 0.5
PATIENCE_SECONDS = 120.0
"""How long it goes on asking: an answer later than this is a failure of the run."""


@dataclass
class Story:
    """What one instance is told, and what came of it. `steps` are (verb, seconds to wait before it), `key` its definition."""

    number: int
    steps: Sequence[tuple[Verb, float]]
    key: str = KEY
    instance_id: str = ""
    said: int = 0
    acknowledged: list[int] = field(default_factory=list)
    """Numbers of its ADDs that were answered 202, in order."""

    @property
    def business_key(self) -> str:
        return f"order-{self.number}"

    @property
    def is_cancelled(self) -> bool:
        return any(verb == "cancel" for verb, _ in self.steps)

    @property
    def is_told(self) -> bool:
        return self.said == len(self.steps)

    @classmethod
    def invent(cls, number: int, chance: random.Random, key: str = KEY) -> Story:
        """Make a story up, for an instance of the definition `key`."""
        adds: list[Verb] = ["ADD"] * chance.randint(1, LONGEST_STORY)
        if chance.random() < CANCELLED_SHARE:
            verbs: list[Verb] = ["start", *adds, "cancel"]
        elif chance.random() < PAUSED_SHARE:
            cut = chance.randint(0, len(adds))
            verbs = ["start", *adds[:cut], "pause", *adds[cut:], "resume", "CLOSE"]
        else:
            verbs = ["start", *adds, "CLOSE"]
        return cls(number, [(verb, chance.uniform(0.02, 0.5)) for verb in verbs], key)


@dataclass
class Counts:
    """What the callers met, all together."""

    requests: int = 0
    unanswered: int = 0
    unavailable: int = 0
    repeated: int = 0
    not_yet: int = 0
    """Commands that were refused because one before them was not consumed yet, and were said again."""

    def by_name(self) -> dict[str, int]:
        return {
            "requests": self.requests,
            "requests without an answer": self.unanswered,
            "requests answered 503": self.unavailable,
            "requests repeated on purpose": self.repeated,
            "commands refused as too early": self.not_yet,
        }


class Caller:
    """One connection to the API, and what it is told to say."""

    def __init__(self, url: str, key: str, counts: Counts, ending: threading.Event) -> None:
        self._http = httpx2.Client(
            base_url=f"{url}/api/v1",
            headers={"Authorization": f"Bearer {key}", "Prefer": "wait=0"},
            timeout=ANSWER_SECONDS,
            trust_env=False,
        )
        self._counts = counts
        self._ending = ending

    def close(self) -> None:
        self._http.close()

    def ask(self, path: str, body: Mapping[str, Any], key: str) -> httpx2.Response:
        """POST until somebody answers; 503 is nobody. Raises `AssertionError` when that takes two minutes."""
        began = time.monotonic()
        pause = FIRST_PAUSE_SECONDS
        last = ""
        while time.monotonic() - began < PATIENCE_SECONDS:
            self._counts.requests += 1
            try:
                response = self._http.post(path, json=body, headers={"Idempotency-Key": key})
            except httpx2.TransportError as error:
                self._counts.unanswered += 1
                last = f"{type(error).__name__}: {error}"
            else:
                if response.status_code < 500:
                    return response
                self._counts.unavailable += 1
                last = f"{response.status_code}: {response.text[:200]}"
            if self._ending.wait(pause):
                break
            pause = min(pause * 1.5, LONGEST_PAUSE_SECONDS)
        raise AssertionError(
            f"waited {time.monotonic() - began:.0f} s for an answer to POST {path}; the last was {last}"
        )

    def find(self, path: str, filters: Mapping[str, str]) -> list[dict[str, Any]]:
        """The first page of a list; nothing where nobody answers."""
        try:
            response = self._http.get(path, params=dict(filters))
        except httpx2.TransportError:
            return []
        if response.status_code >= 500:
            return []
        _require_success(response, path, filters)
        items: list[dict[str, Any]] = response.json()["items"]
        return items


class Callers:
    """A few callers at work on a list of stories, which begin evenly over `seconds`.

    `errors` holds what a caller ended with. Make it, `begin` it, and `close` it when `are_done`.
    """

    def __init__(
        self, url: str, key: str, stories: Sequence[Story], *, seconds: float, callers: int, seed: int
    ) -> None:
        self.stories = stories
        self.counts = Counts()
        self.errors: list[BaseException] = []
        self._chance = random.Random(seed)
        self._ending = threading.Event()
        self._turn = threading.Condition()
        began = time.monotonic()
        share = seconds / max(len(stories), 1)
        self._due = [(began + share * story.number, story.number) for story in stories]
        heapq.heapify(self._due)
        self._left = len(stories)
        self._callers = [Caller(url, key, self.counts, self._ending) for _ in range(callers)]
        self._threads = [
            threading.Thread(target=self._run, args=(caller,), name=f"caller-{number}", daemon=True)
            for number, caller in enumerate(self._callers)
        ]

    def begin(self) -> None:
        for thread in self._threads:
            thread.start()

    @property
    def are_done(self) -> bool:
        """Whether every story is told. Raises what a caller ended with."""
        if self.errors:
            raise self.errors[0]
        return self._left == 0

    def close(self) -> None:
        """Break off what is not told yet."""
        self._ending.set()
        with self._turn:
            self._turn.notify_all()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(ANSWER_SECONDS + 10)
                assert not thread.is_alive(), f"{thread.name} did not end"
        for caller in self._callers:
            caller.close()

    def _run(self, caller: Caller) -> None:
        try:
            while (story := self._next()) is not None:
                wait = self._tell(caller, story)
                with self._turn:
                    if story.is_told:
                        self._left -= 1
                    else:
                        heapq.heappush(self._due, (time.monotonic() + wait, story.number))
                    self._turn.notify_all()
        except BaseException as error:  # noqa: BLE001 - kept for the thread of the test, which raises it
            if not self._ending.is_set():
                self.errors.append(error)

    def _next(self) -> Story | None:
        """The story whose turn has come; None when all are told or the run ends."""
        with self._turn:
            while self._left and not self._ending.is_set():
                now = time.monotonic()
                if self._due and self._due[0][0] <= now:
                    return self.stories[heapq.heappop(self._due)[1]]
                self._turn.wait(self._due[0][0] - now if self._due else None)
            return None

    def _tell(self, caller: Caller, story: Story) -> float:
        """Say the next thing of a story; returns the seconds until the one after it."""
        verb, _ = story.steps[story.said]
        path, body = _request(story, verb)
        key = f"{story.business_key}/{story.said}"
        response = caller.ask(path, body, key)
        if response.status_code == 409 and verb in ("pause", "resume"):
            # Its last command is not consumed yet, or it has failed and an operator is about to see to that.
            self.counts.not_yet += 1
            return FIRST_PAUSE_SECONDS
        _require_success(response, path, body)
        instance_id = response.json()["id"]
        if verb == "start":
            story.instance_id = instance_id
        elif verb == "ADD":
            story.acknowledged.append(body["n"])
        if self._chance.random() < REPEATED_SHARE:
            again = caller.ask(path, body, key)
            _require_success(again, path, body)
            self.counts.repeated += 1
            assert again.json()["id"] == instance_id, (
                f"the repeated {verb} of {story} was about another instance"
            )
        story.said += 1
        return story.steps[story.said][1] if not story.is_told else 0.0


def _request(story: Story, verb: Verb) -> tuple[str, dict[str, Any]]:
    """Where a verb goes and what it says."""
    at = f"/instances/{story.instance_id}"
    match verb:
        case "start":
            return "/instances", {"definitionKey": story.key, "businessKey": story.business_key}
        case "ADD":
            return f"{at}/events", {"type": "ADD", "n": len(story.acknowledged) + 1}
        case "CLOSE":
            return f"{at}/events", {"type": "CLOSE"}
        case _:
            return f"{at}/{verb}", {}


def _require_success(response: httpx2.Response, path: str, body: Mapping[str, Any]) -> None:
    assert response.is_success, (
        f"POST {path} {body} was answered {response.status_code}: {response.text[:500]}"
    )


class Resident(ABC):
    """Somebody who looks at the site every now and then, in a thread of their own, and does over HTTP what there is to do."""

    pause = LONGEST_PAUSE_SECONDS
    """Seconds between two looks."""

    def __init__(self, url: str, key: str) -> None:
        self.errors: list[BaseException] = []
        self._ending = threading.Event()
        self.caller = Caller(url, key, Counts(), self._ending)
        self._thread = threading.Thread(target=self._reside, name=type(self).__name__, daemon=True)

    @abstractmethod
    def look(self) -> None:
        """Do what there is to do now."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        self._thread.join(ANSWER_SECONDS + 10)
        self.caller.close()
        if error is None and self.errors:
            raise self.errors[0]

    def _reside(self) -> None:
        try:
            while not self._ending.wait(self.pause):
                self.look()
        except BaseException as error:  # noqa: BLE001 - kept for the thread of the test, which raises it
            if not self._ending.is_set():
                self.errors.append(error)


class Operator(Resident):
    """Who retries what has failed. `retried` counts how often that was."""

    def __init__(self, url: str, key: str) -> None:
        super().__init__(url, key)
        self.retried = 0

    def look(self) -> None:
        for failed in self.caller.find("/instances", {"status": "failed"}):
            path = f"/instances/{failed['id']}/retry"
            response = self.caller.ask(path, {}, f"{path}/{failed['sequence']}")
            self.retried += response.is_success
            if response.status_code == 409 and response.json()["code"] == "instance.compensated":
                path = f"/instances/{failed['id']}/cancel"  # nothing is left to do but to close it
                self.caller.ask(path, {"reason": "it is undone"}, f"{path}/{failed['sequence']}")
