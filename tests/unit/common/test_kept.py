"""What a process keeps of what it has made: so many, and no more than so large together."""

from typing import Any

import pytest

from common.canonical import dumps
from common.commands import contracts
from common.commands.contracts import KEPT_CHARACTERS, NOTHING_SAID, Contracts, contract_of
from common.db import Database
from common.kept import Kept, Shared
from tests.unit.orchestrator.test_charts import another, stored


def kept(*, most: int = 10, characters: int = 100, **sizes: int) -> Kept[str, str]:
    made: Kept[str, str] = Kept(most=most, characters=characters)
    for key, size in sizes.items():
        made.keep(key, key.upper(), size)
    return made


def names(made: Kept[str, str]) -> str:
    return "".join(key for key in "abcdef" if made.find(key) is not None)


def test_what_was_used_longest_ago_goes_first() -> None:
    made = kept(most=2, a=1, b=1)
    assert made.find("a") == "A"

    made.keep("c", "C", 1)

    assert names(made) == "ac"


def test_of_large_ones_fewer_are_kept() -> None:
    assert names(kept(a=50, b=40, c=10)) == "abc"
    assert names(kept(a=50, b=40, c=11)) == "bc"
    assert names(kept(a=1, b=1, c=99)) == "bc"


def test_one_that_is_too_large_is_kept_alone() -> None:
    made = kept(a=1, b=101)
    assert names(made) == "b"

    made.keep("c", "C", 100)
    assert names(made) == "c"


def test_what_is_forgotten_or_kept_anew_does_not_count_any_more() -> None:
    made = kept(a=60, b=40)
    made.forget("a")
    made.forget("a")
    made.keep("b", "new", 30)
    made.keep("c", "C", 70)

    assert names(made) == "bc"
    assert made.find("b") == "new"


def test_what_was_made_of_a_text_is_shared_by_all_who_say_it() -> None:
    made: list[str] = []
    shared: Shared[str] = Shared(most=1, characters=100)

    def make(text: str) -> tuple[str, int]:
        made.append(text)
        return text.upper(), len(text)

    assert [shared.keep(id_, "same", make) for id_ in ("one", "two", "three")] == ["SAME"] * 3
    assert made == ["same"]
    assert [shared.find(id_) for id_ in ("one", "two", "three", "four")] == ["SAME", "SAME", "SAME", None]

    shared.keep("four", "other", make)

    assert [shared.find(id_) for id_ in ("one", "two", "four")] == [None, None, "OTHER"]
    assert shared.keep("two", "same", make) == "SAME"
    assert [shared.find(id_) for id_ in ("one", "four")] == ["SAME", None], "who said the same has it again"


def test_a_contract_is_as_large_as_its_schemas() -> None:
    """1,024 with 440,000 characters of them each took 12 GB of an API: whoever may apply definitions could have it killed for want of memory."""
    document: dict[str, Any] = {
        "id": "d",
        "initial": "a",
        "states": {"a": {}},
        "context": {"text": "x" * 10_000},
    }
    assert contract_of(document) is NOTHING_SAID
    assert NOTHING_SAID.characters == 0

    large = contract_of(document | {"events": {"E": {"type": "object", "title": "x" * 5_000}}})

    assert 5_000 < large.characters < 6_000
    assert large.characters < KEPT_CHARACTERS


def test_of_contracts_with_large_schemas_fewer_are_kept(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contracts, "KEPT_CHARACTERS", 3_000)
    said = dumps({"id": "d", "initial": "a", "states": {"a": {}}, "input": {"title": "x" * 2_000}})
    silent = dumps({"id": "d", "initial": "a", "states": {"a": {}}, "context": {"text": "x" * 10_000}})
    database, asked = Database.open(sqlite_url), Contracts()
    try:
        with database.transaction() as tx:
            ids = stored(tx, *map(another, range(5), [silent, said, silent, said, silent]))
            for id_ in ids:
                asked.of(tx, id_)
    finally:
        database.dispose()

    assert [asked.known(id_) is not None for id_ in ids] == [False, False, True, True, True]


def test_the_contract_of_definitions_that_say_the_same_is_compiled_once(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 2,000 tenants with the same definition each start read and parsed its document anew."""
    monkeypatch.setattr(contracts, "KEPT", 1)
    said = dumps({"id": "d", "initial": "a", "states": {"a": {}}, "input": {"type": "object"}})
    database, asked = Database.open(sqlite_url), Contracts()
    try:
        with database.transaction() as tx:
            ids = stored(tx, said, said, said)
            found = [asked.of(tx, id_) for id_ in ids]
    finally:
        database.dispose()

    assert found[0] is found[1] is found[2]
    assert [asked.known(id_) for id_ in ids] == found
