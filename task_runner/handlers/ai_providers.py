"""The ways to models: what the operator has set up, what a task brings along, and what neither may do.

A provider has a name. `scripted` is always there; others stand in `SIGNALBOX_AI_PROVIDERS`, or are reached where the task's
own `baseUrl` says, with a key of its own. The operator's key goes to the operator's place and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass

from common.ai_policy import Policy, Price, Ruling, Why, refused
from common.errors import did_you_mean
from task_runner.handlers.ai_input import Asked
from task_runner.handlers.ai_port import Provider
from task_runner.handlers.ai_scripted import Scripted
from task_runner.registry import Permanent

SCRIPTED = "scripted"


@dataclass(frozen=True, slots=True)
class Way:
    """A way to a model. `is_listed`: the operator lists the models that may be asked there."""

    provider: Provider
    price: Price | None = None
    is_listed: bool = False


@dataclass(frozen=True, slots=True)
class Ways:
    """The ways that there are."""

    def to(self, asked: Asked, policy: Policy) -> Way | Ruling:
        """The way to the model that is asked, or why it may not be asked. Raises `Permanent` (`ai.provider`) where there is none."""
        if not policy.allows_model(asked.model):
            return refused(
                Why.MODEL_NOT_ALLOWED, f"the policy does not list {asked.model!a:.100} in allowedModels"
            )
        if asked.provider == SCRIPTED:
            return Way(Scripted(asked.script))
        known = [SCRIPTED]
        raise Permanent(
            f'no provider "{asked.provider:.100}"{did_you_mean(asked.provider, known)}', code="ai.provider"
        )


def operators_ways() -> Ways:
    """What the settings of this process say."""
    return Ways()
