"""The text of a new configuration: the defaults of settings, and what is said of them, from their own classes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from feedback_loop import config, config_outcomes, config_policy
from feedback_loop.clock import format_duration
from feedback_loop.config_policy import Section

HEAD = """\
# How feedback-loop runs. Every value can be overridden by a variable, such as FEEDBACK_LOOP_STORE__URL.
# Relative paths start from this file's folder. A setting that does not exist is an error, never ignored.
# What is commented out stands at its default, or is an example; all there is: docs/configuration.md.
"""

OWN_METRICS = """\
{:<32} # Metrics of your own making.
# profit = {{ path = "package.module:profit", columns = ["amount"] }}
"""

COMMENT_AT = 32
"""The column at which comments start, where what is before leaves room."""


def process_text(store_url: str, tracking_uri: str) -> str:
    """What is of the process and no model."""
    tables = [
        table("[store]", config.StoreSettings, {"url": store_url}, "history"),
        table("[registry]", config.RegistrySettings, {"tracking_uri": tracking_uri}),
        table("[serving]", config.ServingSettings, {"host": ..., "port": ...}),
        table(
            "[capture]",
            config.CaptureSettings,
            {},
            "folder max_bytes forward_every max_backoff pair_within alert_after",
        ),
        table("[alerts]", config.AlertSettings, {}, "routes quiet timezone quiet_except"),
    ]
    return "\n".join([HEAD, *tables])


def model_text(name: str, values: Mapping[str, Any]) -> str:
    """What is of one model, of which `values` are set; `...` stands for a default."""
    of = f"models.{quoted(name)}"
    tables = [
        table(
            f"[{of}]",
            config.ModelSettings,
            {**values, "maturity": ..., "window": ...},
            "segment_values classes query find_slices silence",
        ),
        table(f"[{of}.outcomes]", config_outcomes.OutcomeSettings, {}, "folder sql"),
        table(f"[{of}.exploration]", config_outcomes.ExplorationSettings, {}, "share acts_below"),
        table(f"[{of}.log]", config.LogSettings, {}, "durability on_full columns sample retention"),
        OWN_METRICS.format(f"# [{of}.metrics]"),
        table(f"[{of}.join]", config_outcomes.JoinSettings, {}, "horizon which absent_means"),
        table(f"[{of}.drift]", config_policy.DriftSettings, {}, "rule alpha multivariate"),
        table(f"[[{of}.conditions]]", config_policy.ConditionSettings, {}, "metric below windows segment"),
        table(
            f"[{of}.policy]",
            config_policy.PolicySettings,
            {"alpha": ..., "mode": ..., "cooldown": ..., "refresh": ...},
            "rule tolerance budget",
        ),
        table(f"[[{of}.policy.watch]]", config_policy.WatchSettings, {}, "segment weight"),
        table(f"[{of}.approval]", config_policy.ApprovalSettings, {}, "expires needed"),
        table(f"[{of}.rollout]", config_policy.RolloutSettings, {}, "mode alpha windows steps probation"),
        table(f"[{of}.schedule]", config.ScheduleSettings, {"cycle": ..., "report": ...}),
    ]
    return "\n".join(tables)


def table(header: str, section: type[Section], values: Mapping[str, Any], commented: str = "") -> str:
    """A table: what is set there, then some settings that are commented out; all of it, where nothing is set."""
    says = (section.__doc__ or "").partition("\n")[0]
    lines = [_line("" if values else "# ", header, says)]
    lines += [_setting("", section, name, value) for name, value in values.items()]
    lines += [_setting("# ", section, name, ...) for name in commented.split()]
    return "\n".join(lines) + "\n"


def _setting(mark: str, section: type[Section], name: str, value: Any) -> str:
    inner, _, rest = name.partition(".")
    if rest:  # of a section in this one, written with a dot
        return _line(mark, f"{name} = {toml(value)}", "")
    field = section.model_fields[inner]
    if value is ...:
        value = field.examples[0] if field.examples else field.get_default(call_default_factory=True)
    return _line(mark, f"{field.alias or name} = {toml(value)}", field.description or "")


def _line(mark: str, written: str, says: str) -> str:
    return f"{mark + written:<{COMMENT_AT}} # {says.replace('`', '')}" if says else mark + written


def toml(value: Any) -> str:
    """A value as TOML has it; a duration as the configuration has it."""
    if value is None:
        return '"never"'
    if isinstance(value, timedelta):
        return json.dumps(format_duration(value))
    if isinstance(value, bool | int | float):
        return str(value).lower()
    if isinstance(value, Mapping):
        pairs = [f"{quoted(key)} = {toml(inner)}" for key, inner in value.items()]
        return f"{{ {', '.join(pairs)} }}" if pairs else "{}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(map(toml, value))}]"
    return json.dumps(str(value), ensure_ascii=False)  # TOML's basic strings are JSON's


def quoted(key: str) -> str:
    """A key as TOML has it: in quotes where it must be."""
    is_bare = key.isascii() and key.replace("_", "").replace("-", "").isalnum()
    return key if is_bare else json.dumps(key)
