"""The store of tenants and keys, as the command line uses it."""

import threading
from datetime import timedelta

from common.credentials import is_key, key_prefix, make_secret, read_secret
from common.db import Database
from common.db.now import read_now
from common.db.tables import Role
from common.ids import TenantId, new_id
from common.store import keys

SECRET = read_secret(make_secret())


def test_a_tenant_is_made_once_whoever_asks(database: Database) -> None:
    found: list[TenantId] = []
    begin = threading.Barrier(4)

    def ensure() -> None:
        begin.wait()
        found.append(database.run(lambda tx: keys.ensure_tenant(tx, "acme")))

    threads = [threading.Thread(target=ensure) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(found) == 4
    assert len(set(found)) == 1
    with database.reading() as tx:
        assert keys.find_tenant(tx, "acme") == found[0]
        assert keys.find_tenant(tx, "nobody") is None


def test_an_issued_key_is_found_by_its_prefix_until_it_is_revoked(database: Database) -> None:
    with database.transaction() as tx:
        tenant_id = keys.ensure_tenant(tx, "acme")
        issued = keys.issue_key(tx, tenant_id, name="deploy", role=Role.AUTHOR, secret=SECRET)

        found = keys.find_usable_key(tx, issued.prefix)
        assert found is not None
        assert is_key(SECRET, issued.key, found.hash)
        assert (found.principal.tenant_id, found.principal.name, found.principal.role) == (
            tenant_id,
            "deploy",
            "author",
        )
        assert found.seconds_left is None
        assert key_prefix(issued.key) == issued.prefix

        assert keys.revoke_key(tx, tenant_id, issued.id)
        assert keys.find_usable_key(tx, issued.prefix) is None
        assert not keys.revoke_key(tx, tenant_id, issued.id), "revoked once"
        (listed,) = keys.list_keys(tx, tenant_id)
        assert listed.revoked_at is not None


def test_a_key_is_usable_until_it_expires(database: Database) -> None:
    with database.transaction() as tx:
        tenant_id = keys.ensure_tenant(tx, "acme")
        now = read_now(tx)

        def issue(expires_in: timedelta) -> keys.StoredKey | None:
            issued = keys.issue_key(
                tx, tenant_id, name="x", role=Role.VIEWER, secret=SECRET, expires_at=now + expires_in
            )
            return keys.find_usable_key(tx, issued.prefix)

        lasting = issue(timedelta(hours=1))
        assert lasting is not None
        assert lasting.seconds_left is not None
        assert 3_500 < lasting.seconds_left <= 3_600
        assert issue(timedelta(seconds=-1)) is None


def test_the_text_of_a_key_is_nowhere_in_the_database(database: Database) -> None:
    with database.transaction() as tx:
        tenant_id = keys.ensure_tenant(tx, "acme")
        issued = keys.issue_key(tx, tenant_id, name="deploy", role=Role.ADMIN, secret=SECRET)
        rows = tx.exec_driver_sql("SELECT * FROM api_keys").all()

    secret_part = issued.key.rpartition("_")[2]
    assert secret_part not in str(rows)
    assert issued.key not in repr(issued)


def test_a_tenant_sees_and_revokes_its_own_keys_alone(database: Database) -> None:
    with database.transaction() as tx:
        ours, theirs = keys.ensure_tenant(tx, "ours"), keys.ensure_tenant(tx, "theirs")
        issued = keys.issue_key(tx, ours, name="deploy", role=Role.ADMIN, secret=SECRET)

        assert keys.list_keys(tx, theirs) == []
        assert not keys.revoke_key(tx, theirs, issued.id)
        assert not keys.revoke_key(tx, ours, new_id())
        assert keys.find_usable_key(tx, issued.prefix) is not None
