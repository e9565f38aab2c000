"""`feedback-loop erase`: a person's rows, removed everywhere."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from feedback_loop.cli.options import ModelArgument, Shell
from feedback_loop.cli.output import say
from feedback_loop.errors import BadInput, Refused
from feedback_loop.plain import plain


def erase(
    shell: Shell,
    model: ModelArgument,
    key: Annotated[list[str], typer.Option(help="A column of the key and its value: customer=123; repeatable.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask: it can't be undone.")] = False,
) -> None:
    """Removes every row with that key (or part of a composite key): predictions, outcomes, references, reports.

    On a terminal it says what would be removed and asks first; elsewhere it needs --yes.
    """
    wanted = dict(_column_and_value(text) for text in key)
    if len(wanted) < len(key):
        raise BadInput.of("--key", "names a column twice", cure="Erase one key after the other.")
    asks = not (dry_run or yes)
    if asks and (shell.as_json or not sys.stdin.isatty()):
        raise Refused("What is erased is gone for good.", cure="See what it would be: --dry-run. Then say --yes.")
    loop = shell.loop()
    if asks:
        say(_words(plain(loop.erase(model, wanted, text=True, dry_run=True))), to=sys.stderr)
        if not typer.confirm("Erase that for good?", err=True):
            raise Refused("Nothing was erased.")
    with loop.runner.leased(model):
        shell.emit(loop.erase(model, wanted, text=True, dry_run=dry_run), _words)


def _column_and_value(text: str) -> tuple[str, str]:
    column, equals, value = text.partition("=")
    if not equals:
        raise BadInput.of("--key", f"{text!r} is no column=value", cure="Write --key customer=123.")
    return column.strip(), value


def _words(done: dict[str, Any]) -> str:
    references = sum(done["reference_rows"].values())
    counted = (
        f"{'Would remove' if done['dry_run'] else 'Removed'} {done['predictions']:,} predictions, "
        f"{done['outcomes']:,} outcomes, {done['findings']:,} findings, {done['spooled']:,} spooled rows, "
        f"{done['payloads']:,} waiting payloads, {references:,} reference rows in MLflow."
    )
    unread = f"NOT looked into, they can't be read: {done['unread_payloads']:,} waiting payloads."
    lines = [
        counted,
        *([unread] if done["unread_payloads"] else []),
        *(f"report: {path}" for path in (*done["reports"], *done["mlflow_reports"])),
        *(f"NOT deleted, MLflow can't here: {path}" for path in done["undeleted"]),
    ]
    if done["reports"] or done["mlflow_reports"]:
        lines.append(f"Reports can be written anew: feedback-loop report {done['model']} …")
    return "\n".join([*lines, *(f"stays: {text}" for text in done["stays"])])
