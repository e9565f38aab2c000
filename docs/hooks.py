"""What MkDocs builds beside the files of this folder: the repository's own pages, and the generated reference."""

from __future__ import annotations

import inspect
import logging
import posixpath
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PAGES = (
    *("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "LICENSE", "Dockerfile", "docker-compose.yml"),
    "tests/recorded/make_nannyml.py",
)
"""What the site has of the repository outside of `docs/`, beside the examples."""

LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)(?=[)#\s])")
FENCED = re.compile(r"(^ *```.*?^ *```$)", re.DOTALL | re.MULTILINE)
FROM_ELSEWHERE = re.compile(r"""<(?:script|img|iframe|link [^>]*stylesheet)[^>]+(?:src|href)=["']?(?:https?:)?//""")

log = logging.getLogger("mkdocs.hooks")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the repository's pages, the examples, a list of the decision records, and the reference."""
    examples = [
        path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "examples").rglob("*")) if path.is_file()
    ]
    for name in (*PAGES, *(path for path in examples if "__pycache__" not in path)):
        files.append(File.generated(config, _place(name), abs_src_path=str(ROOT / name)))
    made = {
        "adr/index": _records(),
        "reference/cli": _commands(),
        "reference/http": _http(),
        "reference/python": _python(),
    }
    for name, text in made.items():
        files.append(File.generated(config, f"{name}.md", content=text))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Turns links that hold in the repository into links that hold on the site; fenced blocks stay as they are."""
    here = page.file.src_uri
    if here.startswith("reference/") or here == "adr/index.md":
        return markdown
    source = "README.md" if here == "index.md" else here if (ROOT / here).exists() else f"docs/{here}"

    def moved(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link[1]))
        if (ROOT / target).is_dir():
            target += "/README.md" if (ROOT / target / "README.md").exists() else "/index.md"
        return posixpath.relpath(_place(target), posixpath.dirname(here) or ".")

    parts = FENCED.split(markdown)
    return "".join(part if index % 2 else LINK.sub(moved, part) for index, part in enumerate(parts))


def on_post_page(output: str, page: Page, **_: Any) -> None:
    """Warns (which fails the build) where a page would load something from elsewhere."""
    if FROM_ELSEWHERE.search(output):
        log.warning("%s loads something from elsewhere: these pages are read offline, too", page.file.src_uri)


def _place(path: str) -> str:
    """Where a file of the repository stands on the site."""
    return "index.md" if path == "README.md" else path.removeprefix("docs/")


def _records() -> str:
    """The decision records, by their titles."""
    records = sorted((ROOT / "docs" / "adr").glob("0*.md"))
    titles = [path.read_text().split("\n", 1)[0].lstrip("# ") for path in records]
    return "\n".join(
        [
            "# Decision records",
            "",
            *(f"- [{title}]({path.name})" for title, path in zip(titles, records, strict=True)),
        ]
    )


COMMANDS = """# Command line

Made from the program itself when these pages are built; `feedback-loop COMMAND --help` says the same. Every command
exits with 0 (done), 1 (refused or failed: one line says why, and what cures it) or 2 (wrong usage); `scheduler
--once` also with 3 and 4."""


def _commands() -> str:
    """Every command with its usage and its options, as the program itself has them."""
    import typer

    from feedback_loop.cli import app

    parts = [COMMANDS]
    for name, command in _leaves(typer.main.get_command(app), "feedback-loop"):
        context = command.make_context(name, [], resilient_parsing=True)
        usage = command.get_usage(context).removeprefix("Usage: ")
        records = [parameter.get_help_record(context) for parameter in command.params]
        rows = [f"| `{_cell(record[0])}` | {_cell(record[1])} |" for record in records if record]
        parts.append(f"## {name.removeprefix('feedback-loop ')}")
        parts.append(inspect.cleandoc(command.help or "").replace("\b\n", ""))
        parts.append(f"```text\n{usage}\n```")
        parts.append("\n".join(["| argument or option | |", "|---|---|", *rows]) if rows else "")
    return "\n\n".join(parts)


def _leaves(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Every command of a group and of the groups in it, by its whole name."""
    children = getattr(command, "commands", None)
    if children is None:
        yield name, command
    for word, child in (children or {}).items():
        if not child.hidden:
            yield from _leaves(child, f"{name} {word}")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


HTTP = """# HTTP

Made from the descriptions that the processes give of themselves: a server (of one model, NAME) at `/openapi.json`,
the pages at `/api/openapi.json`. For bodies of a server see [protocols](../protocols.md), for its keys and limits
[serving](../serving.md#keys), for who may see and do what on the pages [pages](../dashboard.md)."""

TABLE = "| | | takes | key | statuses |\n|---|---|---|---|---|"


def _http() -> str:
    """Every path of a server of one model and of the pages' API, as they describe themselves."""
    from feedback_loop import FeedbackLoop
    from feedback_loop.config import Settings
    from feedback_loop.dashboard.app import create_app
    from feedback_loop.schema import Column, ColumnType, Contract, Task
    from feedback_loop.serving.openapi import describe

    label, key = Column("LABEL", ColumnType.BOOLEAN), Column("KEY", ColumnType.LONG)
    contract = Contract("NAME", Task.BINARY, (Column("FEATURE", ColumnType.DOUBLE),), (key,), label, (label,))
    with tempfile.TemporaryDirectory() as home:  # where the pages make the secret of their sessions
        pages = create_app(FeedbackLoop(Settings(home=Path(home)))).openapi()
    server = describe([contract], "")
    api = {"paths": {path: methods for path, methods in pages["paths"].items() if path.startswith("/api")}}
    meanings = {status: words for described in (api, server) for _, status, words in _answers(described)}
    codes = [f"| {status} | {meanings[status]} |" for status in sorted(meanings) if status != "200"]
    parts = [
        "## A server",
        "\n".join([TABLE, *_paths(server)]),
        "## The pages' API",
        "\n".join([TABLE, *_paths(api)]),
    ]
    return "\n\n".join([HTTP, *parts, "## Statuses", "\n".join(["| | |", "|---|---|", *codes])])


def _answers(description: Any) -> Iterator[tuple[str, str, str]]:
    for path, methods in description["paths"].items():
        for operation in methods.values():
            for status, answer in operation["responses"].items():
                yield path, status, answer["description"]


def _paths(description: Any) -> Iterator[str]:
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            says = _cell(operation.get("description") or operation["summary"])
            bodies = ", ".join(f"`{kind}`" for kind in operation.get("requestBody", {}).get("content", {}))
            key = "yes" if operation.get("security") else ""
            yield f"| `{method.upper()} {path}` | {says} | {bodies} | {key} | {', '.join(operation['responses'])} |"


PYTHON = """# Python

Made from the docstrings when these pages are built: what `import feedback_loop` gives, and the parts of a
`FeedbackLoop`. Modules and names that do not stand here may change with any release.

## The loop's verbs

What is done every day, on the loop itself. Each is a method of one of the loop's parts, where its arguments stand.

| | | |
|---|---|---|
"""


def _python() -> str:
    """The public names and the loop's parts; mkdocstrings reads their signatures and docstrings."""
    import feedback_loop
    from feedback_loop.config import Settings

    parts = vars(feedback_loop.FeedbackLoop(Settings()))
    rooms = {name: type(part) for name, part in parts.items() if _is_part(type(part).__module__)}
    verbs = []
    for name, verb in parts.items():
        if inspect.ismethod(verb) and type(verb.__self__) in rooms.values():
            says = (inspect.getdoc(verb) or "").split("\n\n")[0]
            verbs.append(f"| `loop.{name}` | {_cell(says)} | `{type(verb.__self__).__name__}.{verb.__name__}` |")
    text = [PYTHON + "\n".join(verbs)]
    public = (name for name in feedback_loop.__all__ if not name.startswith("_"))
    text += [f"::: {getattr(feedback_loop, name).__module__}.{name}" for name in public]
    for name, room in rooms.items():
        text.append(f"## loop.{name}\n\n::: {room.__module__}.{room.__name__}\n    options:\n      heading_level: 3")
    return "\n\n".join(text)


def _is_part(module: str) -> bool:
    return module.startswith("feedback_loop.loop.") and not module.endswith(".context")
