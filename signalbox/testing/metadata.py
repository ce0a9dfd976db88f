"""The metadata of an instance in memory, for handlers that a test runs."""

from __future__ import annotations

from common.metadata import MAX_KEYS
from signalbox.testing.memory import Memory
from task_runner.metadata import Swapped


class MemoryMetadata:
    """A `MetadataPort`. A handler that a test runs has its task to itself: no lease is lost, nobody else writes."""

    def __init__(self, memory: Memory, instance_id: str) -> None:
        self._values = memory.metadata.setdefault(instance_id, {})

    def read(self, key: str) -> str | None:
        return self._values.get(key)

    def read_all(self) -> dict[str, str]:
        return dict(sorted(self._values.items()))

    def write(self, key: str, value: str | None) -> Swapped:
        if value is None:
            self._values.pop(key, None)
            return "done"
        return self.swap(key, value, self._values.get(key))

    def swap(self, key: str, value: str, expected: str | None) -> Swapped:
        if self._values.get(key) != expected:  # the function that computes it has written too
            return "changed"
        if expected is None and len(self._values) >= MAX_KEYS:
            return "full"
        self._values[key] = value
        return "done"
