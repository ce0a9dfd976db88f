"""Cursors: good for the list they were made for, and for nothing else."""

import base64

import pytest

from api.cursors import Cursors, ListName
from common.credentials import make_secret, read_secret
from common.errors import Invalid
from common.ids import TenantId

CURSORS = Cursors.of(read_secret(make_secret()))
TASKS = ListName(TenantId("a"), "/api/v1/tasks?{}")


def test_a_cursor_gives_its_position_back() -> None:
    assert CURSORS.read(TASKS, CURSORS.write(TASKS, ["some-id"])) == ["some-id"]
    assert CURSORS.read(TASKS, CURSORS.write(TASKS, [12, 3])) == [12, 3]


def test_without_a_cursor_there_is_no_position() -> None:
    assert CURSORS.read(TASKS, None) is None


@pytest.mark.parametrize(
    "other",
    [
        ListName(TenantId("b"), TASKS.address),
        ListName(TASKS.tenant_id, "/api/v1/incidents?{}"),
        ListName(TASKS.tenant_id, '/api/v1/tasks?{"type":"EMAIL"}'),
    ],
)
def test_a_cursor_of_another_tenant_list_or_filter_is_refused(other: ListName) -> None:
    with pytest.raises(Invalid) as refusal:
        CURSORS.read(other, CURSORS.write(TASKS, ["some-id"]))

    assert refusal.value.code == "cursor.invalid"


def test_a_cursor_of_another_installation_is_refused() -> None:
    with pytest.raises(Invalid):
        Cursors.of(read_secret(make_secret())).read(TASKS, CURSORS.write(TASKS, ["some-id"]))


GOOD = CURSORS.write(TASKS, ["some-id"])
HAND_MADE = {
    "empty": "",
    "one letter": "x",
    "not ASCII": "æ",
    "not base64": "!!!!",
    "cut off": GOOD[:-4],
    "longer": GOOD + "AAAA",
    "another signature": ("B" if GOOD[0] != "B" else "C") + GOOD[1:],
    "without a signature": base64.urlsafe_b64encode(b'["some-id"]').decode(),
    "without a position": base64.urlsafe_b64encode(bytes(16)).decode(),
    "very long": "A" * 100_000,
}


@pytest.mark.parametrize("name", HAND_MADE)
def test_a_hand_made_cursor_is_refused(name: str) -> None:
    with pytest.raises(Invalid) as refusal:
        CURSORS.read(TASKS, HAND_MADE[name])

    assert refusal.value.code == "cursor.invalid"
