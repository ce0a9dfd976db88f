"""Answers as they travel: sealed for one process, and notes to workers of which nothing is believed that cannot be."""

from datetime import UTC, datetime

import orjson
import pytest

from common.config import Settings
from common.credentials import make_secret
from common.errors import Misconfigured
from common.ids import InstanceId, TaskId, TenantId, WorkerId, new_id, new_token
from common.queues import answers
from common.queues.answers import Answer, Envelope
from common.store.leased import KnownEnd

KEY = b"k" * 32


def an_answer() -> Answer:
    end = KnownEnd(
        TaskId(new_id()), new_token(), TenantId(new_id()), InstanceId(new_id()), '{"card":"4111"}',
        datetime(2026, 3, 1, 12, 30, 0, 123_456, tzinfo=UTC), '{"entry":{},"event":{},"key":"ü"}',
    )  # fmt: skip
    return Answer(WorkerId(new_id()), "4f2a", end)


def test_what_is_sealed_for_an_address_is_opened_there_and_tells_nobody_else() -> None:
    envelope, told = Envelope(KEY), [an_answer(), an_answer()]
    address = envelope.address(WorkerId(new_id()))

    sealed = envelope.seal(address, told)

    assert Envelope(KEY).open(address, sealed) == told
    for text in (b"4111", told[0].end.task_id.encode(), told[0].end.token.encode()):
        assert text not in sealed
    assert envelope.seal(address, told) != sealed


def test_what_was_not_sealed_for_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    envelope = Envelope(KEY)
    address, other = (envelope.address(WorkerId(new_id())) for _ in range(2))
    sealed = envelope.seal(address, [an_answer()])
    changed = bytes([*sealed[:-1], sealed[-1] ^ 1])

    for said in (b"", b"[]", b"x" * 12, b"x" * 100, changed, sealed[:-1], orjson.dumps([["a"] * 9])):
        with pytest.raises(ValueError, match="not sealed for us"):
            envelope.open(address, said)
    with pytest.raises(ValueError, match="not sealed for us"):
        envelope.open(other, sealed)
    with pytest.raises(ValueError, match="not sealed for us"):
        Envelope(b"l" * 32).open(address, sealed)
    monkeypatch.setattr(answers, "LONGEST", len(sealed) - 1)
    with pytest.raises(ValueError, match="bytes"):
        envelope.open(address, sealed)


def test_nobody_seals_for_who_has_another_key() -> None:
    address = Envelope(KEY).address(WorkerId(new_id()))

    assert Envelope(KEY).may_seal(address)
    assert not Envelope(b"l" * 32).may_seal(address)
    assert not Envelope(KEY).may_seal("answers:everybody")


def test_an_installation_without_a_secret_has_no_envelope() -> None:
    assert Envelope.of(Settings(secret=None)) is None
    assert Envelope.of(Settings.model_validate({"secret": make_secret()})) is not None
    with pytest.raises(Misconfigured):
        Envelope.of(Settings.model_validate({"secret": "short"}))
