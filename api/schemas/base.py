"""What the bodies, queries and answers of the API are made of: the three kinds of model, and types that several use."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel

from common.clock import parse_instant
from common.commands.start import MAX_KEY, MAX_LABELS

Json = Any


class Body(BaseModel):
    """A request body: camelCase, unknown members refused, no type coerced into another."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, alias_generator=to_camel)


class Query(BaseModel):
    """Query parameters: text is read into the parameter's type, unknown ones are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel)


class Shape(BaseModel):
    """A piece of an answer. More members may be added at any time."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel, use_enum_values=True)


def _instant(value: Any) -> Any:
    return parse_instant(value) if isinstance(value, str) else value


def _label_name(name: str) -> str:
    if not 0 < len(name) <= 63 or ":" in name:
        raise ValueError(f'a label\'s name has 1 to 63 characters and no ":", found "{name[:80]}"')
    return name


def _label_pair(text: str) -> str:
    if ":" not in text:
        raise ValueError(f'a label filter is "name:value", found "{text[:80]}"')
    return text


Instant = Annotated[datetime, BeforeValidator(_instant)]
Key = Annotated[str, Field(min_length=1, max_length=MAX_KEY)]
Version = Annotated[int, Field(ge=1, le=2**31 - 1)]
LabelName = Annotated[str, AfterValidator(_label_name)]
LabelValue = Annotated[str, Field(max_length=MAX_KEY)]
Labels = Annotated[dict[LabelName, LabelValue], Field(max_length=MAX_LABELS)]
LabelPair = Annotated[str, AfterValidator(_label_pair)]
