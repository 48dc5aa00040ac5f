# Two commands do everything on a fresh machine with git, make and Python 3.11 to 3.13:
#   make serve   sets .venv up and serves the built-in model and its page   (PORT=8000 MODEL=tiny)
#   make test    sets .venv up, then every check and test
# and for the working day: make setup, make check, make quick, make format, make lock.

PORT ?= 8000
MODEL ?= tiny
WORKERS ?= $(shell n=$$(nproc 2>/dev/null || echo 2); echo $$((n < 4 ? n : 4)))

BIN := .venv/bin
PACKAGES := kosmos vision text data_pipelines serving

# Set on some machines; with it every process would compile every module again, for ever.
unexport PYTHONDONTWRITEBYTECODE

# Tests never ask a network. One thread a worker: two workers with two threads each are slower than with one.
OFFLINE := HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 TRANSFORMERS_OFFLINE=1
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
PYTEST := $(OFFLINE) $(ONE_THREAD) GLOO_SOCKET_IFNAME=lo $(BIN)/pytest -n $(WORKERS) --dist loadscope

.PHONY: serve test setup check quick format lock

serve:
	@scripts/setup.sh
	$(BIN)/kosmos serve --model $(MODEL) --port $(PORT)

test: check
	$(PYTEST) tests

setup:
	@scripts/setup.sh
	@scripts/setup-tests.sh

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

quick: setup
	$(PYTEST) -m "not slow" tests

format:
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock:
	scripts/lock.sh
