# Every target sets up what it needs: `make demo` works on a fresh machine.
.DEFAULT_GOAL := help
.PHONY: demo test faults bench bench-serving versions readme pictures docs release clean help

# Python 3.11 comes first, because the versions in constraints.txt are tested with it.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
  $$p -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
export PATH := $(CURDIR)/.venv/bin:$(PATH)

# Remove .venv if its Python no longer exists, or if it belongs to another copy of this repository.
ifneq ($(wildcard .venv),)
  ifneq ($(shell .venv/bin/python -I -c 'import mlkit; print(mlkit.__file__)' 2>/dev/null),$(CURDIR)/mlkit/__init__.py)
    $(shell rm -rf .venv)
  endif
endif

demo: .venv/.demo  ## train on real data as a SageMaker job does, load the model and predict
	@mlkit demo

test: .venv/.dev  ## run every test, in the notebooks and in tests/
	@python tests/run.py

faults: .venv/.dev  ## inject every fault, and print what survived and what was lost: an hour; ARGS='--fault-report FILE'
	@pytest -q -p no:cacheprovider -n 2 --dist worksteal -m fault --long --kills 200 $(ARGS) tests

bench: .venv-bench/.done  ## compare the training loop with other libraries, in a separate environment (6.5 GB); ARGS='--help'
	@.venv-bench/bin/python benchmarks/training.py $(ARGS)

bench-serving: .venv/.dev  ## compare the server with others, in a separate environment; needs wrk, root and Java; ARGS='--help'
	@python benchmarks/serving.py $(ARGS)

versions: .venv/.dev  ## test other versions of Python, torch and numpy, each in its own environment (8 GB); ARGS='--help'
	@python .ci/versions.py $(ARGS)

readme: .venv/.dev  ## write README.md from nbs/index.ipynb
	@python .ci/docs.py readme

pictures: .venv/.dev  ## make the pictures of nbs/images again, in JupyterLab and Chromium; look at them before you commit them
	@pytest -q -p no:cacheprovider tests/notebook/test_pictures.py --long --screenshots nbs/images

docs: .venv/.dev  ## build the site from the notebooks into _docs/site
	@python .ci/docs.py site

release: .venv-release/.done  ## build the wheel and the source archive into dist, and check them
	@rm -rf build dist
	@PIP_CONSTRAINT=$(CURDIR)/constraints.txt .venv-release/bin/python -m build
	@.venv-release/bin/twine check --strict dist/*

clean:  ## remove the environments and all generated files
	rm -rf .venv .venv-bench .venv-release .venv-versions .venv-conformance _docs _proc build dist *.egg-info .pytest_cache .import_linter_cache .hypothesis

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-14s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

.venv/.demo: settings.ini setup.py constraints.txt
	@[ -n "$(PYTHON)" ] || { echo "mlkit needs Python 3.11 or newer, with its venv module (on Debian: python3-venv)" >&2; exit 1; }
	@echo "Setting up .venv with $(PYTHON): a minute, once"
	@$(PYTHON) -m venv .venv
	@python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo]'
	@touch $@

.venv/.dev: .venv/.demo
	@echo "Installing what the tests need into .venv: two to three minutes, once"
	@python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

.venv-bench/.done: benchmarks/peers.txt setup.py
	@echo "Installing the peers into .venv-bench: some minutes, once"
	@$(PYTHON) -m venv .venv-bench
	@.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/peers.txt
	@.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

.venv-release/.done: constraints.txt
	@echo "Installing what a release needs into .venv-release, once"
	@$(PYTHON) -m venv .venv-release
	@.venv-release/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt build twine
	@touch $@
