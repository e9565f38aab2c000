"""The policies that a backtest compares: those of files, or all rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from feedback_loop.config import ModelSettings, read_toml, with_overrides
from feedback_loop.config_errors import nearest
from feedback_loop.config_policy import PolicySettings, Rule
from feedback_loop.errors import BadInput, ConfigError

CONFIGURED = "configured"
"""The name of the configured policy among others."""

PROPOSED = "proposed"
"""The name of a policy that is not written anywhere yet."""

Policy = str | Path | PolicySettings | Mapping[str, Any]
"""A policy to be tried: a file, settings, or what a file would say."""

KEYS = ("policy", "maturity", "window")
"""The settings that a policy file may have: those that a look depends on."""


@dataclass(frozen=True)
class Candidate:
    """A policy to be tried: its name, and the model's settings with it in them."""

    name: str
    settings: ModelSettings


def candidates_of(settings: ModelSettings, model: str, policies: Sequence[Policy]) -> list[Candidate]:
    """The configured policy and the given ones; without any, all other rules.

    Raises ConfigError, and BadInput where two have the same name.
    """
    candidates = [Candidate(CONFIGURED, settings)]
    candidates += [_candidate(settings, model, policy) for policy in policies] or _other_rules(settings)
    names = [candidate.name for candidate in candidates]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise BadInput.of("policy", f"{twice!r} is the name of two", cure="Give the files different names.")
    return candidates


def _candidate(settings: ModelSettings, model: str, policy: Policy) -> Candidate:
    if isinstance(policy, Mapping):
        return Candidate(PROPOSED, policy_of(policy, settings, Path(PROPOSED)))
    if isinstance(policy, PolicySettings):
        return Candidate(policy.rule, settings.model_copy(update={"policy": policy}))
    return Candidate(Path(policy).stem, load_policy(Path(policy), settings, model))


def load_policy(place: Path, settings: ModelSettings, model: str) -> ModelSettings:
    """A model's settings with the policy of a file: `[policy]`, or `[models.<name>.policy]` as in a configuration.

    What the file does not set stays as configured. Besides the policy it may set `maturity` and `window`; the rest of
    a whole configuration is ignored. Raises ConfigError.
    """
    content = read_toml(place, "policy file", "Write one with a [policy] table.")
    if "models" in content:
        content = _of_model(content["models"], place, model)
        content = {key: value for key, value in content.items() if key in KEYS}
    return policy_of(content, settings, place)


def policy_of(content: Mapping[str, Any], settings: ModelSettings, place: Path) -> ModelSettings:
    """A model's settings with what a policy file (at `place`) says; raises ConfigError."""
    for key in content:
        if key not in KEYS:
            is_inside = key in PolicySettings.model_fields
            cure = "Put it under [policy]." if is_inside else nearest(key, set(KEYS), lambda name: name)
            raise ConfigError(f"{place}: there is no setting {key!r} here.", cure=cure, path=place, key=key)
    if not content:
        raise ConfigError(f"{place} says nothing of a policy.", cure="Give it a [policy] table.", path=place)
    return with_overrides(settings, dict(content), place)


def _of_model(models: object, place: Path, model: str) -> dict[str, object]:
    tables = models if isinstance(models, dict) else {}
    if not isinstance(tables.get(model), dict):
        raise ConfigError(
            f"{place} has no table [models.{model}].",
            cure=nearest(model, set(tables), lambda name: f"[models.{name}]") if tables else "Write [policy].",
            path=place,
            key=f"models.{model}",
        )
    table: dict[str, object] = tables[model]
    return table


def _other_rules(settings: ModelSettings) -> list[Candidate]:
    """All rules but the configured one, with its other settings."""
    return [
        Candidate(rule, settings.model_copy(update={"policy": settings.policy.model_copy(update={"rule": rule})}))
        for rule in get_args(Rule)
        if rule != settings.policy.rule
    ]
