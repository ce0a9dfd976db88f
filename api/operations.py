"""Operations: each route is one typed entry in a table, from which the routing and the OpenAPI document are made.

A handler is a plain function. What it needs is told by its signature: `call` for who asks and the open transaction,
`body` and `query` annotated with the Pydantic model that the request must satisfy (`Model | None`: the body may be left
out), the parameters of its path, and `prepared` where the operation makes something of the body first.
It returns an `Answer`, or raises one of our errors. It never commits: `transactions.py` does.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_type_hints

from pydantic import BaseModel
from pydantic.alias_generators import to_snake
from sqlalchemy import Connection

from api.auth import Permission
from api.services import Services
from common.config import Limits
from common.credentials import Principal
from common.errors import SignalboxError
from common.ids import TenantId

PREFIX = "/api/v1"
JSON = "application/json"

Method = Literal["GET", "POST", "PUT", "DELETE"]
Kind = Literal["read", "command", "calculation", "open", "link"]
"""`command` writes, in one transaction; `calculation` is a POST that only reads; `open` needs neither key nor database; `link`
is for who has a signed link instead of a key."""

_CONVERTERS = {"limitKey": "path:", "metadataKey": "path:"}
"""Names of callers' own choice, which may have slashes: WSGI does not tell a quoted one from another."""

Handler = Callable[..., "Answer"]
LoneHandler = Callable[..., "Answer | None"]
Preparation = Callable[[Any, Limits], Any]
H = TypeVar("H", bound=Handler)


@dataclass(frozen=True, slots=True)
class Call:
    """One authenticated request: who asks, and the transaction `tx` that its handler works in.

    Of an operation's `alone`, `tx` is a connection on which each statement commits by itself.
    """

    services: Services
    principal: Principal
    tx: Connection
    path: str
    trace_id: str

    @property
    def tenant_id(self) -> TenantId:
        return self.principal.tenant_id

    @property
    def actor(self) -> str:
        return self.principal.actor

    @property
    def limits(self) -> Limits:
        return self.services.limits


@dataclass(frozen=True, slots=True)
class Follow:
    """An instance that an answer is about, for `Prefer: wait`.

    Once it has settled it is the answer with `settled_status`, else with `unsettled_status`.
    """

    tenant_id: TenantId
    instance_id: str
    settled_status: int
    unsettled_status: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What a handler answers: JSON values in `body` (or bytes of another media type), sent with `status`.

    With `refusal` that error is the answer, raised after the commit: the refusal itself is kept.
    """

    body: Any
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    media_type: str = JSON
    follow: Follow | None = None
    refusal: SignalboxError | None = None


NO_CONTENT = Answer(b"", 204)


@dataclass(frozen=True, slots=True)
class Shape:
    """One documented answer. `model` None: no members of it are told. `texts`: media types in which it may come instead, as text."""

    description: str
    model: type[BaseModel] | None = None
    media_type: str = JSON
    texts: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path, as it is routed, documented and checked.

    `wait`: whether `Prefer: wait` is understood, and the seconds that are waited where it is not sent; None: it is not.
    `alone`: what takes the place of the handler, on PostgreSQL, where no answer has to be kept: takes the same arguments,
    but no transaction in its call, and returns None, with nothing done, where the handler and its transaction are needed after all.
    `prepare`: what makes something of the body before the transaction begins; the handler gets it as `prepared`.
    """

    method: Method
    path: str  # OpenAPI's form: /api/v1/instances/{instanceId}
    handler: Handler
    kind: Kind
    permission: Permission | None
    tag: str
    summary: str
    description: str
    answers: Mapping[int, Shape]
    body: type[BaseModel] | None = None
    body_is_optional: bool = False
    query: type[BaseModel] | None = None
    wait: float | None = None
    example: Any = None  # of the body
    alone: LoneHandler | None = None
    prepare: Preparation | None = None
    is_confidential: bool = False  # nothing of the body may be told, logged or kept
    seals_answer: bool = False  # whoever reads the answer can act by it: what is kept of it is sealed

    @property
    def name(self) -> str:
        """The operation's id: the handler's name in camelCase."""
        head, *rest = self.handler.__name__.split("_")
        return head + "".join(part.title() for part in rest)

    @property
    def path_parameters(self) -> Sequence[str]:
        return re.findall(r"{(\w+)}", self.path)

    @property
    def rule(self) -> str:
        """The path as Flask's routing writes it; parameters in the handlers' snake_case."""
        return re.sub(
            r"{(\w+)}", lambda found: f"<{_CONVERTERS.get(found[1], '')}{to_snake(found[1])}>", self.path
        )


@dataclass
class Routes:
    """The operations of one resource, collected by decorators. `tag` groups them in the documentation."""

    tag: str
    prefix: str = PREFIX
    operations: list[Operation] = field(default_factory=list)

    def get(
        self,
        path: str,
        *,
        answers: Mapping[int, Shape],
        permission: Permission | None = Permission.READ,
        alone: LoneHandler | None = None,
    ) -> Callable[[H], H]:
        """A read. `permission` None opens it to everyone and gives its handler `services` instead of a call."""
        kind: Kind = "read" if permission else "open"
        return self._add("GET", path, kind, permission, answers, alone=alone)

    def post(
        self,
        path: str,
        *,
        answers: Mapping[int, Shape],
        permission: Permission,
        kind: Kind = "command",
        wait: float | None = None,
        example: Any = None,
        alone: LoneHandler | None = None,
        prepare: Preparation | None = None,
        seals_answer: bool = False,
    ) -> Callable[[H], H]:
        """A command, or a calculation that takes a body."""
        return self._add(
            "POST",
            path,
            kind,
            permission,
            answers,
            wait=wait,
            example=example,
            alone=alone,
            prepare=prepare,
            seals_answer=seals_answer,
        )

    def put(
        self,
        path: str,
        *,
        answers: Mapping[int, Shape],
        permission: Permission,
        example: Any = None,
        is_confidential: bool = False,
    ) -> Callable[[H], H]:
        """A command that says what shall be, and may be repeated as it is: it takes no idempotency key, and keeps no answer."""
        return self._add(
            "PUT", path, "command", permission, answers, example=example, is_confidential=is_confidential
        )

    def delete(self, path: str, *, answers: Mapping[int, Shape], permission: Permission) -> Callable[[H], H]:
        """A command that takes something away; without a body, an idempotency key or, mostly, an answer's body."""
        return self._add("DELETE", path, "command", permission, answers)

    def link(self, method: Method, path: str, *, answers: Mapping[int, Shape]) -> Callable[[H], H]:
        """What is open to whoever has a signed link."""
        return self._add(method, path, "link", None, answers)

    def _add(
        self,
        method: Method,
        path: str,
        kind: Kind,
        permission: Permission | None,
        answers: Mapping[int, Shape],
        **more: Any,
    ) -> Callable[[H], H]:
        def register(handler: H) -> H:
            hints = get_type_hints(handler)
            summary, _, description = (inspect.getdoc(handler) or "").partition("\n\n")
            self.operations.append(
                Operation(
                    method=method,
                    path=self.prefix + path,
                    handler=handler,
                    kind=kind,
                    permission=permission,
                    tag=self.tag,
                    summary=summary.rstrip("."),
                    description=description,
                    answers=answers,
                    body=_model(hints.get("body")),
                    body_is_optional=NoneType in get_args(hints.get("body")),
                    query=_model(hints.get("query")),
                    **more,
                )
            )
            return handler

        return register


def _model(hint: Any) -> type[BaseModel] | None:
    """The model in `Model` or `Model | None`."""
    return next(
        (one for one in (hint, *get_args(hint)) if isinstance(one, type) and issubclass(one, BaseModel)), None
    )
