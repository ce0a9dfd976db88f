"""The step that all systems do: nothing, in an ordinary handler."""

from signalbox import handler


@handler("peers.step")
def step(input):
    return input
