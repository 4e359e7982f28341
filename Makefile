# The commands of the project. People and CI call the same ones; `make help` lists them.
#
# PYTHON is the interpreter to build for. What is installed for it (the test tools, never hayase itself) lives in
# .envs/<version>, made on demand, so that several interpreters can be worked on side by side.

PYTHON  ?= python3
PROFILE ?= dev
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
ENV     := .envs/$(VERSION)
PY      := $(ENV)/bin/python
RUN     := PYTHONPATH=python $(PY)
# Several processes share the tests, except when a part is asked for: starting them takes seconds.
PARALLEL := -n auto --maxprocesses 4 --dist worksteal

# Without it, building outside maturin would link the extension to libpython, which many interpreters do not have.
export PYO3_BUILD_EXTENSION_MODULE = 1

.DEFAULT_GOAL := help
.PHONY: help develop build test test-rust miri loom test-python cpython cpython-full test-libraries test-all bench bench-smoke lint fmt docs clean interpreter

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  variables:      PYTHON=python3.x (default: python3)  PROFILE=dev|release|bench-fast  k=… (pytest -k)"

interpreter:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "hayase needs CPython 3.11 or newer; say which: make PYTHON=/path/to/python3.13 …" >&2; exit 1; }

develop: interpreter ## build the extension into python/hayase, quickly (use with PYTHONPATH=python)
	PYO3_PYTHON="$$($(PYTHON) -c 'import sys; print(sys.executable)')" cargo build --locked --package hayase --profile $(PROFILE)
	@suffix=$$($(PYTHON) -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))'); \
	 folder=$$(test $(PROFILE) = dev && echo debug || echo $(PROFILE)); \
	 target=$${CARGO_TARGET_DIR:-target}/$$folder/lib_core.so; \
	 cp "$$target" "python/hayase/.new$$suffix" && mv "python/hayase/.new$$suffix" "python/hayase/_core$$suffix" && \
	 echo "python/hayase/_core$$suffix"

build: interpreter $(ENV)/build.stamp ## an optimised wheel, in dist/
	$(ENV)/bin/maturin build --release --locked --out dist --interpreter "$$($(PYTHON) -c 'import sys; print(sys.executable)')"

test: test-rust test-python ## all tests of the project: cargo's, then pytest's

test-rust: ## the tests of the Rust crates that need no Python
	cargo test --locked --workspace --exclude hayase

miri: ## the driver's tests under Miri, which finds undefined behaviour; needs a nightly toolchain with miri
	MIRIFLAGS=-Zmiri-disable-isolation CARGO_TARGET_DIR=target/miri \
	  cargo +nightly miri test --locked --package hayase-driver --lib --test timer_model --test buffer_model --test contract

loom: ## the waker under loom, which tries every interleaving
	RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom \
	  cargo test --locked --release --package hayase-driver --lib waker

test-python: develop $(ENV)/test.stamp ## pytest on a development build; k=name for a part
	$(RUN) -m pytest $(if $(k),-k "$(k)",$(PARALLEL)) $(PYTEST_ARGS)

cpython: develop $(ENV)/test.stamp ## the interpreter's own test_asyncio, with hayase's loop, futures and tasks
	$(RUN) -m tests.cpython $(ARGS)

cpython-full: develop $(ENV)/test.stamp ## the same with hayase's streams, locks, queues, ... in place of asyncio's
	$(RUN) -m tests.cpython --full $(ARGS)

test-libraries: develop ## the suites of anyio, uvicorn and websockets on hayase, compared with asyncio; ARGS="anyio" for some
	PYTHONPATH=python $(PYTHON) -m tests.libraries $(ARGS)

test-all: ## everything, on every supported Python; sets the missing interpreters up (Debian, root)
	scripts/test-all

bench: $(ENV)/bench.stamp ## compare with asyncio, uvloop and others; ARGS="--quick" or ARGS="--only …" (benchmarks/README.md)
	$(MAKE) develop PROFILE=release
	$(RUN) -m benchmarks $(ARGS)

bench-smoke: develop $(ENV)/test.stamp ## that every benchmark runs, on asyncio and hayase; the figures mean nothing
	$(RUN) -m benchmarks --quick --rounds 1 --seconds 0.01 --loops asyncio,hayase $(ARGS)

lint: develop $(ENV)/lint.stamp $(ENV)/test.stamp ## rustfmt, clippy, ruff, mypy --strict, stubtest
	cargo fmt --all --check
	PYO3_PYTHON="$$($(PYTHON) -c 'import sys; print(sys.executable)')" cargo clippy --locked --workspace --all-targets -- -D warnings
	$(ENV)/bin/ruff check .
	$(ENV)/bin/ruff format --check .
	$(ENV)/bin/mypy
	$(ENV)/bin/mypy tests/typed_program.py
	PYTHONPATH=python MYPYPATH=python $(PY) -m mypy.stubtest hayase._core --mypy-config-file pyproject.toml

fmt: $(ENV)/lint.stamp ## format Rust and Python
	cargo fmt --all
	$(ENV)/bin/ruff check --fix-only .
	$(ENV)/bin/ruff format .

docs: ## the pages of the Rust crates, in target/doc
	PYO3_PYTHON="$$($(PYTHON) -c 'import sys; print(sys.executable)')" RUSTDOCFLAGS="-D warnings" \
	  cargo doc --locked --workspace --no-deps --document-private-items

clean: ## remove what was built and installed
	rm -rf target dist .envs python/hayase/*.so

$(ENV)/bench.stamp: benchmarks/requirements.txt | $(PY)
	$(PY) -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

# One stamp for each dependency group; a change of pyproject.toml installs it again.
$(PY): | interpreter
	$(PYTHON) -m venv $(ENV)
	$(PY) -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1" # the first that knows --group

$(ENV)/%.stamp: pyproject.toml | $(PY)
	$(PY) -m pip install --quiet --disable-pip-version-check --group $*
	@touch $@
