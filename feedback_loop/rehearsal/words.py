"""A rehearsal's result for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MOST = 5
"""So many alarms, diagnoses and retrainings are shown; all of them are in `--json`."""


def closing_words(result: Mapping[str, Any], rows: str) -> str:
    """The result in lines: the table of strategies (`rows`), what happened, where things are."""
    span = f"{result['from']} – {result['to']}"
    labelled = f"{result['labelled']:,} with an outcome ({result['coverage']:.1%})"
    lines = [
        f"{result['model']}: {result['predictions']:,} predictions, {span}; {labelled}",
        "",
        rows,
        "",
    ]
    lines += _lines("alarm", result["alarms"], lambda event: f"version {event['version']}: {event['summary']}")
    lines += _lines("diagnosis", result["diagnoses"], lambda event: f"{event['recommendation']}: {event['summary']}")
    lines += _lines("retraining", result["retrainings"], _search)
    lines += _lines("promotion", result["promotions"], lambda event: f"version {event['version']}: {event['reason']}")
    lines += [f"Note: {note}" for note in result["notes"]]
    lines += ["", f"Plot: {', '.join(result['plots'])}"]
    return "\n".join(lines)


def _search(search: Mapping[str, Any]) -> str:
    return f"{search['reason']}, {search['state']}: {search['summary']}"


def _lines(name: str, values: list[dict[str, Any]], words: Any) -> list[str]:
    lines = [f"{event['at']}  {name}  {words(event)}" for event in values[:MOST]]
    more = len(values) - MOST
    return lines + ([f"  {more} more of these: --json"] if more > 0 else []) or [f"no {name}"]
