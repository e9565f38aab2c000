"""Policies to be tried beside each other: those of files, or every rule that there is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from feedback_loop.config import ModelSettings, read_toml, with_overrides
from feedback_loop.config_errors import nearest
from feedback_loop.config_policy import PolicySettings, Rule
from feedback_loop.errors import BadInput, ConfigError

CONFIGURED = "configured"
"""What the policy of the configuration is called beside others."""

KEYS = ("policy", "maturity", "window")
"""What such a file may say of a model: whatever a look depends on."""


@dataclass(frozen=True)
class Candidate:
    """A policy to be tried: its name, and the model's settings with it in them."""

    name: str
    settings: ModelSettings


def candidates_of(
    settings: ModelSettings, model: str, policies: Sequence[str | Path | PolicySettings]
) -> list[Candidate]:
    """The configured policy, and beside it the given ones (files, or settings), or else every other rule.

    Raises ConfigError, and BadInput where two have the same name.
    """
    candidates = [Candidate(CONFIGURED, settings)]
    candidates += [_candidate(settings, model, policy) for policy in policies] or _other_rules(settings)
    names = [candidate.name for candidate in candidates]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise BadInput.of("policy", f"{twice!r} is the name of two", cure="Give the files different names.")
    return candidates


def _candidate(settings: ModelSettings, model: str, policy: str | Path | PolicySettings) -> Candidate:
    if isinstance(policy, PolicySettings):
        return Candidate(policy.rule, settings.model_copy(update={"policy": policy}))
    return Candidate(Path(policy).stem, load_policy(Path(policy), settings, model))


def load_policy(place: Path, settings: ModelSettings, model: str) -> ModelSettings:
    """A model's settings with the policy of a file: `[policy]`, or `[models.<name>.policy]` as in a configuration.

    What the file does not say stays as it is configured. Beside the policy it may say `maturity` and `window`; of a
    whole configuration nothing else is looked at. Raises ConfigError.
    """
    content = read_toml(place, "policy file", "Write one with a [policy] table.")
    if "models" in content:
        content = _of_model(content["models"], place, model)
        content = {key: value for key, value in content.items() if key in KEYS}
    for key in content:
        if key not in KEYS:
            is_inside = key in PolicySettings.model_fields
            cure = "Put it under [policy]." if is_inside else nearest(key, set(KEYS), lambda name: name)
            raise ConfigError(f"{place}: there is no setting {key!r} here.", cure=cure, path=place, key=key)
    if not content:
        raise ConfigError(f"{place} says nothing of a policy.", cure="Give it a [policy] table.", path=place)
    return with_overrides(settings, content, place)


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
