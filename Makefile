# The words that people and CI use. Each sets up what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OLDEST := .venv-oldest
# A test worker for each core.
PARALLEL := -n auto --dist worksteal
# The oldest matplotlib and starlette warn of what the newest pyparsing and anyio call otherwise.
OLD_MODULES := matplotlib._fontconfig_pattern matplotlib._mathtext starlette.testclient
OLD_WARNINGS := $(foreach module,$(OLD_MODULES),-W ignore::DeprecationWarning:$(module))

.PHONY: setup demo test fast soak oldest check fmt lint type bench build clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: setup
	rm -rf runs/demo
	$(BIN)/uniemox demo --out runs/demo

test: setup
	$(BIN)/python -m pytest $(PARALLEL) -m 'not soak' --cov --cov-report=term --cov-fail-under=90

fast: setup
	$(BIN)/python -m pytest $(PARALLEL) -m 'not slow and not soak'

# The fast tests with the oldest dependencies that pyproject.toml allows; not part of CI.
oldest: $(OLDEST)/.ready
	$(OLDEST)/bin/python -m pytest $(PARALLEL) -m 'not slow and not soak' $(OLD_WARNINGS)

$(OLDEST)/.ready: pyproject.toml constraints-oldest.txt
	@test -x $(OLDEST)/bin/python || $(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints-oldest.txt --editable '.[dev]'
	@touch $@

soak: setup
	$(BIN)/python -m pytest -m soak

check: lint type test

fmt: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

type: setup
	$(BIN)/mypy

bench: setup
	$(BIN)/python benchmarks/ladder.py --folder runs/ladder
	$(BIN)/python benchmarks/people.py
	$(BIN)/python benchmarks/data.py
	$(BIN)/python benchmarks/loading.py
	$(BIN)/python benchmarks/steps.py
	$(BIN)/python benchmarks/fast_cost.py --folder runs/fast_cost
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/shards.py
	$(BIN)/python benchmarks/export.py
	$(BIN)/python benchmarks/prediction.py
	$(BIN)/python benchmarks/domain.py
	$(BIN)/python benchmarks/explain.py
	$(BIN)/python benchmarks/serve.py
	$(BIN)/python benchmarks/search.py
	$(BIN)/python benchmarks/collection.py

build: setup
	$(BIN)/python -m build

clean:
	rm -rf $(VENV) $(OLDEST) dist build runs .coverage .mypy_cache .pytest_cache .ruff_cache
