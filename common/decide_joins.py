"""When a MAP ends, and what it ends with: pure, so that the engine and the test kit count alike.

A MAP waits for its items by a count. With `failFast` it ends as soon as its end is certain, with `waitAll` when every item
has ended; a MAP that wants all of them and waits succeeds then whatever has failed. Texts are canonical and put together
as they are stored: what 10,000 items returned is not read again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from common.canonical import dumps
from common.task_error import TaskError

TOLD_ERRORS = 100
"""How many errors of items an error of their MAP holds."""


@dataclass(frozen=True, slots=True)
class Count:
    """How far a MAP is: `needed` of `total` items must succeed, as `join` was written."""

    total: int
    needed: int
    fail_fast: bool
    join: Any
    succeeded: int = 0
    failed: int = 0

    @property
    def open(self) -> int:
        return self.total - self.succeeded - self.failed

    def has_succeeded(self) -> bool | None:
        """How it ended; None as long as it has not."""
        if not self.fail_fast:
            if self.open:
                return None
            return self.join == "all" or self.succeeded >= self.needed
        if self.succeeded >= self.needed:
            return True
        return False if self.failed > self.total - self.needed else None

    def to_json(self) -> dict[str, int]:
        return {
            "failed": self.failed,
            "open": self.open,
            "succeeded": self.succeeded,
            "total": self.total,
        }


@dataclass(frozen=True, slots=True)
class ItemResult:
    """How an item ended: with `output` or `error`, canonical texts; with neither while it is open."""

    index: int
    output: str | None = None
    error: str | None = None


def results_text(results: Iterable[ItemResult]) -> str:
    """The output of a MAP: {results: [output or null, …], errors: [{index, error}, …]}, both in order."""
    outputs: list[str] = []
    errors: list[str] = []
    for one in results:
        outputs.append(one.output or "null")
        if one.error is not None:
            errors.append(f'{{"error":{one.error},"index":{one.index}}}')
    return f'{{"errors":[{",".join(errors)}],"results":[{",".join(outputs)}]}}'


def item_failed(index: int, error: Mapping[str, Any], total: int) -> TaskError:
    """The error of a MAP that needs every item."""
    message = f"item {index} of {total:,} failed: {error['message']}"
    return TaskError("map.item_failed", message, {"error": error, "index": index})


def not_enough(count: Count, errors: Sequence[tuple[int, Any]]) -> TaskError:
    """The error of a MAP in which fewer items can succeed than are needed. `errors` are the first ones, by index."""
    message = f"{count.failed:,} of {count.total:,} items failed, and {count.needed:,} had to succeed"
    told = [{"error": error, "index": index} for index, error in errors[:TOLD_ERRORS]]
    data = {
        "errors": told, "failed": count.failed, "needed": count.needed, "succeeded": count.succeeded,
    }  # fmt: skip
    return TaskError("map.not_enough", message, data)


def too_large(size: int, allowed: int) -> TaskError:
    """The error of a MAP whose items returned more than the output of a task may be."""
    message = (
        f"the results of the items are {size:,} bytes together, at most {allowed:,} are allowed "
        '("SIGNALBOX_MAX_OUTPUT_BYTES"); let items store what is large and return a reference'
    )
    return TaskError("output.too_large", message, {"allowed": allowed, "bytes": size})


def items_digest(rows: Iterable[tuple[int, str, str | None]]) -> str:
    """SHA-256 over the items that have ended, hex: (index, status, digest of the attempts), by index."""
    return sha256(dumps([list(row) for row in rows]).encode()).hexdigest()
