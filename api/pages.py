"""Cursor-paged lists: from `limit` and `cursor` to a page, and from a page to `nextCursor`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from api.cursors import ListName, Position
from api.operations import Call
from api.schemas.queries import PageQuery
from common.canonical import dumps
from common.errors import LimitExceeded

T = TypeVar("T")


class Paging:
    """One request for a page: where it begins, how long it may be, and the cursor that continues it."""

    def __init__(self, call: Call, query: PageQuery) -> None:
        allowed = call.limits.max_page
        # Who does not say how many gets no more than this installation allows, whatever the usual number is.
        self.limit = query.limit if "limit" in query.model_fields_set else min(query.limit, allowed)
        if self.limit > allowed:
            message = f"a page has at most {allowed} items, found limit={query.limit}"
            raise LimitExceeded(message, limit="max_page", allowed=allowed)
        self._cursors = call.services.cursors
        filters = query.model_dump(mode="json", exclude={"limit", "cursor"}, exclude_defaults=True)
        self._name = ListName(call.tenant_id, f"{call.path}?{dumps(filters)}")
        self.position = self._cursors.read(self._name, query.cursor)

    def after_text(self) -> str | None:
        """The position of a list that goes by one text, None at its beginning."""
        return None if self.position is None else str(self.position[0])

    def after_number(self) -> int | None:
        """The position of a list that goes by one number, None at its beginning."""
        return None if self.position is None else int(self.position[0])

    def answer(
        self, items: Sequence[T], shape: Callable[[T], Mapping[str, Any]], following: Position | None
    ) -> dict[str, Any]:
        """The body of the page. `following`: where the next page goes on, None after the last."""
        cursor = None if following is None else self._cursors.write(self._name, following)
        return {"items": [shape(item) for item in items], "nextCursor": cursor}
