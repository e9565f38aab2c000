"""Every kind of pipeline: its engine, and how far that is from scikit-learn at most; the table in the docs is its."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from benchmarks.lines import Line, command_line, show
from benchmarks.pipelines import Kind, fitted, kinds
from feedback_loop.inference import EngineOptions
from feedback_loop.inference.choosing import EngineChoice, make_engine
from feedback_loop.inference.engines import Engine
from feedback_loop.inference.onnx import OnnxEngine
from feedback_loop.inference.providers import open_session
from feedback_loop.inference.scorer import contract_of
from feedback_loop.inference.trying import make_native

TARGET = Path(__file__).parent.parent / "docs" / "inference.md"
BEGIN, END = "<!-- parity begins -->\n", "<!-- parity ends -->\n"
HEAD = (
    "| pipeline | engine | max \\|Δ\\| | 64 rows, scikit-learn | 64 rows, engine | why not ONNX |\n"
    "|---|---|---|---|---|---|\n"
)
REPEATS = 20


def main() -> None:
    """The command line."""
    parser = command_line(__doc__)
    parser.add_argument("--write", action="store_true", help="write the table into docs/inference.md")
    options = parser.parse_args()
    rows: list[str] = []
    show(_lines(rows), as_json=options.json)
    if options.write:
        text = TARGET.read_text()
        before, after = text.split(BEGIN)[0], text.split(END)[1]
        TARGET.write_text(f"{before}{BEGIN}{HEAD}{''.join(rows)}{END}{after}")


def _lines(rows: list[str]) -> Iterator[Line]:
    for kind in kinds():
        made, native_us, engine_us = _measured(kind)
        engine = "ONNX" if made.content is not None else "scikit-learn"
        furthest = made.proof.max_difference if made.proof is not None and made.proof.holds else None
        shown = "" if furthest is None else f"{furthest:.1e}"
        faster = "" if engine_us is None else f"{engine_us:,.0f} µs"
        reason = made.reason.replace("|", "\\|")[:160]
        rows.append(f"| {kind.name} | {engine} | {shown} | {native_us:,.0f} µs | {faster} | {reason} |\n")
        if furthest is not None and engine_us is not None:
            yield Line("parity", kind.name, "max_difference", furthest, "", engine)
            ratio = native_us / engine_us
            yield Line("parity", kind.name, "64_rows", engine_us, "us", engine, "scikit-learn", ratio)
        else:
            yield Line("parity", kind.name, "64_rows", native_us, "us", engine)


def _measured(kind: Kind) -> tuple[EngineChoice, float, float | None]:
    loaded, settings, known = fitted(kind)
    contract = contract_of(loaded, settings)
    made = make_engine(loaded, contract, settings.inference, known, EngineOptions())
    rows = known.slice(0, 64)
    native = _microseconds(make_native(loaded, contract), rows)
    if made.content is None or made.form is None:
        return made, native, None
    engine = OnnxEngine(open_session(made.content, EngineOptions()), contract, made.form)
    return made, native, _microseconds(engine, rows)


def _microseconds(engine: Engine, rows: pa.Table) -> float:
    """The best of some calls: what it costs when nobody else is at work."""
    best = float("inf")
    for _ in range(REPEATS):
        began = time.perf_counter()
        engine.score(rows)
        best = min(best, time.perf_counter() - began)
    return best * 1e6


if __name__ == "__main__":
    main()
