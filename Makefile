# Everything starts from a machine that has only Python >= 3.11, git and make.
# `make help` lists the targets.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
UV := VIRTUAL_ENV="$(CURDIR)/$(VENV)" $(BIN)/uv
export DAGSTER_HOME ?= $(CURDIR)/dagster_home
# Where the UI listens.
PORT ?= 3000
# Caches of uv, matplotlib and numba, and Great Expectations' own folder, lie in the home folder, which in a container
# may be closed: then they lie here.
ifneq ($(shell test -d "$$HOME" -a -w "$$HOME" && echo yes),yes)
export HOME := $(CURDIR)/data/home
export UV_CACHE_DIR := $(CURDIR)/data/home/uv
$(shell mkdir -p "$(CURDIR)/data/home")
endif
# Two processes: the size of the smallest machine that this has to run on.
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help setup setup-postgres setup-ray setup-k8s system demo dev test lint format soak scale fuzz explore coverage bench lock dictionary clean

help:  ## List the targets
	@grep -hE '^[a-z0-9-]+:.*##' Makefile | awk -F':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

setup: $(READY)  ## Create the environment from the lock files

$(READY): requirements.lock requirements-bootstrap.lock pyproject.toml
	@"$(PYTHON)" -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v[:2] < (3, 14) else f"Python 3.11 to 3.13 is needed, {sys.executable} is {v[0]}.{v[1]}. Say make PYTHON=/path/to/python3.x")'
	@test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV) 2>/dev/null || { rm -rf $(VENV); \
	  echo "The venv module is not complete here: installing Debian's python3-venv"; \
	  if [ "$$(id -u)" = 0 ]; then apt-get update -q && apt-get install -y -q python3-venv; else sudo apt-get update -q && sudo apt-get install -y -q python3-venv; fi; \
	  "$(PYTHON)" -m venv $(VENV); }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-bootstrap.lock
	$(UV) pip sync --quiet --require-hashes requirements.lock requirements-bootstrap.lock
	$(UV) pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# Each adds to the environment what docs/orchestration.md needs; `make setup` after a change of the locks takes it away
# again.  All in one environment: make setup-postgres setup-ray setup-k8s.
setup-postgres setup-ray setup-k8s: setup-%: requirements-%.lock $(READY)
	$(UV) pip install --quiet --require-hashes -r requirements-$*.lock

setup-postgres:  ## Add Dagster's storage on PostgreSQL
setup-ray:  ## Add Ray: runs and tasks on many hosts
setup-k8s:  ## Add Kubernetes: one pod a run

# Debian's PostgreSQL makes and starts a server on installation; the tests only want the programs.
system:  ## Install Debian's Chromium and PostgreSQL for the tests (needs root or sudo)
	@if [ "$$(id -u)" = 0 ]; then S=; else S=sudo; fi; set -e; \
	chromium=$$(command -v chromium || true); server=$$(ls /usr/lib/postgresql/*/bin/postgres 2>/dev/null || true); \
	test -n "$$chromium" -a -n "$$server" || $$S apt-get update -q; \
	test -n "$$chromium" || $$S apt-get install -y -q --no-install-recommends chromium fonts-dejavu-core; \
	test -n "$$server" || { conf=/etc/postgresql-common/createcluster.conf; \
	  $$S apt-get install -y -q --no-install-recommends postgresql-common; \
	  $$S cp -p $$conf $$conf.hfthot; echo 'create_main_cluster = false' | $$S tee -a $$conf >/dev/null; \
	  $$S apt-get install -y -q --no-install-recommends postgresql || failed=1; \
	  $$S mv $$conf.hfthot $$conf; test -z "$$failed"; }

demo: $(READY)  ## Ingest real data, check it, make bars, answer SQL: embedded and offline
	@$(BIN)/hfthot demo

dev: $(READY)  ## Open the Dagster UI on http://127.0.0.1:3000 (PORT=3001 for another port)
	@$(BIN)/hfthot init >/dev/null
	@PYTHONWARNINGS='ignore:Function `dev_command`' $(BIN)/dagster dev --workspace workspace.yaml --host 127.0.0.1 --port "$(PORT)"

test: $(READY)  ## Run the fast tests
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

soak: $(READY)  ## Run the long crash, fuzz and load suites, those on PostgreSQL, and the UI in a browser
	@$(BIN)/python -m pytest -m soak -n $(WORKERS) --dist loadfile

# Debian's iproute2, PostgreSQL and root are needed; what is missing is said.  About an hour: SCALE="-k same" for a part.
scale: $(READY) setup-postgres setup-ray  ## Run the tests on two hosts (network namespaces: needs root, and make system)
	@$(BIN)/python -m tests.scale tests/scale $(SCALE)

explore: $(READY)  ## Run the property tests on new examples
	@HFTHOT_EXPLORE=1 $(BIN)/python -m pytest -m "not browser" -n $(WORKERS) --dist loadfile

coverage: $(READY)  ## Run the fast tests and fail if less of the code is covered than pyproject.toml says
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --cov --cov-report=term:skip-covered

fuzz: $(READY)  ## Send generated statements to the SQL gateway for ten minutes
	@HFTHOT_FUZZ_SECONDS=600 $(BIN)/python -m pytest -s -m soak tests/soak/test_gateway_fuzz.py

lint: $(READY)  ## Check style, spelling, types and the import rule
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/codespell
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(READY)  ## Format the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(READY)  ## Print every benchmark beside its peer or limit, and the kept ratios against their baseline
	@for each in benchmarks/bench_*.py; do echo; echo "== $$each"; $(BIN)/python $$each || exit 1; done
	@$(BIN)/python benchmarks/ratios.py

dictionary: $(READY)  ## Write the generated pages of docs/: tables, settings, errors
	@set -e; for page in dictionary:data_dictionary settings_page:settings errors_page:errors; do \
	  new=docs/$${page#*:}.md.new; \
	  $(BIN)/python -m hfthot_platform.interfaces.cli.$${page%:*} > $$new || { rm -f $$new; exit 1; }; \
	  mv $$new docs/$${page#*:}.md; done

lock: $(READY)  ## Pin the newest versions that pyproject.toml allows
	$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header --extra dev --upgrade pyproject.toml -o requirements.lock
	@set -e; for extra in postgres ray k8s; do \
	  $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header --extra $$extra --upgrade --constraint requirements.lock pyproject.toml -o requirements-$$extra.lock; done

clean:  ## Remove the environment and everything that the platform wrote
	rm -rf $(VENV) data
	find dagster_home -mindepth 1 ! -name dagster.yaml -delete
