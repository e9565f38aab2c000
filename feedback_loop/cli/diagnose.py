"""`feedback-loop diagnose`: why a model has become worse, and what is to be done about it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from feedback_loop.cli.options import AsOfOption, ModelArgument, Shell, WindowGiven
from feedback_loop.cli.output import span, table


def diagnose(
    shell: Shell,
    model: ModelArgument,
    within: WindowGiven,
    as_of: AsOfOption = None,
    lists: Annotated[bool, typer.Option("--list", help="Only list diagnoses, and whether they were right.")] = False,
) -> None:
    """Finds why the loss has changed and what to do: repair the feed, retrain (on what), replace, search, or nothing.

    The window is by default that since the change which the latest verdict estimates.
    """
    from feedback_loop.store.conclusions import load_diagnoses

    window, loop = within.window(), shell.loop()
    if lists:
        loop.settings.model(model)
        loop.judge_diagnoses(model)
        shell.emit(load_diagnoses(loop.store, model), _list_words)
    else:
        shell.emit(loop.diagnose(model, window, as_of), _words)


def _list_words(rows: list[dict[str, Any]]) -> str:
    right = {None: "not known yet", True: "yes", False: "no"}
    shown = [
        {
            "window": span(row["window"]),
            "version": row["version"],
            "incident": row["incident_id"] or "–",
            "recommended": row["recommendation"],
            "right": right[row["was_right"]] + (f": {row['judged_because']}" if row["judged_because"] else ""),
        }
        for row in rows
    ]
    return table(shown, "Nothing has been diagnosed yet.")


def _words(row: dict[str, Any]) -> str:
    evidence, head = row["evidence"], f"{row['recommendation']}: {row['summary']}"
    split, change = evidence["split"], evidence["change"]
    if split is None:
        return head
    parts = {"broken features": evidence["broken"], "inputs": split["inputs"], "relation": split["relation"]}
    shown = [
        {
            "part": name,
            evidence["loss"]: f"{part['value']:+.4f}",
            "± standard error": f"{part['error']:.4f}",
            "share": f"{part['value'] / change['value']:.0%}" if change["value"] > 3 * change["error"] else "–",
        }
        for name, part in {**parts, "all": change}.items()
    ]
    rows = (
        f"{evidence['rows_now']:,} rows of {span(row['window'])} beside "
        f"{evidence['rows_before']:,} of the reference of version {row['version']}; "
        f"{split['thin']:.0%} of them lie where it has next to none."
    )
    return "\n".join([head, table(shown, ""), rows])
