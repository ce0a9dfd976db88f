"""The page behind a link: escaped, without a script, and forbidding everything but its own style and form."""

import base64
import re
from hashlib import sha256
from typing import Any

import pytest
from flask import Flask

from api.link_gate import MOST, LinkGate
from api.link_pages import MAX_ROWS, LinkPages

EVIL = '"><script>alert(1)</script><img src=x onerror=y>\u202e'


@pytest.fixture(scope="module")
def pages() -> LinkPages:
    return LinkPages.of(Flask("api").jinja_env)


def page(pages: LinkPages, **more: Any) -> str:
    seen = {
        "state": "open", "message": "m", "title": "t", "description": "d", "input": 1, "value": 2, "action": "a",
        "person": "p", "expiresAt": "e",
    }  # fmt: skip
    return pages.render(seen | more).decode()


@pytest.mark.parametrize("member", ["title", "description", "input", "value", "action", "person", "message"])
@pytest.mark.parametrize("state", ["open", "done"])
def test_whatever_stands_on_it_is_escaped(pages: LinkPages, member: str, state: str) -> None:
    nested = {EVIL: [EVIL]} if member in ("input", "value") else EVIL
    text = page(pages, state=state, **{member: nested})
    assert "<script" not in text
    assert "<img" not in text
    assert not re.search(r"\son\w+=", text.replace("&#34;", "").replace("onerror=y&gt;", ""))


def test_it_asks_nobody_and_has_one_button(pages: LinkPages) -> None:
    text = page(pages, input={"total": 12, "lines": [1]})
    assert not re.search(r"(?:src|href|action)=", text)
    assert text.count("<button") == 1
    assert '<form method="post">' in text
    assert "<form" not in page(pages, state="used")


def test_its_policy_allows_its_own_style_and_nothing_else(pages: LinkPages) -> None:
    style = re.findall(r"<style>(.*?)</style>", page(pages), re.DOTALL)
    digest = base64.b64encode(sha256(style[0].encode()).digest()).decode()
    policy = pages.headers["Content-Security-Policy"]
    assert f"style-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    assert "script" not in policy


def test_a_large_input_is_cut(pages: LinkPages) -> None:
    text = page(pages, input={str(n): "x" * 5_000 for n in range(1_000)})
    assert text.count("<tr>") <= MAX_ROWS + 3
    assert f"and {1_000 - MAX_ROWS:,} more" in text
    assert len(text) < 100_000


def test_one_link_is_asked_for_so_often_a_minute() -> None:
    now = [0.0]
    gate = LinkGate(monotonic=lambda: now[0])
    assert {gate.seconds_to_wait(b"a") for _ in range(MOST)} == {0}
    assert gate.seconds_to_wait(b"a") == 60
    assert gate.seconds_to_wait(b"b") == 0
    now[0] = 60.0
    assert gate.seconds_to_wait(b"a") == 0
