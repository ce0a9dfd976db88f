"""What machine this is, for the head of a measurement: figures without it mean little."""

from __future__ import annotations

import os
import platform
import sys
import sysconfig
from pathlib import Path


def describe_machine() -> dict[str, str | int]:
    """Cores that we may use, the processor's name, the system and the Python."""
    return {
        "cores": cores(),
        "processor": _processor(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version() + ("" if is_optimized() else ", built without optimizations"),
    }


def is_optimized() -> bool:
    """Was this Python built with `--enable-optimizations`, or by a distribution, whose build tells it otherwise? pyenv's is not unless told so.

    Everything takes a third more CPU without. The Makefile has the same rule. True where the build does not tell (Windows).
    """
    arguments = sysconfig.get_config_var("CONFIG_ARGS")
    return arguments is None or "--enable-optimizations" in arguments or sys.base_prefix == "/usr"


def cores() -> int:
    """Of the machine, those that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        return os.cpu_count() or 1


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
