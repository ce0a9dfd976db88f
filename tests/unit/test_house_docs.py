"""The documentation agrees with the code and with itself."""

import re
from pathlib import Path

import pytest

from docs.generate import END, PAGES, begin, fill, stale_pages

ROOT = Path(__file__).resolve().parents[2]
PAGES_OF_PROSE = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.*)$", re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The fragments that a page offers: its headings, as code hosts turn them into identifiers."""
    headings = HEADING.findall(page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_generated_parts_are_what_the_code_says_now():
    assert not stale_pages(), "run `make docs` and commit the result"


def test_a_page_without_its_markers_is_refused_by_name():
    with pytest.raises(ValueError, match='no generated part "task diagram"'):
        fill("# A page\n", {"task diagram": lambda: "drawing"})


def test_only_the_text_between_the_markers_is_replaced():
    page = f"before\n{begin('part')}\nold\n{END}\nafter\n"

    assert fill(page, {"part": lambda: "new"}) == f"before\n{begin('part')}\nnew\n{END}\nafter\n"


def test_every_page_with_generated_parts_exists():
    assert all((ROOT / "docs" / name).is_file() for name in PAGES)


@pytest.mark.parametrize("page", PAGES_OF_PROSE, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_inside_the_repository_leads_somewhere(page):
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, fragment = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name} links to {link!r}"
        if fragment:
            assert fragment in anchors(target), (
                f"{page.name} links to {link!r}, and that page has no such heading"
            )


def test_every_decision_is_listed_and_has_the_same_parts():
    folder = ROOT / "docs" / "decisions"
    index = (folder / "README.md").read_text(encoding="utf-8")

    pages = sorted(page for page in folder.glob("*.md") if page.name != "README.md")

    assert pages
    for page in pages:
        assert f"]({page.name})" in index, f"{page.name} is missing in docs/decisions/README.md"
        assert HEADING.findall(page.read_text(encoding="utf-8"))[1:] == [
            "The question",
            "The choice",
            "What else was weighed",
            "What follows",
        ], page.name
