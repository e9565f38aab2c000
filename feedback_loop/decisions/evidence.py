"""What speaks for a verdict, in numbers and in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from feedback_loop.clock import format_moment
from feedback_loop.decisions.losses import Baseline, Cohort, Watched, mean_of
from feedback_loop.decisions.panel import WatchedLoss

CARRIERS = 5
"""So many segments are named, those that add most to the loss."""

SURE = 3.0
"""An estimate warns if it is so many standard errors above the reference."""

MARGIN = 0.05
"""And by so much of it."""


@dataclass(frozen=True)
class Estimated:
    """A mean loss that is believed to be, before outcomes tell it, with its standard error."""

    loss: str
    value: float
    error: float
    rows: int

    def compared(self, baseline: Baseline) -> dict[str, Any]:
        """Beside the reference's: `above` says that it is worth a warning."""
        known = baseline.raw(Watched(self.loss))
        if len(known) < 2:
            return {"loss": self.loss, "estimated": self.value, "above": False}
        reference, error = float(known.mean()), float(np.hypot(self.error, known.std(ddof=1) / np.sqrt(len(known))))
        above = self.value - reference > max(SURE * error, MARGIN * reference)
        return {
            "loss": self.loss,
            "estimated": self.value,
            "reference": reference,
            "standard_error": error,
            "rows": self.rows,
            "above": above,
        }


def of_pair(pair: WatchedLoss, baseline: Baseline) -> dict[str, Any]:
    """A watched loss: reference and stream, when it changed and by how much, and what each monitor says.

    `size` is the mean since the first look minus the reference's, with bounds that hold at every look.
    """
    reference = baseline.scaled(pair.watched)
    found: dict[str, Any] = {
        "name": pair.watched.name,
        "loss": pair.watched.loss,
        "segment": pair.watched.segment,
        "labels": pair.seen.labels,
        "current": pair.seen.mean,
        "lately": pair.seen.mean_lately,
        "tolerance": pair.tolerance,
        "missing_reference": pair.missing,
    }
    if pair.monitors is None or pair.level is None:
        return found
    mean = float(reference.mean())
    since = pair.seen.change(mean, len(reference))
    after = pair.seen.parts[since:] if since is not None else ()
    low, high = pair.level.bounds(pair.alpha / 2)
    return found | {
        "reference": mean,
        "reference_labels": len(reference),
        "changed_at": after[0].since if after else None,
        "after": mean_of(after),
        "labels_after": sum(part.labels for part in after),
        "size": {
            "value": (pair.seen.mean or mean) - mean,
            "low": low - pair.promised[1],
            "high": high - pair.promised[0],
        },
        "monitors": {
            name: {
                "null": each.null,
                "alpha": each.alpha,
                "alarmed_at": each.alarmed_at,
                "e_value": each.e_value,
                "once_in": each.once_in,
            }
            for name, each in pair.monitors.items()
        },
    }


def carriers(cohorts: Sequence[Cohort], baseline: Baseline, watched: Watched) -> list[dict[str, Any]]:
    """The segments whose losses lie above their own in the reference, those that add most to the sum first.

    `share` is of all that is added, by the segments of the same column.
    """
    names = sorted({name for cohort in cohorts for name in cohort.losses.members} & {*baseline.losses.members})
    found: list[dict[str, Any]] = []
    for name in names:
        own = Watched(watched.loss, name)
        before = baseline.scaled(watched, baseline.raw(own))  # by one scale: a segment's own is another
        now = baseline.scaled(watched, np.concatenate([cohort.losses.of(own) for cohort in cohorts]))
        if len(before) < 2 or len(now) < 2:
            continue
        error = float(np.sqrt(before.var(ddof=1) / len(before) + now.var(ddof=1) / len(now)))
        gap = float(now.mean() - before.mean())
        if gap > SURE * error:
            row = {
                "segment": name,
                "reference": float(before.mean()),
                "current": float(now.mean()),
                "labels": len(now),
            }
            found.append(row | {"added": gap * len(now)})
    totals: dict[str, float] = {}
    for each in found:
        column = each["segment"].partition("=")[0]
        totals[column] = totals.get(column, 0.0) + each["added"]
    for each in found:
        each["share"] = each.pop("added") / totals[each["segment"].partition("=")[0]]
    return sorted(found, key=lambda each: (-each["share"] * each["labels"], each["segment"]))[:CARRIERS]


def alarm_words(pair: Mapping[str, Any], once: float | None, now: float | None, *, of_harm: bool) -> str:
    """`accuracy 0.9120 → 0.8710 on 4,210 matured predictions since 2026-05-03T00:00:00Z: …`."""
    name, before, after = _shown(
        pair, pair["reference"], pair["after"] if pair["after"] is not None else pair["lately"]
    )
    labels = pair["labels_after"] or pair["labels"]
    since = f" since {_moment(pair['changed_at'])}" if pair["changed_at"] else ""
    null = f"was not worse by more than {pair['tolerance']:.4f}" if of_harm else "had not changed"
    rare = ""
    if once and now is not None:
        rare = f" A model that {null} would ever show this once in {_times(once)} times (e-value now: {_times(now)})."
    low, high = pair["size"]["low"], pair["size"]["high"]
    size = f" Since the first look its mean loss has been {low:+.4f} to {high:+.4f} from the reference's."
    return f"{name} {before:.4f} → {after:.4f} on {labels:,} matured predictions{since}.{rare}{size}"


def calm_words(pair: Mapping[str, Any], since: datetime, once: float | None, now: float | None) -> str:
    """The figures where nothing acts."""
    name, before, mean = _shown(pair, pair["reference"], pair["current"])
    _, _, lately = _shown(pair, pair["reference"], pair["lately"])
    told = f"{mean:.4f} on {pair['labels']:,} labelled predictions since {format_moment(since)}, {lately:.4f} lately."
    rare = "Nothing speaks for a change."
    if once is not None and now is not None and once >= 2:
        rare = f"A model that had not changed would ever show as much once in {_times(once)} times"
        rare += f" (e-value now: {_times(now)})."
    return f"{name} {before:.4f} on its reference, {told} {rare}"


def carrier_words(found: Sequence[Mapping[str, Any]]) -> str:
    """The segments that carry it, the first three."""
    if not found:
        return ""
    said = [f"{each['segment']} ({each['reference']:.4f} → {each['current']:.4f})" for each in found[:3]]
    return f" Carried by {', '.join(said)}."


def _shown(pair: Mapping[str, Any], before: float, after: float) -> tuple[str, float, float]:
    """An error rate is told as accuracy, any other loss as it is."""
    if pair["loss"] != "error":
        return pair["name"], before, after
    return pair["name"].replace("error", "accuracy", 1), 1 - before, 1 - after


def _times(once: float) -> str:
    return "more than a million" if once > 1e6 else f"{once:,.0f}" if once >= 10 else f"{once:.2g}"


def _moment(text: str) -> str:
    return format_moment(datetime.fromisoformat(text))
