"""The page on conformance tells of every group and every known difference, and counts what is there."""

from __future__ import annotations

import json
from pathlib import Path

from tests.conformance import recorded
from tests.conformance.compare import Known
from tests.conformance.groups import GROUPS
from tests.conformance.xstate_process import FOLDER

PAGE = (Path(__file__).parents[2] / "docs/conformance.md").read_text()


def test_every_group_has_its_score():
    rows = [line.split("|")[1].strip() for line in PAGE.splitlines() if line.endswith("% |")]

    assert rows == list(GROUPS)


def test_every_known_difference_is_explained():
    for known in Known:
        assert f"- **{known}** (" in PAGE


def test_what_is_recorded_is_counted_as_it_is():
    vectors = sum(len(recorded.read_vectors(path)) for path in recorded.vector_files())
    machines = {path.stem: len(recorded.read_machines(path)) for path in recorded.machine_files()}

    assert f"`tests/conformance/vectors/` | {vectors:,} |" in PAGE
    assert f"`tests/conformance/machines/` | {sum(machines.values())} |" in PAGE
    for name, count in machines.items():
        assert f"{'odd documents' if name == 'odd' else name} {count}" in " ".join(PAGE.split())


def test_the_version_is_the_one_that_is_locked_and_the_lock_names_no_host():
    lock = json.loads((FOLDER / "package-lock.json").read_text())
    xstate = lock["packages"]["node_modules/xstate"]

    assert f"({xstate['version']})" in PAGE
    assert xstate["integrity"].startswith("sha512-")
    assert "resolved" not in xstate
