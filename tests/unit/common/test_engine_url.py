"""What is no URL of a database is told as a setting, whatever SQLAlchemy says to it."""

import pytest

from common.db import Database
from common.errors import Misconfigured


@pytest.mark.parametrize(
    "url",
    ["postgresql://me:hush@host:many/db", "postgresql://me:hush:more/x@host:5432:1/db", "nonsense"],
)
def test_a_url_without_a_number_as_its_port_is_misconfigured(url: str) -> None:
    with pytest.raises(Misconfigured) as refused:
        Database.open(url)

    assert str(refused.value).startswith(
        'DATABASE_URL: expected "postgresql://user:password@host:port/database"'
    )
    assert "hush" not in str(refused.value)
