"""Signed links: made by who has a key, followed by who has the link.

Looking at a link is a GET and does nothing; only the POST of its page acts. Whatever was not signed here is told apart from
nothing else: no detail, and no statement is spent on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from api.auth import Permission
from api.link_pages import LinkPages
from api.operations import Answer, Call, Follow, Routes, Shape
from api.schemas.answers import LinkAnswer, SignedLink
from api.schemas.requests import EventLinkBody, TaskLinkBody
from api.services import Services
from api.shapes import instant
from api.transactions import Transactions
from common.canonical import read
from common.commands.links import (
    LinkState,
    Made,
    Seen,
    follow_link,
    look_at_link,
    make_event_link,
    make_task_link,
)
from common.errors import Conflict, Forbidden, Invalid, NotFound
from common.links import Link
from common.people import Refusal

routes = Routes("links")
link_routes = Routes("links", prefix="")

MAX_FORM_BYTES = 4_096

# -- making -------------------------------------------------------------------------------------------------------

_THE_LINK = {201: Shape("the link, which nothing but this answer shows", SignedLink)}


@routes.post(
    "/tasks/{taskId}/links",
    permission=Permission.OPERATE,
    answers=_THE_LINK,
    seals_answer=True,
    example={"person": "ada@example.org", "output": {"approved": True}, "expiresIn": "2d"},
)
def make_link_for_task(call: Call, task_id: str, body: TaskLinkBody) -> Answer:
    """Make a link that decides a HUMAN task.

    Its person completes the task with `output`, or rejects it for the reason `reject`: once, without a key. Who may not
    decide the task gets no link, and four eyes hold for links too. That it was made stands in the history.
    """
    made = make_task_link(
        call.tx,
        call.tenant_id,
        task_id,
        by=call.actor,
        person=body.person,
        reject=body.reject,
        output=body.output,
        expires_in=body.expires_in,
        limits=call.limits,
    )
    return _signed(call, made)


@routes.post(
    "/instances/{instanceId}/links",
    permission=Permission.OPERATE,
    answers=_THE_LINK,
    seals_answer=True,
    example={"person": "ada@example.org", "event": {"type": "APPROVED"}},
)
def make_link_for_instance(call: Call, instance_id: str, body: EventLinkBody) -> Answer:
    """Make a link that sends an event.

    Its person sends the event to the instance: once, without a key. What no caller may send, no link sends either.
    """
    made = make_event_link(
        call.tx,
        call.tenant_id,
        instance_id,
        by=call.actor,
        person=body.person,
        event=body.event,
        expires_in=body.expires_in,
        limits=call.limits,
    )
    return _signed(call, made)


def _signed(call: Call, made: Made) -> Answer:
    if made.refusal is not None:
        raise Forbidden(made.refusal.message, code=made.refusal.code)
    link = made.link
    shown = {
        "url": call.services.links.url(link),
        "person": link.actor,
        "expiresAt": instant(link.expires_at),
    }
    about = Follow(call.tenant_id, link.instance_id, settled_status=201, unsettled_status=201)
    return Answer(shown, 201, follow=about)


# -- following ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LinkCall:
    """A request by a link. `wants_json`: from a program, which gets no page."""

    services: Services
    transactions: Transactions
    content_length: int
    wants_json: bool


_PAGE = ("text/html",)
_PAGES = {
    200: Shape("what it does, or that it is done", LinkAnswer, texts=_PAGE),
    403: Shape("its person may not do it", LinkAnswer, texts=_PAGE),
    404: Shape("no link of ours", LinkAnswer, texts=_PAGE),
    409: Shape("what it was for is over", LinkAnswer, texts=_PAGE),
    410: Shape("it was used, or has expired", LinkAnswer, texts=_PAGE),
    413: Shape("a form with something in it", LinkAnswer, texts=_PAGE),
    429: Shape("asked too often; `Retry-After` says when to try again", LinkAnswer, texts=_PAGE),
}


@link_routes.link("GET", "/links/{token}", answers=_PAGES)
def show_link(call: LinkCall, token: str) -> Answer:
    """Show what a signed link does.

    A page with one button, or JSON where `Accept` prefers it. Looking does nothing.
    """
    link = call.services.links.read(token)
    if link is None:
        return _no_link(call)
    if (wait := call.services.link_gate.seconds_to_wait(link.digest)) > 0:
        return _answer(call, _TOO_OFTEN, 429, {"Retry-After": str(wait)})
    with call.services.tenants.of(link.tenant_id).reading() as tx:
        return _seen(call, look_at_link(tx, link))


@link_routes.link("POST", "/links/{token}", answers=_PAGES)
def use_link(call: LinkCall, token: str) -> Answer:
    """Do what a signed link says, once.

    What its page's button does. The body is not read.
    """
    if call.content_length > MAX_FORM_BYTES:
        return _answer(
            call, {"state": "invalid", "message": "This form is sent without anything in it."}, 413
        )
    link = call.services.links.read(token)
    if link is None:
        return _no_link(call)
    if (wait := call.services.link_gate.seconds_to_wait(link.digest)) > 0:
        return _answer(call, _TOO_OFTEN, 429, {"Retry-After": str(wait)})
    limits = call.services.limits
    try:
        seen = call.transactions.run(link.tenant_id, lambda tx: follow_link(tx, link, limits=limits))
        return _seen(call, seen)
    except (Conflict, NotFound):
        return _seen(call, Seen(link, LinkState.FINISHED))
    except Invalid as error:
        return _seen(call, Seen(link, LinkState.REFUSED, refusal=Refusal(error.code, error.message)))


_TOO_OFTEN = {"state": "invalid", "message": "This link was asked for too often. Please wait a moment."}
_STATUSES = {
    LinkState.OPEN: 200,
    LinkState.DONE: 200,
    LinkState.USED: 410,
    LinkState.EXPIRED: 410,
    LinkState.FINISHED: 409,
    LinkState.REFUSED: 403,
}
_MESSAGES = {
    LinkState.OPEN: "Nothing happens before you confirm.",
    LinkState.DONE: "Thank you. It is done.",
    LinkState.USED: "This link was used before. It works once.",
    LinkState.EXPIRED: "This link has expired.",
    LinkState.FINISHED: "There is nothing left to decide here.",
    LinkState.REFUSED: "You may not decide this.",
}
_WHY = {
    "human.four_eyes": "Another person must decide this: you have had a part in it already.",
    "human.not_assignee": "This is somebody else's work by now.",
    "task.output_invalid": "The answer that this link carries does not fit what is asked for.",
    "human.not_candidate": "You are not among those who may decide this.",
}


def _no_link(call: LinkCall) -> Answer:
    return _answer(call, {"state": "invalid", "message": "This link is not valid."}, 404)


def _seen(call: LinkCall, seen: Seen) -> Answer:
    link, task = seen.link, seen.task
    why = _WHY.get(seen.refusal.code) if seen.refusal is not None else None
    shown: dict[str, Any] = {
        "state": seen.state.value,
        "message": why or _MESSAGES[seen.state],
        "person": link.person,
        "expiresAt": instant(link.expires_at),
    }
    if seen.state is LinkState.OPEN:  # who comes late is told no more than that
        shown |= {"action": _action(link), "value": None if link.verb == "reject" else link.value}
        if task is not None:
            title, description = task.options.get("title"), task.options.get("description")
            shown |= {"title": title or task.name, "description": description, "input": read(task.input)}
    return _answer(call, shown, _STATUSES[seen.state])


def _action(link: Link) -> str:
    match link.verb:
        case "complete":
            return "The button answers with what is shown above, in your name."
        case "reject":
            return f"The button rejects this, in your name, for the reason: {link.value}"
        case _:
            return f'The button sends "{link.value["type"]}", in your name.'


def _answer(
    call: LinkCall, shown: dict[str, Any], status: int, headers: dict[str, str] | None = None
) -> Answer:
    pages: LinkPages = call.services.link_pages
    if call.wants_json:
        return Answer(shown, status, {"Vary": "Accept", **(headers or {})})
    page = pages.render(shown)
    return Answer(page, status, {**pages.headers, **(headers or {})}, media_type="text/html; charset=utf-8")
