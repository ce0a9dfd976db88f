"""Is there room for what is to be written? A database whose disk is full goes on reading, so nobody who only looks learns of it.

Asked by a small write that is given up again, so only where somebody wants to know: `doctor`, and an API that was refused for it.
"""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from sqlalchemy.exc import DBAPIError

from common.db.engine import Database, sqlstate
from common.db.read_only import READ_ONLY
from common.db.trouble import is_full

PROBE_BYTES = 64 * 1024
_NOT_PERMITTED = "42501"
_FULL = {errno.ENOSPC, errno.EDQUOT}


def has_room(database: Database) -> bool:
    """Whether the disk of the database takes 64 KB more. True where who asks may not try: on a standby, without a right to temporary tables or to the folder.

    On SQLite the folder of the file is asked. Raises what the database raises when it does not answer.
    """
    if database.is_sqlite:
        return _folder_has_room(Path(database.engine.url.database or "").absolute().parent)
    try:
        with database.transaction() as tx:
            # Where the tables are, not where others are told to sort.
            tx.exec_driver_sql("SET LOCAL temp_tablespaces = ''")
            tx.exec_driver_sql(
                "CREATE TEMPORARY TABLE signalbox_room ON COMMIT DROP AS "
                f"SELECT repeat('x', 1000) FROM generate_series(1, {PROBE_BYTES // 1000 + 1})"
            )
            tx.rollback()
    except DBAPIError as error:
        if is_full(error):
            return False
        if sqlstate(error) in (_NOT_PERMITTED, READ_ONLY):
            return True
        raise
    return True


def _folder_has_room(folder: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder, prefix=".signalbox-room-") as probe:
            probe.write(bytes(PROBE_BYTES))  # not only reserved: not every file system refuses that
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        return error.errno not in _FULL
    return True
