# Everything runs in .venv, which `make setup` makes from Python 3.11 or newer and requirements.lock.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help setup demo test compat lint docs schemas bench gpu endurance fuzz clean

help: ## Show this help
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: .venv/.installed ## Make .venv and install the package with everything it needs

.venv/.installed: pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "xceptlab needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version). Name another: make PYTHON=python3.12"; exit 2; }
	@echo "Installing into .venv: PyTorch and the rest, some minutes the first time"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable '.[dev]'
	@touch $@

demo: setup ## Run the residual study on embedded real images: 10 runs, at most 2 minutes on 2 cores
	@$(BIN)/xceptlab study experiments/residual

test: setup ## Run all tests
	@$(BIN)/python -m pytest -n auto --dist worksteal

compat: setup ## Test the main path with the oldest and the newest Lightning, timm and torch allowed (downloads torch)
	@$(BIN)/python tests/compat.py

lint: setup ## Check format, style, types and the layers of the design
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

docs: setup ## Build the manual into site/; a dead link is an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "The manual: site/index.html"

schemas: setup ## Write configs/*.schema.json, which editors check YAML files by, from the code
	@$(BIN)/python -m xceptlab.study.json_schema

bench: setup ## Measure the data pipelines against torchvision's; see also xceptlab bench --help
	@$(BIN)/xceptlab bench loader

gpu: setup ## Run what waits for a GPU, in order of value, and append what it measures to benchmarks/results/gpu_queue.md
	@$(BIN)/xceptlab bench gpu

SIZE ?= small
endurance: setup ## Kill, pre-empt and corrupt runs and count what holds (SIZE=small|full, ONLY=word)
	@$(BIN)/python benchmarks/endurance --size $(SIZE) --only "$(ONLY)"

fuzz: setup ## Try 2,000 damaged configuration files, studies, tables and trees: no traceback, no hang
	@$(BIN)/python tests/fuzz.py

clean: ## Remove .venv and caches; outputs/ stays
	rm -rf site .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache src/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
