"""`feedback-loop config`: what is set, and by what."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from feedback_loop.cli.options import Shell, group
from feedback_loop.cli.output import table
from feedback_loop.safe_text import HIDDEN, without_secrets

app = group("The configuration: what is set, and by what.")


@app.command("show")
def show(shell: Shell) -> None:
    """Lists every setting with its value and where that is from: the file, a variable, or the default.

    Secrets are hidden.
    """
    from feedback_loop.config import CONFIG_VARIABLE, FILE_NAME, load_settings, read_toml

    settings = load_settings(shell.config)
    place = shell.config or Path(os.environ.get(CONFIG_VARIABLE, FILE_NAME))
    content = read_toml(place, "configuration", "Write one: feedback-loop init.")
    rows = [
        {"setting": ".".join(keys), "value": _hidden(keys, value), "from": _source(keys, content, place)}
        for keys, value in _flat(settings.model_dump(mode="json", exclude={"home"}))
    ]
    shell.emit(rows, lambda rows: table([{**row, "value": _text(row["value"])} for row in rows], ""))


def _flat(value: Any, keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Settings by the keys that lead to them; a list, or a table without any, is one setting."""
    if isinstance(value, dict) and (value or not keys):
        for name, inner in value.items():
            yield from _flat(inner, (*keys, str(name)))
    else:
        yield keys, value


def _hidden(keys: tuple[str, ...], value: Any) -> Any:
    """A value as it may be shown."""
    is_route = keys[:2] == ("alerts", "routes") and keys[-1] == "url"
    if isinstance(value, str) and value and (is_route or keys[-1] == "heartbeat"):
        # Any part of these may be a token.
        return f"{value.partition('://')[0]}://{HIDDEN}"
    if isinstance(value, str):
        return HIDDEN if value and not value.strip("*") else without_secrets(value)
    if isinstance(value, list):
        return [_hidden(keys, inner) for inner in value]
    return {name: _hidden(keys, inner) for name, inner in value.items()} if isinstance(value, dict) else value


def _source(keys: tuple[str, ...], content: dict[str, Any], place: Path) -> str:
    """The variable that sets it or a table that it is in, else the file, else nothing but the default."""
    from feedback_loop.config import PREFIX

    variables = {name.upper(): name for name in os.environ}
    for end in range(len(keys), 0, -1):
        if name := variables.get(PREFIX + "__".join(keys[:end]).upper()):
            return name
    table: Any = content
    for key in keys:
        if isinstance(table, str) and key == "url":  # a route's URL in the place of its table
            return str(place)
        if not isinstance(table, dict) or key not in table:
            return "default"
        table = table[key]
    return str(place)


def _text(value: Any) -> str:
    """A value as the file has it, text without its quotes."""
    from feedback_loop.config_template import toml

    if value is None or value == "":
        return "–"
    return value if isinstance(value, str) else toml(value)
