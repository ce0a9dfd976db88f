"""The step that all systems do: nothing, in a `light` handler."""

from signalbox import handler


@handler("peers.step", light=True)
def step(input):
    return input
