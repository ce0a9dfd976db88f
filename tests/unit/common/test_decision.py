"""What a decision says stays what it is when its snapshot is written."""

from __future__ import annotations

from dataclasses import fields

from common.decision import Decision, Erasure, Incident
from common.lifecycle import InstanceStatus


def test_a_written_decision_says_the_same_and_has_the_text():
    decided = Decision(
        InstanceStatus.FAILED, {"a": 1}, None, [{"type": "note"}], ("effect",), Incident("code", "said", {}), "retried",
        ("retried",), ("skipped",), Erasure(None, with_children=True, cancels=False),
    )  # fmt: skip

    written = decided.written('{"a":1}')

    assert written.snapshot_text == '{"a":1}'
    for one in fields(Decision):
        assert one.name == "snapshot_text" or getattr(written, one.name) is getattr(decided, one.name)
