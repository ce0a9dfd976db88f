"""Templates of e-mails: filled from files of one folder, by data that can neither become code nor take for ever."""

import time
from pathlib import Path
from typing import Any

import pytest

from task_runner.handlers.email_templates import MAX_ROUNDS, Filled, fill
from task_runner.registry import Permanent
from tests.support.slowdown import assert_within


def made(folder: Path, **files: str) -> Path:
    """A folder of templates; `a_txt` is the file a.txt."""
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text, encoding="utf-8")
    return folder


def filled(folder: Path, text: str, data: Any = None) -> str | None:
    return fill(made(folder, a_txt=text), "a", data or {}).text


def refused(folder: Path, text: str, data: Any = None) -> str:
    began = time.monotonic()
    with pytest.raises(Permanent) as error:
        filled(folder, text, data)
    assert error.value.code == "email.template_failed"
    assert_within(time.monotonic() - began, 10)
    return str(error.value)


def test_a_template_is_up_to_three_files(tmp_path: Path) -> None:
    folder = made(
        tmp_path,
        a_txt="Dear {{ customer.name }}, {{ customer.name }}!",
        a_html="<p>Dear {{ customer.name }}</p>",
        a_subject="Your order {{ order }}\n",
        b_txt="only text",
        c_html="only html",
    )
    data = {"customer": {"name": "<Ann & Söhne>"}, "order": 7}

    assert fill(folder, "a", data) == Filled(
        "Dear <Ann & Söhne>, <Ann & Söhne>!", "<p>Dear &lt;Ann &amp; Söhne&gt;</p>", "Your order 7"
    )
    assert fill(folder, "b", {}) == Filled("only text", None, None)
    assert fill(folder, "c", {}) == Filled(None, "only html", None)


def test_templates_may_stand_in_folders_and_share_a_frame(tmp_path: Path) -> None:
    (tmp_path / "orders").mkdir()
    made(tmp_path, frame_html="<main>{% block body %}{% endblock %}</main>")
    made(tmp_path / "orders", a_html='{% extends "frame.html" %}{% block body %}{{ n }}{% endblock %}')

    assert fill(tmp_path, "orders/a", {"n": "<7>"}).html == "<main>&lt;7&gt;</main>"


def test_loops_and_conditions_work(tmp_path: Path) -> None:
    text = "{% for item in order.items if item.n %}{{ loop.index }}/{{ loop.length }} {{ item.sku }} {% endfor %}"
    data = {"order": {"items": [{"sku": "a", "n": 1}, {"sku": "b", "n": 0}, {"sku": "c", "n": 2}]}}

    assert filled(tmp_path, text, data) == "1/2 a 2/2 c "
    assert (
        filled(tmp_path, "{% for k, v in d|items %}{{ k }}={{ v }};{% endfor %}", {"d": {"a": 1}}) == "a=1;"
    )
    assert filled(
        tmp_path, "{{ 'a' ~ 1 }} {{ 2 * 3 }} {{ 'x' * 3 }} {{ [1] + [2] }} {{ 7 % 4 }} {{ 2 ** 10 }}"
    ) == ("a1 6 xxx [1, 2] 3 1024")


def test_data_is_never_a_template(tmp_path: Path) -> None:
    text = "{{ 7 * 7 }}{% include 'b.txt' %}"

    assert filled(tmp_path, "{{ x }}", {"x": text}) == text


@pytest.mark.parametrize(
    "text", ["{{ missing }}", "{{ a.missing }}", "{% for x in missing %}{% endfor %}", "{{ a.b.c }}"]
)
def test_what_is_missing_is_an_error_that_names_it(tmp_path: Path, text: str) -> None:
    said = refused(tmp_path, text, {"a": {"b": {}}})

    assert said.startswith("template a.txt cannot be filled: ")
    assert "missing" in said or "'c'" in said


@pytest.mark.parametrize("text", ["{% for %}", "{{ ", "{% nothing %}", "{{ 1 / 0 }}", "{{ x|nofilter }}"])
def test_a_template_that_is_none_is_told(tmp_path: Path, text: str) -> None:
    assert "template a.txt" in refused(tmp_path, text, {"x": 1})


ESCAPES = [
    "../secret", "/etc/passwd", "..", ".", "", "a/../../secret", "a\\..", "a\0", "link", ".hidden", "a/", "a//b", "a b",
    "a\n",
]  # fmt: skip


@pytest.mark.parametrize("name", ESCAPES)
def test_no_name_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "templates"
    folder.mkdir()
    (tmp_path / "secret.txt").write_text("the secret")
    (folder / ".hidden.txt").write_text("the secret")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")

    with pytest.raises(Permanent) as error:
        fill(folder, name, {})
    assert error.value.code == "email.template_unknown"
    if name:
        made(folder, a_txt="{% include name ~ '.txt' %}")
        with pytest.raises(Permanent) as included:
            fill(folder, "a", {"name": name})
        assert "the secret" not in str(included.value)


def test_a_template_that_is_not_there_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(
        Permanent, match=r'no "welcome" in SIGNALBOX_TEMPLATES; expected welcome.txt or welcome.html'
    ):
        fill(made(tmp_path, welcome_subject="only a subject"), "welcome", {})
    with pytest.raises(Permanent, match="set SIGNALBOX_TEMPLATES"):
        fill(None, "welcome", {})


ATTACKS = {
    "classes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ self.__init__.__globals__ }}",
    "cycler": "{{ cycler.__init__.__globals__.os.system('true') }}",
    "format": "{{ '{0.__class__}'.format(1) }}",
    "wide format": "{{ '%1000000000d' % 1 }}",
    "width": "{{ 'x'.ljust(1000000000) }}",
    "center": "{{ 'x'|center(1000000000) }}",
    "a long text": "{{ 'x' * 1000000000 }}",
    "a long list": "{{ [0] * 1000000000 }}",
    "a large number": "{{ 10 ** (10 ** 10) }}",
    "squares": "{% set n = namespace(x=9) %}{% for i in range(99) %}{% set n.x = n.x * n.x %}{% endfor %}",
    "doubles": "{% set n = namespace(x='x') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "sums": "{% set n = namespace(x='x') %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "a long range": "{% for i in range(1000000000) %}{% endfor %}",
    "loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "loops over data": "{% for i in x %}{% for j in x %}{% for k in x %}{% endfor %}{% endfor %}{% endfor %}",
    "a macro": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "itself": "{% include 'a.txt' %}",
    "itself twice": "{% set n = (n or 60) - 1 %}{% if n %}{% include 'a.txt' %}{% include 'a.txt' %}{% endif %}",
    "too much": "{% for i in range(2000) %}{{ 'x' * 1000 }}{% endfor %}",
}


@pytest.mark.parametrize("text", ATTACKS.values(), ids=ATTACKS)
def test_nothing_gets_out_of_the_sandbox_or_takes_for_ever(tmp_path: Path, text: str) -> None:
    refused(tmp_path, text, {"x": list(range(1_000)), "n": None})


def test_each_part_may_take_as_many_rounds(tmp_path: Path) -> None:
    text = f"{{% for i in range({MAX_ROUNDS - 100}) %}}{{% endfor %}}"

    assert fill(made(tmp_path, a_txt=text, a_html=text), "a", {}) == Filled("", "", None)
