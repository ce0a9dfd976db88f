"""Let a Python process sleep under libfaketime. Python imports this by itself where PYTHONPATH names this folder.

`time.sleep` waits for an instant of the monotonic clock; libfaketime 0.9.10 shifts that instant although it leaves the clock
alone, and the kernel refuses it (EINVAL). `select` waits for a duration, which nobody shifts.
"""

import select
import time
from typing import SupportsIndex


def sleep(seconds: float | SupportsIndex, /) -> None:
    """As `time.sleep`."""
    select.select([], [], [], float(seconds))


time.sleep = sleep
