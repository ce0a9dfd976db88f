"""The key ring: recognises good keys, remembers them briefly, and tells nobody why another one is no good."""

import pytest

from api.auth import (
    PERMISSIONS,
    REMEMBERED_KEYS,
    REMEMBERED_SECONDS,
    KeyRing,
    Permission,
    require,
    roles_with,
)
from common.credentials import FreshKey, Principal, make_key, make_secret, read_secret
from common.db.tables import Role
from common.errors import Forbidden, Unauthorized
from common.ids import TenantId
from common.store.keys import StoredKey

SECRET = read_secret(make_secret())


class Keys:
    """What the database would answer, counting how often it is asked; and a clock."""

    def __init__(self) -> None:
        self.stored: dict[str, StoredKey] = {}
        self.asked = 0
        self.now = 1_000.0

    def issue(self, name: str = "me", *, seconds_left: float | None = None) -> FreshKey:
        key = make_key(SECRET)
        principal = Principal(TenantId("t"), key.prefix, name, Role.ADMIN)
        self.stored[key.prefix] = StoredKey(principal, key.hash, seconds_left)
        return key

    def find(self, prefix: str) -> StoredKey | None:
        self.asked += 1
        return self.stored.get(prefix)

    def ring(self) -> KeyRing:
        return KeyRing(SECRET, self.find, monotonic=lambda: self.now)


def test_a_good_key_is_recognised_and_then_remembered_for_a_while() -> None:
    keys = Keys()
    key, ring = keys.issue("deploy"), keys.ring()

    for _ in range(3):
        assert ring.recognise(f"Bearer {key.text}").name == "deploy"
    assert keys.asked == 1

    keys.now += REMEMBERED_SECONDS + 0.1
    ring.recognise(f"Bearer {key.text}")
    assert keys.asked == 2


def test_a_revoked_key_is_refused_when_it_is_no_longer_remembered() -> None:
    keys = Keys()
    key, ring = keys.issue(), keys.ring()
    ring.recognise(f"Bearer {key.text}")

    keys.stored.clear()
    keys.now += REMEMBERED_SECONDS + 0.1

    with pytest.raises(Unauthorized):
        ring.recognise(f"Bearer {key.text}")


def test_a_key_is_not_remembered_past_its_expiry() -> None:
    keys = Keys()
    key, ring = keys.issue(seconds_left=1.0), keys.ring()
    ring.recognise(f"Bearer {key.text}")

    keys.stored.clear()
    keys.now += 1.1

    with pytest.raises(Unauthorized):
        ring.recognise(f"Bearer {key.text}")


def test_a_remembered_prefix_does_not_let_another_key_in() -> None:
    keys = Keys()
    key, ring = keys.issue(), keys.ring()
    ring.recognise(f"Bearer {key.text}")
    forged = key.text[:-1] + ("a" if key.text[-1] != "a" else "b")

    with pytest.raises(Unauthorized):
        ring.recognise(f"Bearer {forged}")


def test_every_bad_key_is_refused_in_the_same_words() -> None:
    keys = Keys()
    ring = keys.ring()
    unknown = make_key(SECRET).text
    words = set()
    for header in (
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer nonsense",
        f"Basic {unknown}",
        f"Bearer {unknown}",
        unknown,
    ):
        with pytest.raises(Unauthorized) as refusal:
            ring.recognise(header)
        words.add((str(refusal.value), refusal.value.code))

    assert len(words) == 1


def test_text_that_cannot_be_a_key_costs_no_look_up() -> None:
    keys = Keys()

    with pytest.raises(Unauthorized):
        keys.ring().recognise("Bearer " + "x" * 10_000)

    assert keys.asked == 0


def test_no_more_keys_are_remembered_than_there_is_room_for() -> None:
    keys = Keys()
    ring = keys.ring()
    first, *_ = issued = [keys.issue() for _ in range(REMEMBERED_KEYS + 1)]
    for key in issued:
        ring.recognise(f"Bearer {key.text}")
    asked = keys.asked

    ring.recognise(f"Bearer {issued[-1].text}")
    assert keys.asked == asked, "the newest is remembered"
    ring.recognise(f"Bearer {first.text}")
    assert keys.asked == asked + 1, "the oldest had to make room"


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("permission", list(Permission))
def test_a_role_may_do_what_the_table_says(role: Role, permission: Permission) -> None:
    principal = Principal(TenantId("t"), "k", "me", role)
    expected = {
        Role.VIEWER: "read",
        Role.OPERATOR: "read operate answer",
        Role.AUTHOR: "read define",
        Role.WORKER: "work answer",
        Role.ADMIN: "read operate define work answer administer",
    }

    if permission in expected[role].split():
        require(principal, permission)
        assert role in roles_with(permission)
    else:
        with pytest.raises(Forbidden, match=f'"me" has "{role}"'):
            require(principal, permission)
        assert role not in roles_with(permission)


def test_every_role_has_its_permissions() -> None:
    assert set(PERMISSIONS) == set(Role)
