"""`SIGNALBOX_AI_PROVIDERS`: where models are, with which key, and what they cost, as the operator says it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from common.ai_policy import Price, read_prices
from common.canonical import loads
from common.errors import SignalboxError

PLACES: Mapping[str, str] = {"openai": "https://api.openai.com/v1", "anthropic": "https://api.anthropic.com"}
"""The kinds of providers, and where they are unless somebody says otherwise."""
MAX_SETTING_BYTES = 200_000
_MEMBERS = ("kind", "url", "key", "models", "prices")


@dataclass(frozen=True, slots=True)
class ProviderSetting:
    """One provider. `models` None: whatever model it has may be asked."""

    kind: str
    url: str
    key: str | None = field(default=None, repr=False)
    models: frozenset[str] | None = None
    prices: Mapping[str, Price] = field(default_factory=dict)


def read_providers(written: str) -> dict[str, ProviderSetting]:
    """Read `{name: {kind?, url?, key?, models?, prices?}}`. Raises `ValueError`, whose text has no key in it.

    A provider that is called as a kind is of that kind; others say theirs.
    """
    if not written.strip():
        return {}
    try:
        value = loads(written, max_bytes=MAX_SETTING_BYTES, limit="ai_providers")
    except SignalboxError as error:
        raise ValueError(str(error).removeprefix("body ")) from None
    if not isinstance(value, dict):
        raise ValueError('expected an object such as {"openai": {"key": "…"}}')
    return {name: _provider(name, setting) for name, setting in value.items()}


def _provider(name: str, setting: Any) -> ProviderSetting:
    if not isinstance(setting, dict):
        raise ValueError(f"{name!r:.100}: expected an object")
    unknown = sorted(set(setting).difference(_MEMBERS))
    if unknown:
        raise ValueError(f"{name!r:.100}: unknown member {unknown[0]!r:.40}; known are {', '.join(_MEMBERS)}")
    kind = setting.get("kind", name)
    if name == "scripted" or kind not in PLACES:
        raise ValueError(f"{name!r:.100}: expected a kind of {', '.join(PLACES)}")
    key, models = setting.get("key"), setting.get("models")
    if key is not None and (not isinstance(key, str) or not key):
        raise ValueError(f"{name!r:.100}: key: expected text")
    if models is not None and not (isinstance(models, list) and all(isinstance(one, str) for one in models)):
        raise ValueError(f"{name!r:.100}: models: expected a list of names")
    try:
        prices = read_prices(setting.get("prices", {}))
    except ValueError as error:
        raise ValueError(f"{name!r:.100}: prices: {error}") from None
    return ProviderSetting(
        kind=kind,
        url=check_url(setting.get("url", PLACES[kind])),
        key=key,
        models=None if models is None else frozenset(models),
        prices=prices,
    )


def check_url(url: Any) -> str:
    """The address of a provider. Raises `ValueError` for what is none, or has more in it than an address."""
    if not isinstance(url, str):
        raise ValueError("expected the address of a provider, such as https://api.example.com/v1")
    try:
        parts = urlsplit(url)
        is_whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_whole = False
    if not is_whole or parts.query or parts.fragment or parts.username is not None:
        raise ValueError(
            "expected the address of a provider, such as https://api.example.com/v1, and no more"
        )
    return url.rstrip("/")
