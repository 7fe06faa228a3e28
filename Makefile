# Every target does its own set-up; the first one on a fresh machine makes .venv, the next ones re-use it.
PYTHON  ?= $(firstword $(foreach p,python3.11 python3.12 python3.13 python3,$(if $(shell command -v $(p)),$(p))))
VENV    := .venv
BIN     := $(VENV)/bin
EXTRAS  := dev,peers,cluster,vision,rl,site
READY   := $(VENV)/.ready-$(shell cat pyproject.toml constraints.txt constraints-no-deps.txt | cksum | cut -d' ' -f1)
WORKERS ?= auto
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: run test lint evidence race serve setup data clean

run: setup  ## Re-measure the claims of the first two papers
	@$(BIN)/paperworks run dpm-solver pndm

test: setup lint  ## Lint, types, layers, then every test
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

lint: setup
	@$(BIN)/ruff check src tests
	@$(BIN)/ruff format --check src tests
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

evidence: setup  ## Measure every paper that has claims, at desk scale, and write the results page
	@$(BIN)/paperworks run --all --resume; status=$$?; $(BIN)/paperworks report; exit $$status

race: setup  ## Race every method against its peers
	@$(BIN)/paperworks race --all

serve: setup  ## Show Daily Papers at http://127.0.0.1:8000
	@$(BIN)/paperworks serve

setup: $(READY) data

$(READY):
	@test -n "$(PYTHON)" || { echo "Paperworks needs Python 3.11 or newer; install it (Debian: apt install python3 python3-venv)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (once; a few minutes) ..."
	@$(BIN)/pip install --quiet --no-input -c constraints.txt -e '.[$(EXTRAS)]'
	@$(BIN)/pip install --quiet --no-input --no-deps -r constraints-no-deps.txt
	@rm -f $(VENV)/.ready-* && touch $@

data:
	@sh scripts/install-packages.sh

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
