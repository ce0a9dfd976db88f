"""What a step keeps of an AI task, so that a later step can rule on its decision by itself.

The policy stands in the snapshot beside the obligation: neither the task's row nor what a runner says of it is asked.
"""

from __future__ import annotations

from collections.abc import Mapping

from statechart.env import Json

AI = "AI"
AI_EVENTS = "(ai)"
"""In the snapshot's `counts`: how many events AI tasks have emitted. It is there as soon as one was asked for."""


def event_schemas(document: Mapping[str, Json], policy: Json) -> dict[str, Json]:
    """The definition's JSON Schemas of the events that a policy lists."""
    events = document.get("events")
    listed = policy.get("allowedEvents") if isinstance(policy, Mapping) else None
    if not isinstance(events, Mapping) or not isinstance(listed, list):
        return {}
    return {name: events[name] for name in listed if isinstance(name, str) and name in events}
