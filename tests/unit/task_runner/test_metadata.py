"""`context.metadata` as a handler sees it, and what passes between an isolated handler and its runner."""

from typing import Any

import pytest

from common.errors import Invalid
from common.metadata import MAX_KEYS
from signalbox.testing.memory import Memory
from signalbox.testing.metadata import MemoryMetadata
from signalbox.testing.workflow import START
from task_runner.metadata import Metadata, RemoteMetadata, answer_request
from task_runner.registry import Permanent, Retryable


@pytest.fixture
def port() -> MemoryMetadata:
    return MemoryMetadata(Memory(START), "an instance")


@pytest.fixture(params=["here", "remote"])
def metadata(request: pytest.FixtureRequest, port: MemoryMetadata) -> Metadata:
    """In the process that keeps the values, and by requests to it."""
    if request.param == "here":
        return Metadata(port)
    return Metadata(RemoteMetadata(lambda asked: answer_request(port, asked)))


def test_what_is_set_is_read_as_it_was(metadata: Metadata) -> None:
    metadata.set("parcel", {"weight": 2.0, "lines": (1, None, "ä")})

    assert metadata.get("parcel") == {"weight": 2, "lines": [1, None, "ä"]}
    assert metadata.get("nothing") is None
    assert metadata.get("nothing", 7) == 7
    metadata.set("none", None)
    assert metadata.get("none", 7) is None
    assert metadata.all() == {"none": None, "parcel": metadata.get("parcel")}
    metadata.remove("none")
    metadata.remove("none")
    assert list(metadata.all()) == ["parcel"]


def test_numbers_are_counted_and_values_updated(metadata: Metadata) -> None:
    assert [metadata.increment("n"), metadata.increment("n", 2), metadata.increment("n", -0.5)] == [1, 3, 2.5]
    assert metadata.update("list", lambda found: [*found, 1], default=[]) == [1]
    assert metadata.update("list", lambda found: [*found, 2], default=[]) == [1, 2]
    for value in ("text", True, None, [1]):
        metadata.set("other", value)
        with pytest.raises(Permanent, match="expected a number") as refused:
            metadata.increment("other")
        assert refused.value.code == "metadata.not_a_number"


def test_an_update_is_made_again_of_what_others_wrote_meanwhile(metadata: Metadata) -> None:
    seen: list[Any] = []

    def add(found: int) -> int:
        seen.append(found)
        if len(seen) == 1:
            metadata.set("n", 10)
        return found + 1

    assert metadata.update("n", add, default=0) == 11
    assert seen == [0, 10]


@pytest.mark.parametrize("key", ["", "x" * 201, 7, None, "a\0b", "\ud800"])
def test_a_key_that_none_can_be_is_refused(metadata: Metadata, key: Any) -> None:
    for ask in (metadata.get, metadata.remove, lambda name: metadata.set(name, 1), metadata.increment):
        with pytest.raises(Invalid):
            ask(key)


@pytest.mark.parametrize("value", [{1, 2}, object(), float("nan"), "\0", 2**60, {1: 2}])
def test_a_value_that_is_no_json_is_refused(metadata: Metadata, value: Any) -> None:
    with pytest.raises(Invalid):
        metadata.set("key", value)
    assert metadata.all() == {}


def test_values_and_their_number_are_bounded(metadata: Metadata) -> None:
    with pytest.raises(Permanent, match="64002 bytes, at most 64000") as refused:
        metadata.set("large", "x" * 64_000)
    assert refused.value.data == {"limit": "max_metadata_bytes", "allowed": 64_000}
    for number in range(MAX_KEYS):
        metadata.set(str(number), number)
    metadata.set("0", "again")
    for ask in (lambda: metadata.set("one more", 1), lambda: metadata.increment("one more")):
        with pytest.raises(Permanent, match="at most 1,000 metadata keys") as refused:
            ask()
        assert refused.value.data["limit"] == "max_metadata_keys"


def test_secrets_do_not_come_out_by_it(port: MemoryMetadata) -> None:
    metadata = Metadata(port, redact=lambda value: str(value).replace("hunter2", "[redacted]"))

    metadata.set("said", "it is hunter2")

    assert metadata.get("said") == "it is [redacted]"


@pytest.mark.parametrize(
    "request_",
    [{}, {"verb": "read"}, {"verb": "read", "key": 7}, {"verb": "write", "key": "a", "value": 1}, {"verb": "drop"},
     {"verb": "swap", "key": "a", "value": "1"}, []],
)  # fmt: skip
def test_a_request_of_another_form_is_answered_and_changes_nothing(
    port: MemoryMetadata, request_: Any
) -> None:
    assert answer_request(port, request_) == {"failed": "no such request"}
    assert port.read_all() == {}


def test_a_runner_that_cannot_answer_lets_the_handler_try_again() -> None:
    class Away(MemoryMetadata):
        def read(self, key: str) -> str | None:
            raise OSError(f"no {key}\ud800")

    port = Away(Memory(START), "an instance")

    with pytest.raises(Retryable, match="OSError: no a") as failed:
        Metadata(RemoteMetadata(lambda asked: answer_request(port, asked))).get("a")
    assert failed.value.code == "metadata.unavailable"
