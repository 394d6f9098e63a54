# make demo and make test need Python >= 3.11, make and git, nothing else: they make .venv themselves.
#
#   make demo                  a primary with two replicas loses its primary before your eyes; nothing is left
#   make test                  the whole suite; live tests take turns with the server versions
#   make live                  the live tests on every server version found
#   make campaign SEEDS=30000  as many stories of the simulator; FROM=N begins at that seed
#   make lint                  format, lint, types
#   make bench                 measure, and write the tables of docs/benchmarks.md
#   make docs                  regenerate what is generated in docs/ and README.md
#   make clean                 remove .venv and what tools keep in this directory
#
# PYTHON=python3.12 chooses the interpreter that makes .venv; ARGS="-k lag" goes to pytest or the demo;
# WORKERS=0 runs tests one after the other.

PYTHON ?= python3
WORKERS ?= 3
ARGS ?=
SEEDS ?= 10000
FROM ?=

PY := .venv/bin/python
PYTEST := $(PY) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help demo test live campaign lint bench docs clean venv-lab venv-test

help:
	@sed -n '/^#   make/s/^#  //p' Makefile

# Not files: whether .venv is up to date is for make_venv.py to say, which takes 30 ms when it is.
venv-lab venv-test: venv-%:
	@command -v $(PYTHON) >/dev/null || { echo "there is no $(PYTHON); replctl needs Python 3.11 or newer" >&2; exit 1; }
	@$(PYTHON) tools/make_venv.py $*

demo: venv-lab
	@$(PY) -m replctl demo $(ARGS)

test: venv-test
	$(PYTEST) $(ARGS)

live: venv-test
	REPLCTL_TEST_MATRIX=all $(PYTEST) tests/live $(ARGS)

campaign: venv-test
	$(PY) -m tests.sim --seeds $(SEEDS) $(if $(FROM),--from $(FROM)) --workers $(WORKERS)

lint: venv-test
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy

bench: venv-test
	$(PY) -m benchmarks.startup
	$(PY) -m benchmarks.observe
	$(PY) -m benchmarks.lab
	$(PY) -m benchmarks.failover
	$(PY) -m benchmarks.lag_cases
	$(PY) -m benchmarks.routing
	$(PY) -m benchmarks.sqlalchemy_overhead
	$(PY) -m benchmarks.adapters_psycopg
	$(PY) -m benchmarks.render
	$(PY) -m benchmarks.proxies
	$(PY) -m benchmarks.metrics
	$(PY) -m benchmarks.serve
	@echo "docs/benchmarks.md holds the tables"

docs: venv-test
	$(PY) -m tools.docs

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis
