"""Signed links over HTTP: looked at by anybody, used once, and as good as what they allow."""

import random
import threading
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs
from werkzeug.test import TestResponse

from api.app import services_of
from common.db.tables import Role
from common.links import Link, Links
from tests.integration.api.conftest import APPROVAL, PUBLIC_URL, Api, problem_of
from tests.integration.api.people import ask, entries_of, four_eyes, is_verified, key_named, say, task_of

ADA = "ada@example.org"


def link_to(api: Api, task_id: str, person: str = ADA, **body: Any) -> str:
    """The path of a link that decides a task."""
    answer = api.post(f"/tasks/{task_id}/links", {"person": person, **(body or {"output": {"ok": True}})})
    assert answer.status_code == 201, answer.text
    return str(answer.json["url"]).removeprefix(PUBLIC_URL)


def event_link(api: Api, instance_id: str, **event: Any) -> str:
    answer = api.post(f"/instances/{instance_id}/links", {"person": ADA, "event": event})
    assert answer.status_code == 201, answer.text
    return str(answer.json["url"]).removeprefix(PUBLIC_URL)


def look(api: Api, path: str, method: str = "GET", accept: str = "application/json") -> TestResponse:
    return api.send_raw(method, path, key="", headers={"Accept": accept})


def use(api: Api, path: str) -> TestResponse:
    return look(api, path, "POST")


def read(api: Api, path: str) -> Link:
    link = services_of(api.app).links.read(path.removeprefix("/links/"))
    assert link is not None
    return link


def resigned(api: Api, path: str, **changed: Any) -> str:
    """The same link, changed by somebody who has the secret."""
    return f"/links/{services_of(api.app).links.token(replace(read(api, path), **changed))}"


def test_a_link_is_stored_nowhere_in_the_open_and_told_again_to_who_asked(api: Api) -> None:
    instance_id, task_id = ask(api)
    requests: list[tuple[str, dict[str, Any]]] = [
        (f"/tasks/{task_id}/links", {"person": ADA, "output": 1}),
        (f"/instances/{instance_id}/links", {"person": ADA, "event": {"type": "LOOKED"}}),
    ]
    for number, (path, body) in enumerate(requests):
        headers = {"Idempotency-Key": f"k{number}"}
        first = api.post(path, body, headers=headers)
        assert first.status_code == 201
        token = first.json["url"].removeprefix(f"{PUBLIC_URL}/links/")
        [(kept,)] = api.engine.execute(f"SELECT answer FROM idempotency WHERE key = 'k{number}'")
        assert token.rpartition(".")[0] not in kept

        again = api.post(path, body, headers=headers)
        assert (again.status_code, again.json) == (201, first.json)
        assert again.headers["Idempotency-Replayed"] == "true"
        problem_of(api.post(path, {**body, "person": "bob"}, headers=headers), 422, "idempotency.key_reused")


def test_a_link_completes_its_task_once(api: Api) -> None:
    instance_id, task_id = ask(api, title="Invoice", input={"total": 12})
    path = link_to(api, task_id)

    shown = look(api, path).json
    assert {**shown, "expiresAt": ""} == {
        "state": "open",
        "message": "Nothing happens before you confirm.",
        "person": ADA,
        "expiresAt": "",
        "action": "The button answers with what is shown above, in your name.",
        "title": "Invoice",
        "description": None,
        "input": {"total": 12},
        "value": {"ok": True},
    }
    assert use(api, path).json["state"] == "done"

    assert (use(api, path).status_code, use(api, path).json["state"]) == (410, "used")
    assert (look(api, path).status_code, look(api, path).json["state"]) == (410, "used")
    (decided,) = entries_of(api, instance_id, "human.decided")
    assert (decided["person"], decided["decision"]) == (f"person:{ADA}", "completed")
    (refused,) = entries_of(api, instance_id, "human.refused")
    assert (refused["why"], refused["person"]) == ("link.used", f"person:{ADA}"), "kept once, however often"
    (made,) = entries_of(api, instance_id, "link.made")
    assert (made["verb"], made["person"]) == ("complete", f"person:{ADA}")
    assert (api.get(f"/instances/{instance_id}").json or {})["output"] == {"ok": True}
    assert (api.get(f"/tasks/{task_id}").json or {})["endedBy"] == f"person:{ADA}"
    assert is_verified(api, instance_id)


def test_a_link_rejects_its_task(api: Api) -> None:
    instance_id, task_id = ask(api)
    path = link_to(api, task_id, reject="not ours")

    assert look(api, path).json["action"].endswith("not ours")
    assert use(api, path).status_code == 200

    api.engine.settle()
    error = (api.get(f"/instances/{instance_id}").json or {})["output"]
    assert (error["code"], error["message"]) == ("human.rejected", "not ours")


def test_a_link_sends_its_event(api: Api) -> None:
    instance_id = api.start(APPROVAL)
    path = event_link(api, instance_id, type="APPROVED", by="link")

    assert look(api, path).json["value"] == {"type": "APPROVED", "by": "link"}
    assert use(api, path).json["state"] == "done"
    assert use(api, path).status_code == 410

    api.engine.settle()
    assert (api.get(f"/instances/{instance_id}").json or {})["status"] == "completed"
    received = [entry for entry in (api.get(f"/instances/{instance_id}/history").json or {})["items"]
                if entry["type"] == "event.received" and entry["payload"]["eventType"] == "APPROVED"]  # fmt: skip
    assert {entry["actor"] for entry in received} == {f"person:{ADA}"}
    assert entries_of(api, instance_id, "human.refused")[0]["why"] == "link.used"
    assert is_verified(api, instance_id)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_looking_does_nothing(api: Api, method: str) -> None:
    """Mail scanners and previews follow links."""
    instance_id, task_id = ask(api, title="<b>Invoice</b>")
    paths = [link_to(api, task_id), event_link(api, instance_id, type="LEAVE")]
    api.engine.settle()
    before = len(api.engine.entries(instance_id))

    for path in paths:
        for accept in ("text/html,application/xhtml+xml,*/*;q=0.8", "*/*", "application/json"):
            answer = look(api, path, method, accept)
            assert answer.status_code == 200
            assert answer.mimetype == ("application/json" if accept == "application/json" else "text/html")
            assert answer.headers["Referrer-Policy"] == "no-referrer"
            assert answer.headers["Cache-Control"] == "no-store"
            assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")
            assert answer.headers.getlist("Content-Security-Policy")[1:] == []
            assert accept == "application/json" or "<b>" not in answer.text

    api.engine.settle()
    assert len(api.engine.entries(instance_id)) == before
    assert use(api, paths[0]).status_code == 200


def test_other_methods_are_not_taken(api: Api) -> None:
    path = link_to(api, ask(api)[1])
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS"):
        assert look(api, path, method).status_code == 405
    assert use(api, path).status_code == 200


def test_an_expired_link_does_nothing(api: Api) -> None:
    _, task_id = ask(api)
    path = link_to(api, task_id)
    late = resigned(api, path, expires_at=api.engine.now() - timedelta(seconds=2))

    for answer in (look(api, late), use(api, late)):
        assert (answer.status_code, answer.json["state"]) == (410, "expired")
        assert "input" not in answer.json
    assert (api.get(f"/tasks/{task_id}").json or {})["status"] == "running"
    assert use(api, path).status_code == 200


def test_a_link_whose_task_is_over_says_so(api: Api) -> None:
    instance_id, task_id = ask(api)
    path, other = link_to(api, task_id), event_link(api, instance_id, type="LEAVE")
    say(api, task_id, "complete", output=1)
    api.engine.settle()

    for one in (path, other):
        for answer in (look(api, one), use(api, one), use(api, one)):
            assert (answer.status_code, answer.json["state"]) == (409, "finished")
    assert entries_of(api, instance_id, "human.refused") == []


def test_what_was_not_signed_here_gets_no_detail(api: Api) -> None:
    _, task_id = ask(api)
    path = link_to(api, task_id)
    stranger = Links.of(bytes(32), None)  # type: ignore[arg-type]
    forged = f"/links/{stranger.token(read(api, path))}"
    paths = [
        forged,
        path[:-3] + "AAA",
        path + "x",
        "/links/x",
        "/links/" + "a" * 5_000,
        "/links/%00",
        "/links/%C3%A9",
        "/links/..",
    ]

    answers = [look(api, one, method) for one in paths for method in ("GET", "POST")]

    assert {answer.status_code for answer in answers} == {404}
    told = {answer.text for answer in answers[:-2]}
    assert told == {'{"state":"invalid","message":"This link is not valid."}'}
    assert (api.get(f"/tasks/{task_id}").json or {})["status"] == "running"


def test_a_link_of_another_tenant_finds_nothing(api: Api) -> None:
    """Even signed with the right secret: the tenant is a part of what every statement asks for."""
    instance_id, task_id = ask(api)
    with api.engine.database.reading() as tx:
        other = tx.exec_driver_sql("SELECT id FROM tenants WHERE name = 'other'").scalar_one()
    for path in (link_to(api, task_id), event_link(api, instance_id, type="LEAVE")):
        elsewhere = resigned(api, path, tenant_id=str(other))
        for answer in (look(api, elsewhere), use(api, elsewhere)):
            assert (answer.status_code, answer.json["state"]) == (409, "finished")
    assert (api.get(f"/tasks/{task_id}").json or {})["status"] == "running"


def test_a_task_of_another_instance_is_not_decided(api: Api) -> None:
    (_, task_id), (other_instance, _) = ask(api), ask(api)
    elsewhere = resigned(api, link_to(api, task_id), instance_id=other_instance)
    for answer in (look(api, elsewhere), use(api, elsewhere)):
        assert answer.json["state"] == "finished"


def test_of_many_uses_at_once_one_counts(api: Api) -> None:
    instance_id, task_id = ask(api)
    for path in (link_to(api, task_id), event_link(api, instance_id, type="NOTHING")):
        begin = threading.Barrier(5)
        statuses: list[int] = []

        def once(path: str = path, begin: threading.Barrier = begin, statuses: list[int] = statuses) -> None:
            begin.wait()
            statuses.append(use(api, path).status_code)

        threads = [threading.Thread(target=once) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(statuses) == [200, 410, 410, 410, 410]
    assert len(entries_of(api, instance_id, "human.decided")) == 1
    assert is_verified(api, instance_id)


def test_four_eyes_hold_for_links(api: Api) -> None:
    instance_id = api.start(four_eyes(2))
    first, second = (task_of(api, instance_id, f"review-{n}") for n in (1, 2))
    starter = {"person": "the admin", "output": 1}
    problem_of(api.post(f"/tasks/{first}/links", starter), 403, "human.four_eyes")
    one, two = link_to(api, first), link_to(api, second)
    assert use(api, one).status_code == 200

    refused = use(api, two)

    assert (refused.status_code, refused.json["state"]) == (403, "refused")
    assert use(api, two).status_code == 403, "as good as before: it was not used"
    problem_of(say(api, second, "complete", key_named(api, ADA), output=1), 403, "human.four_eyes")
    kept = entries_of(api, instance_id, "human.refused")
    assert [entry["person"] for entry in kept] == [f"person:{ADA}"] * 2 + [f"key:{ADA}"]
    assert use(api, link_to(api, second, "grace@example.org")).status_code == 200


def test_only_who_may_decide_gets_a_link_and_only_they_can_use_it(api: Api) -> None:
    instance_id, task_id = ask(api, candidates=[ADA, "grace"])
    problem_of(
        api.post(f"/tasks/{task_id}/links", {"person": "bob", "output": 1}), 403, "human.not_candidate"
    )
    path = link_to(api, task_id)
    say(api, task_id, "claim", assignee="grace")

    answer = use(api, path)

    assert (answer.status_code, answer.json["state"]) == (403, "refused")
    assert entries_of(api, instance_id, "human.refused")[0]["why"] == "human.not_assignee"
    say(api, task_id, "delegate", assignee=ADA)
    assert use(api, path).status_code == 200


def test_a_link_to_an_instance_that_stands_still_waits(api: Api) -> None:
    instance_id, task_id = ask(api)
    path = link_to(api, task_id)
    api.engine.control("pause", instance_id)
    api.engine.settle()
    assert use(api, path).json["state"] == "done"
    assert entries_of(api, instance_id, "human.decided") == []
    api.engine.control("resume", instance_id)
    assert len(entries_of(api, instance_id, "human.decided")) == 1


BAD: list[tuple[str, dict[str, Any], int, str]] = [
    ("task", {"person": ADA}, 422, "request.invalid"),
    ("task", {"person": ADA, "output": 1, "reject": "x"}, 422, "request.invalid"),
    ("task", {"output": 1}, 422, "request.invalid"),
    ("task", {"person": "key:root", "output": 1}, 422, "link.invalid"),
    ("task", {"person": " ", "output": 1}, 422, "link.invalid"),
    ("task", {"person": "x" * 201, "output": 1}, 422, "request.invalid"),
    ("task", {"person": ADA, "output": {"ok": "yes"}}, 422, "task.output_invalid"),
    ("task", {"person": ADA, "output": {"ok": True}, "expiresIn": "soon"}, 422, "link.invalid"),
    ("task", {"person": ADA, "output": {"ok": True}, "expiresIn": "2000d"}, 422, "link.invalid"),
    ("task", {"person": ADA, "output": {"ok": True}, "expiresIn": 0}, 422, "link.invalid"),
    ("event", {"person": ADA, "event": {"type": "done.task.review"}}, 422, "event.reserved"),
    ("event", {"person": ADA, "event": {"type": "error.x"}}, 422, "event.reserved"),
    ("event", {"person": ADA, "event": {"type": "due.task.review"}}, 422, "event.reserved"),
    ("event", {"person": ADA, "event": {"type": "xstate.init"}}, 422, "event.reserved"),
    ("event", {"person": ADA, "event": {}}, 422, "event.invalid"),
    ("event", {"person": ADA, "event": "GO"}, 422, "request.invalid"),
    ("event", {"person": ADA, "event": {"type": "GO", "x": random.Random(7).randbytes(2_000).hex()}}, 422, "link.too_large"),
]  # fmt: skip


def test_bad_links_are_not_made(api: Api) -> None:
    form = {"properties": {"ok": {"type": "boolean"}}}
    instance_id, task_id = ask(api, form=form)
    for about, body, status, code in BAD:
        path = f"/tasks/{task_id}/links" if about == "task" else f"/instances/{instance_id}/links"
        problem_of(api.post(path, body), status, code, str(body)[:100])
    assert entries_of(api, instance_id, "link.made") == []


def test_links_are_made_by_operators(api: Api) -> None:
    instance_id, task_id = ask(api)
    for role in Role:
        for path, body in (
            (f"/tasks/{task_id}/links", {"person": ADA, "output": 1}),
            (f"/instances/{instance_id}/links", {"person": ADA, "event": {"type": "LEAVE"}}),
        ):
            answer = api.post(path, body, key=api.keys[role])
            assert answer.status_code == (201 if role in (Role.OPERATOR, Role.ADMIN) else 403), role


def test_a_link_that_is_asked_for_too_often_has_to_wait(api: Api) -> None:
    path = link_to(api, ask(api)[1])
    statuses = [look(api, path).status_code for _ in range(31)]
    assert statuses == [200] * 30 + [429]
    assert int(use(api, path).headers["Retry-After"]) <= 60


def test_a_form_with_something_in_it_is_refused(api: Api) -> None:
    path = link_to(api, ask(api)[1])
    answer = api.send_raw("POST", path, key="", data=b"x" * 5_000, content_type="text/plain")
    assert answer.status_code == 413
    empty = api.send_raw("POST", path, key="", content_type="application/x-www-form-urlencoded")
    assert empty.status_code == 200
    assert "Thank you" in empty.text


def test_no_link_stands_in_the_log_when_it_is_refused(api: Api) -> None:
    """It still works afterwards: whoever reads the log could be faster than its person."""
    _, task_id = ask(api, title="Invoice")
    path = link_to(api, task_id)

    with capture_logs() as logged:
        refused = api.send_raw("POST", f"{path}?from=mail", key="")

    assert 400 <= refused.status_code < 500
    told = [line["path"] for line in logged if line["event"] == "request.refused"]
    assert told == ["/links/…"]
    assert path.removeprefix("/links/")[:40] not in str(logged)
    assert use(api, path).status_code == 200
