"""Lines of each room: code, docstrings, blank. Fails where one has more than `[tool.size]` of pyproject.toml allows.

Run by `make size`. A room is a folder of `feedback_loop` or of `tests`; "." is the files beside the folders. A number
in pyproject.toml is lowered in the commit that makes its room smaller, and raised only with a reason in its message.
"""

from __future__ import annotations

import ast
import sys
import tomllib
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

ROOTS = ("feedback_loop", "tests")


class Size(NamedTuple):
    """Numbers of lines; `code` has comments and imports in it."""

    code: int = 0
    docstrings: int = 0
    blank: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self)

    def plus(self, other: Size) -> Size:
        """Both together."""
        return Size(*(mine + others for mine, others in zip(self, other, strict=True)))


def size_of(source: str) -> Size:
    """Of one file's text."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            docstrings.update(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    lines = source.splitlines()
    blank = sum(not line.strip() for number, line in enumerate(lines, 1) if number not in docstrings)
    return Size(len(lines) - len(docstrings) - blank, len(docstrings), blank)


def rooms(root: Path) -> dict[str, Size]:
    """Of each folder of a root."""
    sizes: dict[str, Size] = defaultdict(Size)
    for path in root.rglob("*.py"):
        folder = path.relative_to(root).parts[0] if path.parent != root else "."
        sizes[folder] = sizes[folder].plus(size_of(path.read_text(encoding="utf-8")))
    return dict(sizes)


def main() -> int:
    """Prints the table; 1 where a room is above its limit or has none."""
    limits = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["tool"]["size"]
    above = 0
    for root in ROOTS:
        sizes = rooms(Path(root))
        print(f"{root:<16}{'code':>8}{'docstrings':>12}{'blank':>8}{'total':>8}{'limit':>8}")
        for room, size in sorted(sizes.items(), key=lambda item: -item[1].total):
            limit = limits[root].get(room, 0)
            above += size.total > limit
            mark = "  above its limit" if size.total > limit else ""
            print(f"  {room:<14}{size.code:>8}{size.docstrings:>12}{size.blank:>8}{size.total:>8}{limit:>8}{mark}")
        whole = Size()
        for size in sizes.values():
            whole = whole.plus(size)
        print(f"  {'all':<14}{whole.code:>8}{whole.docstrings:>12}{whole.blank:>8}{whole.total:>8}\n")
    return int(above > 0)


if __name__ == "__main__":
    sys.exit(main())
