"""`feedback-loop diagnose`: why a model has become worse, and what is to be done about it."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from feedback_loop.cli.monitor import FromOption, ToOption, WindowOption, window_of
from feedback_loop.cli.output import ModelArgument, Shell, table
from feedback_loop.clock import format_moment, parse_moment

if TYPE_CHECKING:
    from feedback_loop.store.conclusions import Diagnosis


def diagnose(
    shell: Shell,
    model: ModelArgument,
    within: WindowOption = None,
    start: FromOption = None,
    end: ToOption = None,
    as_of: Annotated[str | None, typer.Option(help="With what was known at this moment; default: now.")] = None,
    lists: Annotated[bool, typer.Option("--list", help="Only list diagnoses, and whether they were right.")] = False,
) -> None:
    """Finds why the loss has changed and what to do: repair the feed, retrain (on what), replace, search, or nothing.

    The window is by default that since the change which the latest verdict estimates.
    """
    from feedback_loop.store.conclusions import load_diagnoses

    window, moment = window_of(within, start, end), parse_moment(as_of) if as_of else None
    loop = shell.loop()
    if lists:
        loop.settings.model(model)
        loop.judge_diagnoses(model)
        found = [_plain(each) for each in load_diagnoses(loop.store, model)]
        shell.emit(found, _list_words)
        return
    shell.emit(_plain(loop.diagnose(model, window, moment)), _words)


def _plain(made: Diagnosis) -> dict[str, Any]:
    window = [format_moment(made.window.start), format_moment(made.window.end)]
    return asdict(made) | {"window": window, "as_of": format_moment(made.as_of)}


def _list_words(rows: list[dict[str, Any]]) -> str:
    known = {None: "not known yet", True: "yes", False: "no"}
    shown = [
        {
            "window": " – ".join(row["window"]),
            "version": row["version"],
            "incident": row["incident_id"] or "–",
            "recommended": row["recommendation"],
            "right": known[row["was_right"]] + (f": {row['judged_because']}" if row["judged_because"] else ""),
        }
        for row in rows
    ]
    return table(shown, "Nothing has been diagnosed yet.")


def _words(row: dict[str, Any]) -> str:
    evidence = row["evidence"]
    lines = [f"{row['recommendation']}: {row['summary']}"]
    if evidence["split"] is None:
        return lines[0]
    split, total = evidence["split"], evidence["change"]["value"]
    parts = {"broken features": evidence["broken"], "inputs": split["inputs"], "relation": split["relation"]}
    shown = [
        {
            "part": name,
            evidence["loss"]: f"{part['value']:+.4f}",
            "± standard error": f"{part['error']:.4f}",
            "share": f"{part['value'] / total:.0%}" if total > 3 * evidence["change"]["error"] else "–",
        }
        for name, part in {**parts, "all": evidence["change"]}.items()
    ]
    lines.append(table(shown, ""))
    lines.append(
        f"{evidence['rows_now']:,} rows of {row['window'][0]} – {row['window'][1]} beside "
        f"{evidence['rows_before']:,} of the reference of version {row['version']}; "
        f"{split['thin']:.0%} of them lie where it has next to none."
    )
    return "\n".join(lines)
