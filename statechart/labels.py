"""How pictures and explanations call a transition."""

from __future__ import annotations

from statechart.chart import Transition


def label_of(transition: Transition) -> str:
    """What triggers it, as a person would say it: `PAID [context.total > 0]`, `after 5m`, `done`."""
    source, descriptor = transition.source, transition.descriptor
    if not descriptor:
        trigger = "always"
    elif descriptor.startswith("xstate.after."):
        trigger = f"after {descriptor.removeprefix('xstate.after.').removesuffix('.' + source.id)}"
    elif descriptor == f"xstate.done.state.{source.id}":
        trigger = "done"
    elif descriptor.startswith(("xstate.done.actor.", "xstate.error.actor.")):
        _, kind, _, identifier = descriptor.split(".", 3)
        trigger = f"{kind}: {identifier}"
    else:
        trigger = descriptor
    text = trigger if transition.guard is None else f"{trigger} [{transition.guard.text}]"
    return text if len(text) <= 80 else text[:79] + "…"
