"""The addresses that a task's references to links become."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from common.canonical import dumps
from common.credentials import make_secret, read_secret
from common.errors import Misconfigured
from common.ids import InstanceId, LeaseToken, TaskId, TenantId, made_at, new_id
from common.links import Links
from common.store.claims import TaskClaim
from task_runner.links import TaskLinks
from task_runner.registry import HandlerError, Permanent

LINKS = Links.of(read_secret(make_secret()), "https://flows.example.com/")
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def claim(link: Any, to: Any = "boss@example.com") -> TaskClaim:
    return TaskClaim(
        TaskId(new_id()), TenantId(new_id()), InstanceId(new_id()), "k", "EMAIL", "ask", 1, 3, None,
        dumps({"to": to}), None, None, None, dumps({"links": {"go": link}}), None, "done", "failed", None, NOW,
        LeaseToken(new_id()),
    )  # fmt: skip


def url(one: TaskClaim, name: str = "go", links: Links = LINKS) -> str:
    return TaskLinks(lambda: links).prepare(None, [])(one, name)  # type: ignore[arg-type]


def test_a_link_completes_a_task_by_its_name_for_whom_the_mail_goes_to() -> None:
    one = claim({"task": "review", "output": {"approved": True}, "expiresIn": "2d"})

    address = url(one)

    assert address.startswith("https://flows.example.com/links/")
    link = LINKS.read(address.rpartition("/links/")[2])
    assert link is not None
    assert (link.verb, link.task, link.value, link.person) == (
        "complete",
        "review",
        {"approved": True},
        "boss@example.com",
    )
    assert (link.tenant_id, link.instance_id) == (one.tenant_id, one.instance_id)
    assert link.expires_at == made_at(one.id).replace(microsecond=0) + timedelta(days=2)


def test_every_attempt_makes_the_same_link() -> None:
    first = claim({"event": {"type": "GO", "n": 1}, "person": "ada@example.org"})
    second = replace(first, attempt=2, token=LeaseToken(new_id()), run_at=NOW + timedelta(hours=1))

    assert url(first) == url(second)
    link = LINKS.read(url(first).rpartition("/links/")[2])
    assert link is not None
    assert (link.verb, link.value, link.person, link.task) == (
        "send",
        {"type": "GO", "n": 1},
        "ada@example.org",
        None,
    )


@pytest.mark.parametrize(
    ("link", "to", "code"),
    [
        ({"task": "review", "reject": "no"}, ["a@example.com", "b@example.com"], "link.invalid"),
        ({"event": 7}, "a@example.com", "link.invalid"),
        ({}, "a@example.com", "link.invalid"),
        ({"event": "GO", "expiresIn": "soon"}, "a@example.com", "link.invalid"),
        ({"event": {"type": "GO", "x": [new_id() for _ in range(200)]}}, "a@example.com", "link.too_large"),
        ("nothing", "a@example.com", "link.unknown"),
    ],
)
def test_what_cannot_be_a_link_fails_the_task_for_good(link: Any, to: Any, code: str) -> None:
    with pytest.raises(Permanent) as failed:
        url(claim(link, to))

    assert failed.value.code == code


def test_without_an_address_for_people_the_task_fails_for_good() -> None:
    with pytest.raises(Permanent, match="SIGNALBOX_PUBLIC_URL") as failed:
        url(claim({"event": "GO"}), links=Links.of(read_secret(make_secret()), None))

    assert failed.value.code == "link.no_public_url"


def test_a_runner_without_the_secret_leaves_it_to_others() -> None:
    def none() -> Links:
        raise Misconfigured("SIGNALBOX_SECRET is not set")

    with pytest.raises(HandlerError) as failed:
        TaskLinks(none).prepare(None, [])(claim({"event": "GO"}), "go")  # type: ignore[arg-type]

    assert failed.value.code == "link.no_key"
    assert failed.value.retryable is None
