"""Signalbox itself, twice: with ordinary handlers, and with `light` ones. Nothing else differs from its defaults."""

from __future__ import annotations

from benchmarks.peers.port import PROGRAMS, Port

_PROGRAM = ("{python}", str(PROGRAMS / "signalbox" / "program.py"))
_CHARTS = ("three_steps.json", "fan_out.json")


def _port(name: str, title: str, handlers: str) -> Port:
    return Port(
        name=name,
        title=title,
        program=_PROGRAM,
        user_code=(*_CHARTS, f"{handlers}.py"),
        settings=({"handlers": handlers},),
        environment_of="signalbox",
    )


PORTS = (
    _port("signalbox", "Signalbox", "handlers"),
    _port("signalbox-light", "Signalbox, light handlers", "handlers_light"),
)
