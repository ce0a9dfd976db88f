"""Who is meant by a name, and who may do what with a task: tables, and no database."""

import pytest

from common.people import (
    Held,
    Person,
    four_eyes,
    is_same,
    may_assign,
    may_claim,
    may_decide,
    may_pass_on,
    shown_hash,
    spellings,
)

ADA, BOB, ADMIN = Person("key:ada"), Person("person:bob"), Person("key:root", is_admin=True)
FREE = Held("review", None, None)
OF_ADA = Held("review", "Ada", None)
OFFERED = Held("review", None, ["ada", "person:grace"])


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("key:ada", "person:ada", True),
        ("Ada@Example.org", "person:ada@example.org", True),
        ("key:ada", "key:adam", False),
        ("key:key:ada", "key:ada", False),
        ("instance:ada", "ada", False),
    ],
)
def test_a_person_is_the_same_by_every_door(one: str, other: str, same: bool) -> None:
    assert is_same(one, other) is same
    assert is_same(other, one) is same


def test_spellings_are_all_the_same_person() -> None:
    assert spellings("key:ada") == ["ada", "key:ada", "person:ada"]
    assert all(is_same(one, "ada") for one in spellings("person:ada"))


def test_who_may_do_what() -> None:
    def codes(task: Held, by: Person) -> list[str | None]:
        refusals = (
            may_claim(task, by, by.actor), may_pass_on(task, by), may_assign(task, by, "grace"), may_decide(task, by)
        )  # fmt: skip
        return [refusal.code.removeprefix("human.") if refusal else None for refusal in refusals]

    assert codes(FREE, BOB) == codes(FREE, ADMIN) == codes(OF_ADA, ADA) == codes(OFFERED, ADA) == [None] * 4
    assert codes(OF_ADA, BOB) == ["claimed", *["not_assignee"] * 3]
    assert codes(OF_ADA, ADMIN) == ["claimed", None, None, None]
    assert codes(OFFERED, BOB) == ["not_candidate", None, None, "not_candidate"]
    assert codes(OFFERED, ADMIN) == [None] * 4


def test_whose_work_it_is_need_not_be_a_candidate() -> None:
    assert may_decide(Held("review", "bob", ["ada"]), BOB) is None


def test_four_eyes() -> None:
    def code(by: str) -> str | None:
        refusal = four_eyes("review", by, starters=["key:ada"], deciders=["person:grace"])
        return refusal.code if refusal else None

    assert code("person:ada") == code("key:Grace") == "human.four_eyes"
    assert code("key:bob") is None


def test_the_hash_covers_what_is_shown_and_nothing_else() -> None:
    shown = {"title": "a", "description": "b", "form": True}
    assert shown_hash(1, shown) == shown_hash(1, {**shown, "assignee": "x", "due": "2d"})
    hashes = {
        shown_hash(1, shown),
        shown_hash(2, shown),
        *(shown_hash(1, {**shown, name: "z"}) for name in shown),
    }
    assert len(hashes) == 5
