"""What one evaluation may cost: 100,000 operations and 1 MiB of text built or returned.

Invariant: everything whose size the data decides is charged before it is built, so neither time nor memory is spent
first. Charges depend on the text and the data alone, never on caches or clocks: replay meets the same limit.
"""

from __future__ import annotations

from datetime import tzinfo
from typing import Any

from statechart.cel.errors import TOO_EXPENSIVE, Place

MAX_OPERATIONS = 100_000
MAX_BYTES = 1_048_576
MAX_RESULT_BYTES = 32 * 1_048_576
"""Of all results on one account, for a step's: a value that is only passed on costs nothing to evaluate, and is written out
wherever it goes, into history, tasks and events."""

# Scanning a text is cheap but not free: so many characters count as one operation.
SCANNED_PER_OPERATION = 256


class Meter:
    """Counts operations (nodes visited, elements produced or compared) and bytes of text; one may serve several
    evaluations, for instance all of a step. Raises `ExpressionFailed("expression.too_expensive")` past a limit.
    """

    __slots__ = ("bytes", "max_bytes", "max_operations", "operations", "patterns", "result_bytes", "zones")

    def __init__(self, max_operations: int = MAX_OPERATIONS, max_bytes: int = MAX_BYTES) -> None:
        self.operations = 0
        self.bytes = 0
        self.result_bytes = 0
        self.max_operations = max_operations
        self.max_bytes = max_bytes
        # What was compiled or read on this account, so that it is charged once.
        self.patterns: dict[str, Any] = {}
        self.zones: dict[str, tzinfo] = {}

    def charge(self, operations: int, place: Place) -> None:
        """Count `operations` about to be done."""
        self.operations += operations
        if self.operations > self.max_operations:
            raise place.failed(
                TOO_EXPENSIVE, f"the expression needs more than {self.max_operations:,} operations"
            )

    def charge_bytes(self, size: int, place: Place) -> None:
        """Count `size` bytes of text about to be built."""
        self.bytes += size
        if self.bytes > self.max_bytes:
            raise place.failed(
                TOO_EXPENSIVE, f"the expression builds more than {self.max_bytes:,} bytes of result"
            )

    def charge_result(self, size: int, place: Place) -> None:
        """Count `size` bytes of a result, whether they were built or only passed on."""
        self.result_bytes += size
        if self.result_bytes > MAX_RESULT_BYTES:
            raise place.failed(
                TOO_EXPENSIVE, f"the values of one step have more than {MAX_RESULT_BYTES:,} bytes together"
            )

    def charge_scan(self, text: str, place: Place) -> None:
        """Count one look through `text`."""
        self.charge(1 + len(text) // SCANNED_PER_OPERATION, place)


def weight(text: str) -> int:
    """The bytes of `text` in UTF-8."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
