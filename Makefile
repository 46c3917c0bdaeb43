# Each target makes .venv itself where it is missing or older than pyproject.toml and constraints.txt.

PYTHON ?= python3
VENV := .venv
LATEST := .venv-latest
PEERS := .venv-peers
RUN := $(VENV)/bin/python
EXTRAS := dev,examples,graph
# Files of tests go to this many processes; a full run takes one, which computes with all cores.
WORKERS ?= 2
IN_PARALLEL := -n $(WORKERS) --dist loadfile

export HF_HUB_OFFLINE := 1

.DEFAULT_GOAL := help
.PHONY: help demo test test-full test-latest bench bench-accelerator bench-peers peers trees lint format clean .venv

help: ## this list
	@awk -F ':.*## ' '/^[.a-z-]+:.*## / { printf "make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: .venv ## rules on real pretrained weights: plan, apply, train on, check, bake, save
	@$(RUN) examples/pretrained_minilm.py

test: lint ## lint, types, and every test at its small size
	@COMPUTED_SURGERY_SIZE=small $(RUN) -m pytest $(IN_PARALLEL) $(PYTEST_ARGS)

test-full: lint ## every test at its full size; writes docs/evidence.md
	@COMPUTED_SURGERY_SIZE=full $(RUN) -m pytest $(PYTEST_ARGS)

test-latest: $(LATEST)/made ## every test on the newest torch, in an environment of its own
	@COMPUTED_SURGERY_SIZE=small $(LATEST)/bin/python -m pytest $(IN_PARALLEL) $(PYTEST_ARGS)

bench: $(PEERS)/made ## what a computed parameter costs, in figures; writes docs/benchmarks.md
	@$(PEERS)/bin/python -m benchmarks

bench-accelerator: $(PEERS)/made ## launches and times on an accelerator, eager and compiled
	@$(PEERS)/bin/python -m benchmarks.accelerator

bench-peers: $(PEERS)/made ## constraints beside those of other libraries, in figures; writes docs/benchmarks-peers.md
	@$(PEERS)/bin/python -m benchmarks peers

peers: $(PEERS)/made ## what other libraries do with the same tasks; writes docs/peers.md
	@$(PEERS)/bin/python -m benchmarks.peers

trees: .venv ## sources of timm, on which `make test-full` tries the source route as on those of transformers
	@$(RUN) -m pip download -qq --disable-pip-version-check --no-deps --no-binary :all: -d .trees timm==1.0.31
	@tar -xzf .trees/timm-1.0.31.tar.gz -C .trees

lint: .venv ## ruff and mypy
	@$(RUN) -m ruff check
	@$(RUN) -m ruff format --check
	@$(RUN) -m mypy

format: .venv ## let ruff repair and format
	@$(RUN) -m ruff check --fix
	@$(RUN) -m ruff format

clean: ## remove all that make has made, the environments included
	@rm -rf $(VENV) $(LATEST) $(PEERS) .trees build dist outputs *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find computed surgery rewrite tests examples benchmarks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

.venv: $(VENV)/made ## the environment alone

$(VENV)/made: pyproject.toml constraints.txt
	@$(call make-environment,$(VENV),-c constraints.txt)
	@touch $@

$(LATEST)/made: pyproject.toml constraints.txt constraints-latest.txt
	@echo "torch comes with its CUDA libraries (several GB) where pip finds no build for CPU alone"
	@mkdir -p $(LATEST)
	@grep -v '^torch==' constraints.txt > $(LATEST)/constraints.txt
	@$(call make-environment,$(LATEST),-c $(LATEST)/constraints.txt -c constraints-latest.txt)
	@touch $@

$(PEERS)/made: pyproject.toml constraints.txt constraints-peers.txt
	@$(call make-environment,$(PEERS),-c constraints.txt -c constraints-peers.txt geotorch peft torchao tensorly-torch)
	@touch $@

define make-environment
$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	{ echo "$(PYTHON) is no Python >= 3.11: name one, make PYTHON=python3.11 ..." >&2; exit 1; }; \
	echo "making $(1): about a minute" && \
	$(PYTHON) -m venv $(1) && \
	$(1)/bin/python -m pip install -qq --disable-pip-version-check $(2) -e '.[$(EXTRAS)]'
endef
