# make demo   compress a real BERT          make test   run the tests
# Both create .venv and install into it first. `make` alone lists all targets.

PYTHON ?= python3
# Passed on: make demo ARGS="--epochs 1", make test ARGS="-x -k layer", make lock ARGS=--upgrade
ARGS ?=
# One pytest process each, as a process can hold only one Keras; the longest first.
FLAVOURS := torch tf_keras jax tensorflow
BACKENDS ?= $(FLAVOURS)
# How many of them run at a time: one more than two cores, since a flavour waits for files and for
# processes of its own now and then.
JOBS ?= 3

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
UV_VERSION := 0.13.9
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.10 \
	--custom-compile-command "make lock"

export TF_CPP_MIN_LOG_LEVEL ?= 3
# Not with every build of the documentation.
export NO_MKDOCS_2_WARNING ?= 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-slow test-js $(FLAVOURS:%=test-%) lint format lock clean
.PHONY: install install-dev install-js

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

# A stamp is touched last, so an interrupted install leaves none and is done again. A stamp
# depends on the requirements it stands for, so that a changed file is installed again.
$(VENV)/.stamp-venv:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 10) <= v <= (3, 13) or sys.exit( \
	  "error: Python 3.10 to 3.13 is needed, and %s is %d.%d; try: make PYTHON=python3.11 ..." \
	  % ((sys.executable,) + v))'
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.stamp-install: $(VENV)/.stamp-venv requirements.txt requirements-bert4keras.txt \
		requirements-demo.txt setup.py
	$(PIP) install -r requirements.txt
	$(PIP) install --no-deps -r requirements-bert4keras.txt -r requirements-demo.txt
	$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.stamp-dev: $(VENV)/.stamp-install requirements-dev.txt requirements-torch.txt \
		requirements-seqeval.txt
	$(PIP) install -r requirements-dev.txt -r requirements-torch.txt
	$(PIP) install --no-deps --no-build-isolation -r requirements-seqeval.txt
	@touch $@

install: $(VENV)/.stamp-install ## create .venv with all that the demo needs

install-dev: $(VENV)/.stamp-dev ## the same with all that the tests need

demo: $(VENV)/.stamp-install ## compress a real BERT on real text (minutes on 2 CPU cores)
	$(BIN)/python scripts/iflytek.py $(ARGS)

# Which folders a flavour runs; tests/once is the same code on each, and fast on PyTorch alone: of its
# slow tests, and of those of tests/keras_hub, another flavour runs a share, see tests/conftest.py.
FOLDERS_tf_keras := tests/core tests/once tests/bert4keras
FOLDERS_tensorflow := tests/core tests/once tests/keras_hub
FOLDERS_jax := $(FOLDERS_tensorflow)
FOLDERS_torch := $(FOLDERS_tensorflow) tests/plain
ENV_tf_keras := TF_KERAS=1 TF_USE_LEGACY_KERAS=1 KERAS_BACKEND=tensorflow
ENV_keras_3 := -u TF_KERAS -u TF_USE_LEGACY_KERAS KERAS_BACKEND

test: ## run the tests under each Keras, all but the slow ones (ten minutes on 2 cores)
	@$(MAKE) $(TEST_ALL) MARK="not slow"

test-slow: ## run the slow ones: real trainings, killed processes, full counts of damaged files
	@$(MAKE) $(TEST_ALL) MARK=slow

# All flavours run, whatever the first ones say; what one prints comes as a whole at its end.
TEST_ALL = --no-print-directory --keep-going --jobs=$(JOBS) $(SYNC) $(BACKENDS:%=test-%)
# Make 3.81, which macOS has, cannot.
SYNC := $(if $(filter output-sync,$(.FEATURES)),--output-sync=target)
MARK ?= not slow

# A flavour runs in one process and mostly one thread, so the flavours share the cores; more
# threads would only wait for each other, PyTorch's by spinning.
$(FLAVOURS:%=test-%): export OMP_NUM_THREADS := 1
$(FLAVOURS:%=test-%): export TF_NUM_INTRAOP_THREADS := 1
$(FLAVOURS:%=test-%): export TF_NUM_INTEROP_THREADS := 1
$(FLAVOURS:%=test-%): test-%: $(VENV)/.stamp-dev
	@echo "== $*: pytest -m '$(MARK)' $(FOLDERS_$*)"
	@env $(or $(ENV_$*),$(ENV_keras_3)=$*) \
	  $(BIN)/python -m pytest -m "$(MARK)" $(FOLDERS_$*) $(ARGS)

# Its packages run no scripts of their own. Node and Chromium are the machine's.
tests/js/node_modules/.stamp: tests/js/package-lock.json
	npm ci --prefix tests/js --ignore-scripts --no-audit --no-fund
	@touch $@

install-js: tests/js/node_modules/.stamp ## install transformers.js, for the tests that run it

test-js: $(VENV)/.stamp-dev install-js ## run exported models in transformers.js, in Node and Chromium
	@env $(ENV_keras_3)=torch $(BIN)/python -m pytest -m slow \
	  tests/keras_hub/test_transformers_js.py $(ARGS)

# The tools need no Keras, so they get by with a bare environment.
$(VENV)/.stamp-tools: $(VENV)/.stamp-venv requirements-tools.txt
	$(PIP) install --quiet -r requirements-tools.txt
	@touch $@

lint: $(VENV)/.stamp-tools ## check style, format, the types of the public names, and the docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python
	$(BIN)/mkdocs build --strict --quiet

format: $(VENV)/.stamp-tools ## fix style and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: docs release
docs: $(VENV)/.stamp-tools ## build the documentation into site/
	$(BIN)/mkdocs build --strict

RELEASE_PYTHONS ?= python3.10 python3.13

# Uses every public name, so that Keras and what it needs are imported.
define TRY
import bert_of_theseus as package
for name in package.__all__:
    getattr(package, name)
print("bert_of_theseus", package.__version__, "from", package.__file__)
endef

# Publishes nothing. Pythons that are not installed are named and left out.
release: export TRY := $(TRY)
release: $(VENV)/.stamp-tools ## build sdist and wheel into dist/, and try the wheel
	rm -rf dist build
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*
	@for python in $(RELEASE_PYTHONS); do \
	  if ! $$python -c "" 2>/dev/null; then \
	    echo "== $$python is not installed: the wheel is not tried with it"; continue; \
	  fi; \
	  echo "== $$python: the wheel in an empty environment"; \
	  $$python -m venv --clear build/try && build/try/bin/pip install --quiet dist/*.whl && \
	    (cd build && try/bin/python -I -c "$$TRY" && try/bin/bert-of-theseus --help >/dev/null) \
	    || exit 1; \
	done

# Keeps the pins that still fit; `make lock ARGS=--upgrade` takes the newest.
lock: $(VENV)/.stamp-venv ## write requirements*.txt from their .in files
	$(PIP) install --quiet uv==$(UV_VERSION)
	UV_PYTHON_DOWNLOADS=never $(COMPILE) $(ARGS) requirements.in --output-file requirements.txt
	UV_PYTHON_DOWNLOADS=never $(COMPILE) $(ARGS) requirements-dev.in \
	  --output-file requirements-dev.txt
	UV_PYTHON_DOWNLOADS=never $(COMPILE) $(ARGS) requirements-tools.in \
	  --output-file requirements-tools.txt

clean: ## remove .venv, builds and caches; runs/ stays
	rm -rf $(VENV) build dist site tests/js/node_modules *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
