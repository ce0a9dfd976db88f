"""Secrets at rest: set, set again, deleted, apart by tenant, and sealed again under a new key."""

import threading

import pytest
from sqlalchemy import text

from common.commands.secrets import MAX_VALUE_BYTES, Rotation, delete_secret, rotate, set_secret
from common.credentials import SECRET_BYTES, Secret
from common.db import Database
from common.errors import Invalid, LimitExceeded, NotFound
from common.ids import TenantId, new_id
from common.sealing import SealingKeys, Unopened
from common.store import secrets
from common.store.keys import ensure_tenant
from common.store.secrets import Named, SecretRecord

OLD, NEW = Secret(b"o" * SECRET_BYTES), Secret(b"n" * SECRET_BYTES)
KEYS = SealingKeys.of(OLD)


@pytest.fixture
def tenant(database: Database) -> TenantId:
    with database.transaction() as tx:
        return ensure_tenant(tx, "default")


def put(
    database: Database, tenant: TenantId, name: str, value: str, keys: SealingKeys = KEYS
) -> SecretRecord:
    with database.transaction() as tx:
        return set_secret(tx, tenant, name, value, keys=keys, actor="key:test")


def value_of(database: Database, tenant: TenantId, name: str, keys: SealingKeys = KEYS) -> str:
    with database.reading() as tx:
        return keys.open(tenant, name, secrets.read_sealed(tx, [Named(tenant, name)])[Named(tenant, name)])


def test_a_secret_is_set_and_set_again(database: Database, tenant: TenantId) -> None:
    first = put(database, tenant, "KEY", "one")
    second = put(database, tenant, "KEY", "two")

    assert (first.name, first.version, first.updated_by) == ("KEY", 1, "key:test")
    assert (second.version, second.created_at) == (2, first.created_at)
    assert second.updated_at >= first.updated_at
    assert value_of(database, tenant, "KEY") == "two"


def test_two_who_set_a_new_secret_at_once_make_two_versions_of_it(
    database: Database, tenant: TenantId
) -> None:
    both = threading.Barrier(2)
    versions: list[int] = []

    def work(value: str) -> None:
        both.wait(10)
        versions.append(put(database, tenant, "KEY", value).version)

    threads = [threading.Thread(target=work, args=(value,)) for value in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)

    assert sorted(versions) == [1, 2]


def test_the_list_goes_by_name_and_tells_no_value(database: Database, tenant: TenantId) -> None:
    for name in ("b", "A", "c.d-1", "_x"):
        put(database, tenant, name, f"value of {name}")
    with database.transaction() as tx:
        other = ensure_tenant(tx, "other")
    put(database, other, "theirs", "value")

    with database.reading() as tx:
        listed = secrets.list_secrets(tx, tenant, after=None, limit=10)
        pages = [secrets.list_secrets(tx, tenant, after=after, limit=2) for after in (None, listed[1].name)]

    assert sorted(one.name for one in listed) == ["A", "_x", "b", "c.d-1"]
    assert [one.name for page in pages for one in page] == [one.name for one in listed]
    assert "value" not in repr(listed)


def test_tenants_do_not_meet(database: Database, tenant: TenantId) -> None:
    with database.transaction() as tx:
        other = ensure_tenant(tx, "other")
    put(database, tenant, "KEY", "ours")
    put(database, other, "KEY", "theirs")
    put(database, other, "THEIRS", "theirs")

    with database.reading() as tx:
        found = secrets.read_sealed(tx, [Named(tenant, "KEY"), Named(tenant, "THEIRS"), Named(other, "NONE")])
    assert [KEYS.open(*named, sealed) for named, sealed in found.items()] == ["ours"]
    with database.transaction() as tx, pytest.raises(NotFound):
        delete_secret(tx, tenant, "THEIRS")
    assert value_of(database, other, "THEIRS") == "theirs"


def test_rows_that_are_swapped_do_not_open(database: Database, tenant: TenantId) -> None:
    put(database, tenant, "A", "value of a")
    put(database, tenant, "B", "value of b")
    with database.transaction() as tx:
        tx.execute(
            text(
                "UPDATE secrets SET sealed = (SELECT sealed FROM secrets s WHERE s.name = 'B') WHERE name = 'A'"
            )
        )

    with pytest.raises(Unopened, match="was not sealed for it"):
        value_of(database, tenant, "A")


def test_a_deleted_secret_is_gone_and_begins_anew(database: Database, tenant: TenantId) -> None:
    put(database, tenant, "KEY", "one")
    put(database, tenant, "KEY", "two")

    with database.transaction() as tx:
        delete_secret(tx, tenant, "KEY")
    with database.transaction() as tx, pytest.raises(NotFound, match='no secret "KEY"'):
        delete_secret(tx, tenant, "KEY")

    assert put(database, tenant, "KEY", "three").version == 1


@pytest.mark.parametrize("name", ["", "1a", "a b", "a/b", "ä", "a" * 201, "a\n", "-a", ".a", "${x}"])
def test_names_that_no_definition_could_write_are_refused(
    database: Database, tenant: TenantId, name: str
) -> None:
    with pytest.raises(Invalid, match="is no name of a secret"):
        put(database, tenant, name, "value")


def test_values_are_bounded_and_not_told(database: Database, tenant: TenantId) -> None:
    put(database, tenant, "a" * 200, "ä" * (MAX_VALUE_BYTES // 2))
    for value, error in (
        ("", Invalid),
        ("a\0b", Invalid),
        ("ä" * (MAX_VALUE_BYTES // 2) + "b", LimitExceeded),
    ):
        with pytest.raises(error) as refused:
            put(database, tenant, "KEY", value)
        assert "ää" not in str(refused.value)


# -- rotation -----------------------------------------------------------------------------------------------------


def test_rotation_seals_everything_again_and_changes_nothing_else(
    database: Database, tenant: TenantId
) -> None:
    with database.transaction() as tx:
        other = ensure_tenant(tx, "other")
    for number in range(7):
        put(database, tenant if number % 2 else other, f"S{number}", f"value {number}")
    now = SealingKeys.of(NEW, [OLD])
    put(database, tenant, "S1", "set meanwhile", now)

    told = list(rotate(database, now, batch=2))

    assert [(one.done, one.total) for one in told] == [(0, 6), (2, 6), (4, 6), (6, 6)]
    only_new = SealingKeys.of(NEW)
    assert value_of(database, tenant, "S1", only_new) == "set meanwhile"
    assert [
        value_of(database, tenant if n % 2 else other, f"S{n}", only_new) for n in (0, 2, 3, 4, 5, 6)
    ] == [f"value {n}" for n in (0, 2, 3, 4, 5, 6)]
    with database.reading() as tx:
        listed = secrets.list_secrets(tx, tenant, after=None, limit=10)
    assert [(one.name, one.version) for one in listed] == [("S1", 2), ("S3", 1), ("S5", 1)]
    assert list(rotate(database, now)) == [Rotation(0)]


def test_what_no_key_opens_is_told_and_left(database: Database, tenant: TenantId) -> None:
    lost = SealingKeys.of(Secret(b"l" * SECRET_BYTES))
    put(database, tenant, "A", "value")
    put(database, tenant, "LOST", "value", lost)
    put(database, tenant, "Z", "value")

    *_, last = rotate(database, SealingKeys.of(NEW, [OLD]), batch=1)

    assert last == Rotation(3, 2, ((Named(tenant, "LOST"), "secret.unreadable"),))
    assert value_of(database, tenant, "LOST", lost) == "value"


def test_a_run_that_broke_off_is_taken_up(database: Database, tenant: TenantId) -> None:
    for number in range(5):
        put(database, tenant, f"S{number}", "value")
    now = SealingKeys.of(NEW, [OLD])
    begun = rotate(database, now, batch=2)
    assert [next(begun).done, next(begun).done] == [0, 2]
    begun.close()

    assert [one.done for one in rotate(database, now, batch=2)] == [0, 2, 3]


def test_a_row_of_no_tenant_cannot_be(database: Database) -> None:
    with pytest.raises(Exception, match=r"(?i)foreign key"):
        put(database, TenantId(new_id()), "KEY", "value")
