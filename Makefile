# The environment is .venv, made from requirements.lock with pip. Every target that needs it makes it.

PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
TORCH ?= torch==2.13.0
PIP := .venv/bin/python -m pip --disable-pip-version-check
IN := .venv/bin/python -m

.PHONY: help demo rows test slow exports check lint types imports lock clean

help: ## show this
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 16

demo: .venv/.stamp ## ask the shipped model about the recordings that ship with it
	@.venv/bin/echo-audio demo

rows: .venv/.stamp ## make twenty rows with the data engine and the test endpoint, and check them
	@rm -rf runs/smoke-eaqa
	@.venv/bin/echo-audio data eaqa configs/smoke-eaqa.toml
	@.venv/bin/echo-audio data validate runs/smoke-eaqa/stores/sft

test: .venv/.stamp ## run the tests
	@$(IN) pytest -q -n 2

slow: .venv/.stamp ## run the tests that take long: whole training runs, two processes
	@$(IN) pytest -q -m slow

exports: .venv-swift/.stamp .venv-verl/.stamp ## train with ms-swift and load with verl on exported rows, each in its own environment
	@$(IN) pytest -q -m slow tests/exports

.venv-swift/.stamp: NEEDS = "ms-swift>=4.6,<4.7" "qwen_omni_utils<0.0.9" decord librosa soundfile torchvision
.venv-verl/.stamp: NEEDS = "verl==0.9.1" librosa soundfile torchvision

.venv-%/.stamp: .venv/.stamp
	@echo "Making .venv-$* ..."
	@.venv/bin/python -m venv --clear .venv-$*
	@.venv-$*/bin/python -m pip --disable-pip-version-check install --quiet "$(TORCH)" $(NEEDS)
	@touch $@

check: lint types imports slow test ## all that CI checks, tests included

lint: .venv/.stamp ## style: ruff
	@$(IN) ruff check .

types: .venv/.stamp ## types: pyright
	@.venv/bin/basedpyright

imports: .venv/.stamp ## who may import whom: import-linter
	@.venv/bin/lint-imports --no-cache

# Made again when the lock or the project changed; half a one never counts, for the stamp comes last.
.venv/.stamp: requirements.lock pyproject.toml
	@$(or $(PYTHON),false) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "Echo needs Python 3.11 or newer. Install one and run make again, or name it: make PYTHON=/path/to/python3.12" >&2; \
		exit 1; }
	@.venv/bin/python -c '' 2>/dev/null || { echo "Making .venv with $(PYTHON) ..."; $(PYTHON) -m venv --clear .venv; }
	@echo "Installing requirements.lock into .venv (a few minutes the first time) ..."
	@$(PIP) install --quiet --requirement requirements.lock
	@$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# From a clean environment: what pip chooses for pyproject.toml today, with the torch we measure with. Left out are torch's local version (+cpu) and
# the CUDA packages it pins itself, so that the lock serves machines with and without a GPU.
lock: ## choose all versions anew
	rm -rf .lock-venv
	$(PYTHON) -m venv .lock-venv
	.lock-venv/bin/python -m pip --disable-pip-version-check install --quiet --editable '.[dev,m4a,serve]' $(TORCH)
	{ echo "# Made by 'make lock' from pyproject.toml with the extras dev, m4a and serve; do not edit."; \
	  .lock-venv/bin/python -m pip --disable-pip-version-check freeze --exclude-editable \
	  | sed 's/+cpu$$//' | grep -vE '^(nvidia|cuda|triton)'; } > requirements.lock
	rm -rf .lock-venv

clean: ## remove .venv and what tools leave behind
	rm -rf .venv .venv-swift .venv-verl .lock-venv build dist .pytest_cache .ruff_cache .hypothesis
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
