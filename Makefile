# Every target sets up what it needs, so on a fresh machine `make demo` or `make test` is the whole instruction.
#
#   make demo [ARGS="--seed 1"]   teach the small base that ships about tables, offline, on a CPU
#   make test [ARGS="-k cache"]   the test suite, without the large matrices
#   make test-all                 the whole of it
#   make reliability              kills, full disks, signals: every promise whole, with its figure (up to 45 minutes)
#   make test-gpu                 what needs a CUDA device; skipped where there is none
#   make docs                     the pages as a site in site/, built and read without a network
#   make lint                     ruff, pyright, import-linter
#   make setup                    the environment alone
#   make clean                    remove it
#
# PYTHON names the interpreter to build the environment from, JOBS the test processes, EXTRAS the optional parts to install.

SHELL := bash
PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= dev
JOBS ?= 2
ARGS ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.set-up-$(EXTRAS)
# One thread for each test process: more of them fight for the same cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS) --dist loadgroup

.PHONY: demo test test-all reliability promises test-gpu docs lint setup clean
.DEFAULT_GOAL := setup

demo: $(STAMP)
	@$(BIN)/python -m unmask demo $(ARGS)

test: $(STAMP)
	@$(PYTEST) -m "not long" $(ARGS)

test-all: $(STAMP)
	@$(PYTEST) $(ARGS)

# In an environment of its own, which has DeepSpeed and bitsandbytes too: what else is tested should not see them.
PROMISED := $(addprefix tests/,$(addsuffix .py,$(addprefix training/test_,recipe safekeeping guard spikes shortage \
  trackers) data/test_bad_data data/test_build data/test_prepare))
OWN := $(MAKE) --no-print-directory VENV=$(VENV)/reliability
reliability:
	@export DS_BUILD_OPS=0 DS_ACCELERATOR=cpu; \
	if $(OWN) EXTRAS=dev,deepspeed,quant setup; then $(OWN) EXTRAS=dev,deepspeed,quant promises; \
	else echo 'without DeepSpeed and bitsandbytes: what needs them is skipped' >&2; $(OWN) promises; fi

promises: $(STAMP)
	@UNMASK_RELIABILITY=whole $(PYTEST) --timeout 3600 tests/reliability $(PROMISED) $(ARGS)

test-gpu: $(STAMP)
	@$(BIN)/python -m pytest -q -m gpu $(ARGS)

# In its own make: the environment's stamp is named by its extras when the Makefile is read.
docs:
	@$(MAKE) --no-print-directory EXTRAS=dev,docs setup
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

# All four speak, then the worst of them decides.
lint: $(STAMP)
	@status=0; \
	$(BIN)/ruff check . || status=1; \
	$(BIN)/ruff format --check . || status=1; \
	$(BIN)/pyright --pythonpath $(BIN)/python || status=1; \
	$(BIN)/lint-imports --no-logo || status=1; \
	exit $$status

setup: $(STAMP)
	@echo "$(VENV) is ready"

clean:
	rm -rf $(VENV)

# uv installs several times faster than pip but does not read pip's settings: the folders of wheels named there (where a
# CPU build of torch may lie) are handed on. Without such a folder torch comes from PyPI, with CUDA on Linux.
# Compiled, as pip does it too: where Python may not write bytecode, every start would compile torch and transformers anew.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo 'unmask needs Python 3.11 or newer; "$(PYTHON)" is' "$$($(PYTHON) --version 2>&1 | head -n 1)." \
	    'Name another one: make PYTHON=python3.12 $(MAKECMDGOALS)' >&2; exit 2; }
	@echo "setting up $(VENV) (first run only) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { \
	  echo 'No environment could be made; on Debian and Ubuntu: apt install python3-venv' >&2; rm -rf $(VENV); exit 2; }
	@$(BIN)/python -m pip install -qq uv 2>/dev/null || true
	@folders=""; \
	for folder in $${PIP_FIND_LINKS:-$$($(BIN)/python -m pip config get global.find-links 2>/dev/null)}; do \
	  case $$folder in *://*) ;; *) test -d "$$folder" || continue ;; esac; folders="$$folders,$$folder"; \
	done; \
	export UV_FIND_LINKS="$${UV_FIND_LINKS:-$${folders#,}}"; \
	{ test -x $(BIN)/uv && $(BIN)/uv pip install -q --compile-bytecode --python $(BIN)/python -c constraints.txt -e ".[$(EXTRAS)]"; } || { \
	  echo "installing with pip, which takes some minutes ..."; \
	  $(BIN)/python -m pip install -qq -c constraints.txt -e ".[$(EXTRAS)]"; }
	@touch $@
