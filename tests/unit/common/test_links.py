"""Signed links: what comes out is what went in, and nothing comes out of what was not signed here."""

import random
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.credentials import make_secret, read_secret
from common.errors import Invalid, Misconfigured
from common.ids import InstanceId, TenantId
from common.links import MAX_TOKEN, Link, Links, person_name

OURS, THEIRS = read_secret(make_secret()), read_secret(make_secret())
LINKS = Links.of(OURS, "https://signalbox.test/")
LINK = Link(
    TenantId("t"), InstanceId("i"), "ada@example.org", "complete", {"approved": True}, "n",
    datetime(2026, 3, 1, tzinfo=UTC), "review",
)  # fmt: skip


@pytest.mark.parametrize(
    "link",
    [
        LINK,
        replace(LINK, task=None, verb="send", value={"type": "GO", "n": 1.5, "text": "ü\u2028"}),
        replace(LINK, verb="reject", value="not ours"),
        replace(LINK, value=None),
    ],
)
def test_what_is_signed_is_read(link: Link) -> None:
    assert LINKS.read(LINKS.token(link)) == link
    assert LINKS.url(link) == f"https://signalbox.test/links/{LINKS.token(link)}"
    assert link.actor == "person:ada@example.org"


@given(st.data())
def test_no_changed_token_is_read(data: Any) -> None:
    token = LINKS.token(LINK)
    at = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.sampled_from("ABCxyz019-_.é \0"))
    changed = token[:at] + other + token[at + 1 :]
    found = LINKS.read(changed)
    # Base64's last letter has bits that mean nothing: such a token is the same one.
    assert found is None or found == LINK


@pytest.mark.parametrize("token", ["", ".", "x", "x.y", "é", "\0", "a" * 100_000, "." * 2_000])
def test_what_is_no_token_is_not_read(token: str) -> None:
    assert LINKS.read(token) is None


def test_another_secret_reads_nothing_and_an_older_one_is_still_read() -> None:
    theirs = Links.of(THEIRS, None).token(LINK)
    assert LINKS.read(theirs) is None
    assert Links.of(OURS, None, older=[THEIRS]).read(theirs) == LINK
    assert Links.of(THEIRS, None).read(Links.of(OURS, None, older=[THEIRS]).token(LINK)) is None, (
        "signed anew"
    )


def test_secrets_are_read_as_written() -> None:
    ours, older = make_secret(), make_secret()
    links = Links.read_secrets(ours, f"{older},", "")
    assert links.read(Links.of(read_secret(older), None).token(LINK)) == LINK
    with pytest.raises(Misconfigured, match="SIGNALBOX_OLD_SECRETS"):
        Links.read_secrets(ours, "x", "")


def test_a_link_says_when_it_cannot_be_made() -> None:
    with pytest.raises(Invalid, match="SIGNALBOX_PUBLIC_URL") as refused:
        Links.of(OURS, None).url(LINK)
    assert refused.value.code == "link.no_public_url"
    noise = random.Random(7).randbytes(2_000).hex()
    with pytest.raises(Invalid, match=f"at most {MAX_TOKEN:,}") as refused:
        LINKS.token(replace(LINK, value=noise))
    assert refused.value.code == "link.too_large"


def test_the_digest_is_of_the_instance_and_the_nonce() -> None:
    assert LINK.digest == replace(LINK, expires_at=datetime(2027, 1, 1, tzinfo=UTC), value=1).digest
    assert LINK.digest not in (
        replace(LINK, nonce="m").digest,
        replace(LINK, instance_id=InstanceId("j")).digest,
    )


@pytest.mark.parametrize("name", ["", " ada", "x" * 201, "a\nb", "\u202eada", "key:root", "person:"])
def test_not_everything_is_a_person(name: str) -> None:
    with pytest.raises(Invalid, match="person: expected"):
        person_name(name)


def test_a_person_has_one_name() -> None:
    assert person_name("person:ada@example.org") == person_name("ada@example.org") == "ada@example.org"
