# Every target does its own set-up; the first one on a fresh machine makes .venv, the next ones re-use it.
PYTHON  ?= $(firstword $(foreach p,python3.11 python3.12 python3.13 python3,$(if $(shell command -v $(p)),$(p))))
BIN     := .venv/bin
WORKERS ?= auto
# make test PAPERS="dpm-solver pndm": only what tests these papers.
PAPERS  ?=

.PHONY: run test lint docs evidence race serve release matrix citation setup setup-test data lock clean

run: setup  ## Re-measure the claims of the first two papers, without more seeds for what is undecided
	@$(BIN)/paperworks run dpm-solver pndm --budget 40

test: setup-test lint  ## Lint, types, layers, then every test
	@$(BIN)/paperworks list > /dev/null  # takes the digests of all claims once, for every test that shows verdicts
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --durations 20 --papers "$(PAPERS)"

lint: setup-test
	@$(BIN)/ruff check src tests scripts docs
	@$(BIN)/ruff format --check src tests scripts docs
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

docs: setup-test  ## Run the tutorials and write the documentation's site to docs/_build/html
	@OMP_NUM_THREADS=1 $(BIN)/python -m sphinx -b html -W --keep-going -q docs docs/_build/html

evidence: setup-test data  ## Measure again, at desk scale, exactly what is outdated or missing; write the results pages
	@$(BIN)/paperworks renew --all

race: setup-test data  ## Race every method against its peers
	@$(BIN)/paperworks race --all

serve: setup-test  ## Show Daily Papers at http://127.0.0.1:8000
	@$(BIN)/paperworks serve

release: setup-test  ## Build and check the wheel, the source distribution and the bills of materials, into dist/
	@$(BIN)/python scripts/release.py
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/release

matrix: setup-test  ## Run the conformance suites with every Python and the oldest and newest libraries; hours
	@$(BIN)/python scripts/matrix.py $(JOBS)

citation: setup-test  ## Write CITATION.cff anew from the records
	@$(BIN)/python scripts/citation.py

setup:  ## The environment for `make run`: Paperworks and what it needs, no peers, no site
	@test -n "$(PYTHON)" || { echo "Paperworks needs Python 3.11 or newer; install it (Debian: apt install python3 python3-venv)"; exit 2; }
	@$(PYTHON) scripts/setup.py core

setup-test:  ## The environment for everything else
	@test -n "$(PYTHON)" || { echo "Paperworks needs Python 3.11 or newer; install it (Debian: apt install python3 python3-venv)"; exit 2; }
	@$(PYTHON) scripts/setup.py test
	@sh scripts/install-packages.sh dataset-fashion-mnist chromium postgresql

data:  ## Data sets that claims of some papers ask for
	@sh scripts/install-packages.sh dataset-fashion-mnist

lock: setup  ## Write the locks anew from pyproject.toml
	@$(BIN)/python scripts/lock.py

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache
