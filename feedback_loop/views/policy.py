"""Policy: what counts as worse and what follows, as it is configured; and what a changed one would have said."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from feedback_loop.config import ModelSettings
from feedback_loop.config_policy import PolicySettings
from feedback_loop.config_template import quoted, toml
from feedback_loop.decisions.backtest import Aftermath, Backtest, Replayed, delay_of, policy_of
from feedback_loop.errors import BadInput, ConfigError
from feedback_loop.loop import FeedbackLoop
from feedback_loop.plain import plain
from feedback_loop.progress import Progress
from feedback_loop.store.conclusions import Verdict

OF_MODEL = ("maturity", "window")
"""The settings beside the policy's own that a look depends on."""

LEAST_EVERY = timedelta(hours=1)
"""The log of a year has thousands of looks then; of one each second it would have millions."""


def model_policy(loop: FeedbackLoop, model: str) -> dict[str, Any]:
    """What is configured, as plain values, with what each setting means; raises NotFound."""
    settings = loop.settings.model(model)
    return {
        "model": model,
        "settings": [
            {"name": name, "value": value, "says": _says(name), "default": _default(name)}
            for name, value in _values(settings).items()
        ],
        "conditions": [condition.words for condition in settings.conditions],
        "approval": settings.approval.model_dump(mode="json"),
        "rollout": settings.rollout.model_dump(mode="json"),
        "toml": _tables(model, _values(settings)),
    }


def check_policy(
    loop: FeedbackLoop, model: str, changes: Mapping[str, Any], every: timedelta | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A changed policy as a table of the file, and the settings that it changes; raises as `try_policy` does."""
    if every is not None and every < LEAST_EVERY:
        raise BadInput.of("every", "is shorter than an hour", cure="Use the command: feedback-loop backtest.")
    settings = loop.settings.model(model)
    content: dict[str, Any] = {name: value for name, value in changes.items() if name in OF_MODEL}
    policy = {name: value for name, value in changes.items() if name not in OF_MODEL}
    content |= {"policy": policy} if policy else {}
    try:
        configured, proposed = _values(settings), _values(policy_of(content, settings, Path("proposed")))
    except ConfigError as error:
        raise BadInput.of(error.key, error.cause, cure=error.cure) from None
    return content, {name: value for name, value in proposed.items() if value != configured[name]}


def try_policy(
    loop: FeedbackLoop,
    model: str,
    changes: Mapping[str, Any],
    *,
    every: timedelta | None = None,
    known_now: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """A changed policy on the log, beside the configured one, and the lines that would make it so. Saves nothing.

    `changes` are settings by name: the policy's own, `maturity`, `window`. `every` and `known_now` are those of
    `loop.backtest`, which says to `progress` how far it is. Raises NotFound, and BadInput for a setting that is not
    there or can't be so, or too many looks.
    """
    content, changed = check_policy(loop, model, changes, every)
    result = loop.backtest(model, [content], every=every, known_now=known_now, progress=progress)
    return {**plain(backtest_values(result)), "changed": changed, "toml": _tables(model, changed)}


def _values(settings: ModelSettings) -> dict[str, Any]:
    """The settings of a policy by name, as the file has them; None: it is left out there."""
    values = settings.model_dump(mode="json", include=set(OF_MODEL))
    return {**values, **settings.policy.model_dump(mode="json")}


def _says(name: str) -> str:
    section = ModelSettings if name in OF_MODEL else PolicySettings
    return (section.model_fields[name].description or "").replace("`", "")


def _default(name: str) -> Any:
    return _values(ModelSettings(task="binary", label="label"))[name]


def _tables(model: str, values: Mapping[str, Any]) -> str:
    """Settings as lines of `feedback_loop.toml`; those that are left out have none."""
    table = f"models.{quoted(model)}"
    named = {name: value for name, value in values.items() if value is not None}
    own = [f"{name} = {toml(value)}" for name, value in named.items() if name in OF_MODEL]
    of_policy = [f"{name} = {toml(value)}" for name, value in named.items() if name not in OF_MODEL]
    lines = [f"[{table}]", *own] if own else []
    return "\n".join([*lines, *([f"[{table}.policy]", *of_policy] if of_policy else [])])


def backtest_values(result: Backtest) -> dict[str, Any]:
    """Everything, as plain values."""
    policies = zip(result.played, result.followed, strict=True)
    return {
        "model": result.model,
        "from": result.window.start,
        "to": result.window.end,
        "looks": result.looks,
        "looks_were_made": result.were_made,
        "known": result.known,
        "injected": result.injected,
        "final_until": result.final_until,
        "versions": [{"version": tenure.version, "since": tenure.begins} for tenure in result.tenures],
        "change": result.change,
        "policies": [_policy(result, played, aftermaths) for played, aftermaths in policies],
    }


def _policy(result: Backtest, played: Replayed, aftermaths: tuple[Aftermath, ...]) -> dict[str, Any]:
    settings, alarms = played.candidate.settings, zip(played.alarms, aftermaths, strict=True)
    return {
        "name": played.candidate.name,
        "rule": settings.policy.rule,
        "policy": settings.policy.model_dump(mode="json"),
        "maturity": settings.maturity,
        "window": settings.window,
        "loss": played.loss,
        "alarms": [_verdict(alarm) | {"followed": aftermath} for alarm, aftermath in alarms],
        "warnings": [_verdict(verdict) for verdict in played.warnings],
        "delay": delay_of(played, result.change) if result.change else None,
        "retrainings": played.steps,
        "verdicts": [_verdict(verdict) | {"evidence": verdict.evidence} for verdict in played.verdicts],
        "cohorts": played.cohorts,
    }


def _verdict(verdict: Verdict) -> dict[str, Any]:
    named = {name: getattr(verdict, name) for name in ("version", "window", "state", "summary")}
    return {"at": verdict.decided_at, **named}


def policy_row(policy: dict[str, Any], *, verbose: bool = True) -> dict[str, Any]:
    """A policy in a line that fits 100 columns; verbosely also when it first alarmed, and how often it warned."""
    name, rule, delay, alarms = policy["name"], policy["rule"], policy["delay"], policy["alarms"]
    followed = [alarm["followed"] for alarm in alarms if alarm["followed"]["cause"] is None]
    reasons = [step["reason"] for step in policy["retrainings"]]
    counts = ", ".join(f"{reasons.count(reason)} {reason}" for reason in sorted(set(reasons)))
    first = {
        "warnings": len(policy["warnings"]),
        "first alarm": alarms[0]["at"] if alarms else "–",
        "version": alarms[0]["version"] if alarms else "–",
    }
    return {
        "policy": name if name == rule else f"{name} ({rule})",
        "alarms": len(alarms),
        **(first if verbose else {}),
        "delay": f"{delay['days']:.1f} d, {delay['labels']:,} labels" if delay else "–",
        "retrainings": counts or "–",
        "loss: it → the next": f"{followed[0]['before']:.4f} → {followed[0]['after']:.4f}" if followed else "–",
    }
