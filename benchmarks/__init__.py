"""One module per claim: `python -m benchmarks.<name> [--json] [--quick]`; `benchmarks.all` writes docs/figures.md."""
