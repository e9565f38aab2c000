# Every command sets itself up from uv.lock; the second time it needs no network.
PYTHON ?= python3
UV_VERSION := 0.13.9
UV := .tools/bin/uv
BIN := .venv/bin
DIST := dist
export UV_PYTHON_DOWNLOADS := never

.PHONY: setup demo demo-year test statistics browser check size audit sbom release bench format clean

setup: .venv/.ready

# uv alone is fetched by pip, into a folder of its own (--target works where a system's Python is locked).
$(UV):
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --target .tools uv==$(UV_VERSION)

# Modules are compiled once for all, by all cores, not by the first process that imports them (or, where Python keeps none, by each).
.venv/.ready: pyproject.toml uv.lock | $(UV)
	UV_COMPILE_BYTECODE=1 $(UV) sync --quiet --frozen --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" --extra postgres --extra onnx --extra tracing --extra demo
	@touch $@

# Two months of flights; the whole year, whose figures the README tells, takes some six times as long.
demo: setup
	$(BIN)/feedback-loop demo

demo-year: setup
	$(BIN)/feedback-loop demo --months 11

test: setup
	$(BIN)/pytest

# What is slow by nature: simulations over many seeds, hundreds of kills, long random walks. About half an hour.
statistics: setup
	$(BIN)/pytest -m statistics --timeout 1800 --hypothesis-profile others
	$(BIN)/pytest --timeout 1800 --hypothesis-profile others tests/property

# Reports and pages in a real browser: needs chromium (apt-get install chromium).
browser: setup
	$(BIN)/pytest -n 0 tests/browser

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/vulture
	$(BIN)/deptry .
	$(BIN)/python -m benchmarks.size

# Lines of each room; fails above the numbers in pyproject.toml.
size: setup
	$(BIN)/python -m benchmarks.size

# Known advisories of every locked package, as PyPI tells them. Fails where one has some, and where one can't be asked about.
audit: | $(UV)
	@mkdir -p build
	$(UV) export --quiet --frozen --all-extras --all-groups --no-emit-project --format requirements.txt --output-file build/locked.txt
	$(UV) tool run pip-audit==2.10.1 --strict --disable-pip --require-hashes --vulnerability-service pypi --progress-spinner off --requirement build/locked.txt

# What a release is made of (CycloneDX): every package that any of its extras locks, with the digests of its files.
sbom: | $(UV)
	@mkdir -p $(DIST)
	$(UV) export --quiet --frozen --no-dev --all-extras --format cyclonedx1.5 --output-file $(DIST)/feedback-loop.cdx.json

# Wheel, source, what they are made of, and the digests of all three.
release: setup
	rm -rf $(DIST)
	$(BIN)/python -m build --no-isolation --outdir $(DIST)
	$(MAKE) sbom
	cd $(DIST) && sha256sum * > SHA256SUMS

bench: setup
	$(BIN)/python -m benchmarks.all

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv .tools demo dist build
