# The whole life of the project in a few words.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# uv is faster, and finds the build of torch that fits the machine.
UV := $(shell command -v uv 2>/dev/null)
ifdef UV
INSTALL := $(UV) pip install --python $(BIN)/python --constraint constraints.txt
TORCH := $(INSTALL) --torch-backend auto torch || $(INSTALL) torch
else
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt
TORCH := $(INSTALL) torch
endif

.PHONY: install quickstart test check fix docs docs-check wheel-check bench chaos fuzz

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or later is needed\nhint: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	@echo 'installing torch, 200 MB for a CPU, some GB for a GPU (which pip on Linux takes in any case)'
	$(TORCH)
	@echo 'installing tinyohem and the libraries it builds on'
	$(INSTALL) --editable .
	touch $@

$(VENV)/.installed-plots: $(VENV)/.installed
	$(INSTALL) --editable '.[plots]'
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(INSTALL) --editable '.[dev,plots,ray]'
	touch $@

# the program alone, into $(VENV)
install: $(VENV)/.installed

quickstart: $(VENV)/.installed
	$(BIN)/tinyohem train --recipe quickstart --out runs/quickstart --resume auto
	$(BIN)/tinyohem generate runs/quickstart --prompt 'Once upon a time'

# On several cores; a thread of torch's for each, since the tests' tensors are small.
test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fix: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# docs/settings.md, from the fields of the config
docs: $(VENV)/.installed
	$(BIN)/python scripts/make_docs.py

# every command of README.md and docs/, on tiny budgets
docs-check: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'docs or not docs' tests/test_docs.py

# the wheel: its files, and a run from it in an environment of its own
wheel-check: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m 'slow or not slow' tests/test_wheel.py

# CHAOS_KILLS=60 times kill -9, as often SIGTERM or SIGINT, CHAOS_SEED=0; and malformed input
chaos: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m slow tests/chaos -s

# SECONDS=600 for each reader; what is found stays in the temporary folder
SECONDS ?= 60
fuzz: $(VENV)/.installed-dev
	$(INSTALL) 'atheris>=3.0'
	$(BIN)/python scripts/fuzz/readers.py $(SECONDS)

# STORIES=file scores those; default: TINYOHEM_STORIES, else the built-in sample
bench: $(VENV)/.installed-dev
	$(BIN)/tinyohem bench
	$(BIN)/python scripts/bench_difficulty.py $(STORIES)
