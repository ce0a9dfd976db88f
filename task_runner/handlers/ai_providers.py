"""The ways to models: what the operator has set up, what a task brings along, and what neither may do.

A provider has a name. `scripted` is always there; others stand in `SIGNALBOX_AI_PROVIDERS`, or are reached where the task's
own `baseUrl` says, with a key of its own. The operator's key goes to the operator's place and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from common.ai_policy import Policy, Price, Ruling, Why, refused
from common.ai_providers import PLACES, ProviderSetting, check_url, read_providers
from common.config import settings_of_process
from common.errors import did_you_mean
from task_runner.handlers.ai_anthropic import Anthropic
from task_runner.handlers.ai_input import Asked
from task_runner.handlers.ai_openai import OpenAi
from task_runner.handlers.ai_port import Provider
from task_runner.handlers.ai_scripted import Scripted
from task_runner.handlers.ai_sdk import Connection
from task_runner.handlers.http import egress_of
from task_runner.handlers.http_guard import resolve_name
from task_runner.handlers.http_network import Egress, trust_of_the_system
from task_runner.redact import NOTHING_HIDDEN, Redaction
from task_runner.registry import Permanent

SCRIPTED = "scripted"
_KINDS: Mapping[str, type[OpenAi | Anthropic]] = {"openai": OpenAi, "anthropic": Anthropic}


@dataclass(frozen=True, slots=True)
class Way:
    """A way to a model. `is_listed`: the operator lists the models that may be asked there."""

    provider: Provider
    price: Price | None = None
    is_listed: bool = False


@dataclass(frozen=True, slots=True)
class Ways:
    """The ways that there are: the operator's providers by name, how the network is reached, seconds for a question."""

    providers: Mapping[str, ProviderSetting] = field(default_factory=dict)
    egress: Egress = field(default_factory=lambda: Egress((), resolve_name, trust_of_the_system))
    seconds: float = 120.0

    def to(
        self,
        asked: Asked,
        policy: Policy,
        is_cancelled: Callable[[], bool],
        hidden: Redaction = NOTHING_HIDDEN,
    ) -> Way | Ruling:
        """The way to the model that is asked, or why it may not be asked. Raises `Permanent` (`ai.provider`, `ai.input`).

        `hidden` is what the model is told in confidence; no error tells it.
        """
        if not policy.allows_model(asked.model):
            return refused(
                Why.MODEL_NOT_ALLOWED, f"the policy does not list {asked.model!a:.100} in allowedModels"
            )
        if asked.provider == SCRIPTED:
            return Way(Scripted(asked.script))
        setting = self._setting(asked.provider)
        if setting.models is not None and asked.model not in setting.models:
            return refused(
                Why.MODEL_NOT_ALLOWED, f"the operator does not list {asked.model!a:.100} for this provider"
            )
        url = setting.url if asked.base_url is None else _checked(asked.base_url)
        host = _host(url)
        if not policy.allows_host(host, frozenset(_host(one.url) for one in self.providers.values())):
            return refused(Why.DOMAIN_NOT_ALLOWED, f"{host!a:.200} is not among the hosts that are allowed")
        key = asked.api_key
        if key is None and _origin(url) == _origin(setting.url):
            key = setting.key
        kind = _KINDS[setting.kind]
        connection = Connection(
            url, key, kind.credentials(key), self.egress, self.seconds, is_cancelled, hidden
        )
        return Way(kind(connection), setting.prices.get(asked.model), setting.models is not None)

    def place(self, provider: object, base_url: object) -> str | None:
        """Where a task asks its model; None where it would be asked nowhere. Nothing is allowed by it."""
        if not isinstance(provider, str):
            return None
        if isinstance(base_url, str):
            return base_url
        setting = self.providers.get(provider)
        return PLACES.get(provider) if setting is None else setting.url

    def _setting(self, name: str) -> ProviderSetting:
        setting = self.providers.get(name)
        if setting is not None:
            return setting
        if name in PLACES:  # nobody has set it up: without a key, and nowhere that no policy names
            return ProviderSetting(name, PLACES[name])
        known = [SCRIPTED, *PLACES, *self.providers]
        raise Permanent(f'no provider "{name:.100}"{did_you_mean(name, known)}', code="ai.provider")


def operators_ways() -> Ways:
    """What the settings of this process say."""
    settings = settings_of_process()
    written = "" if settings.ai_providers is None else settings.ai_providers.get_secret_value()
    return Ways(read_providers(written), egress_of(settings), settings.ai_timeout_seconds)


def _checked(url: str) -> str:
    try:
        return check_url(url)
    except ValueError as error:
        raise Permanent(f"input: baseUrl: {error}", code="ai.input") from None


def _host(url: str) -> str:
    return (urlsplit(url).hostname or "").lower()


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port
