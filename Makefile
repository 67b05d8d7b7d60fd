# Every task of this repository. Needs Python 3.11 or newer, pip, gcc, git and make; `make help` lists.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
TEST_STAMP := $(VENV)/installed-for-tests
PIP_INSTALL := $(BIN)/python -m pip install --quiet -c constraints.txt

# A machine without an NVIDIA GPU saves several GB with PyTorch's own index:
#   make venv TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
TORCH_PIP_FLAGS := $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

# How many simulated worlds, and which one is the first: make sim SEEDS=10000 SEED_FROM=2000
SEEDS ?= 200
SEED_FROM ?= 0

# Extra words for a target's command, for example: make serve ARGS="--asr pocketsphinx"
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help venv demo serve load bench bench-peers test test-quick test-slow test-browser test-clients test-faults faults-full monitoring-test sim diarization-report segmentation-report model-report reference-checkpoint docs-check lint format types build clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-21s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(STAMP) ## the environment in .venv, with the versions that are tested

# torch comes first, so that no other package's range decides which build of it is taken.
# resemblyzer comes without its dependencies: one needs a compiler, and only its weights are read.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) $(TORCH_PIP_FLAGS) torch
	$(PIP_INSTALL) -e .
	$(PIP_INSTALL) --no-deps resemblyzer
	touch $@

# meeteval, which `captiond eval` scores conversations with, is built from source by g++.
$(TEST_STAMP): $(STAMP)
	$(PIP_INSTALL) -e '.[test]'
	command -v g++ >/dev/null && $(PIP_INSTALL) -e '.[eval]' || \
		echo "make: without g++ (Debian's g++) the tests of meeteval's figures will skip" >&2
	touch $@

demo: $(STAMP) ## a server, a two-speaker clip, live captions and their scores
	$(BIN)/captiond demo $(ARGS)

serve: $(STAMP) ## a server on this machine; ARGS="--asr whisper --asr-model …"
	$(BIN)/captiond serve $(ARGS)

load: $(STAMP) ## 20 scripted streams in real time for a minute; ARGS="--streams 50"
	$(BIN)/python -m load_tests --streams 20 --seconds 60 $(ARGS)

# Test files at the same time; most of the slow ones wait for a server's clock.
TEST_JOBS ?= 2
PYTEST := $(BIN)/python -m pytest -n $(TEST_JOBS) --dist loadfile

test: test-quick test-slow ## every test, and all branches of streaming/ covered

test-quick: $(TEST_STAMP) ## the tests without real models, servers and browsers
	$(PYTEST) -m "not slow" --cov=streaming --cov-report=term-missing $(ARGS)

test-slow: $(TEST_STAMP)
	$(PYTEST) -m "slow and not browser" $(ARGS)

# An accessibility checker, for the test of the page alone: where npm cannot bring it, that one skips.
AXE := axe-core@4.14.1
AXE_FILE := build/axe-core/package/axe.min.js
test-browser: $(TEST_STAMP) $(AXE_FILE) ## the page in Chromium with a fake microphone, and its pictures in docs/captions-page
	$(BIN)/python -m pytest -m browser -o faulthandler_timeout=600 tests/browser $(ARGS)

$(AXE_FILE):
	mkdir -p build/axe-core
	-cd build/axe-core && npm pack --silent $(AXE) && tar -xzf axe-core-*.tgz package

test-clients: $(TEST_STAMP) ## clients that nobody here wrote, each in an environment of its own; ARGS="--only openai"
	$(BIN)/python -m tests.clients_foreign.run $(ARGS)
	$(BIN)/python -m tests.clients_foreign.deepgram_formats $(ARGS)
	$(BIN)/python -m tests.clients_foreign.openai_formats $(ARGS)

bench: $(STAMP) ## the figures captiond is judged by, into docs/benchmarks; ARGS="--only memory"
	$(BIN)/python -m load_tests.bench $(ARGS)

bench-peers: $(TEST_STAMP) ## captiond beside WhisperLive and WhisperLiveKit, same weights and speech; an hour
	$(BIN)/python -m load_tests.peers $(ARGS)

diarization-report: $(TEST_STAMP) ## who said what, against recordings with truth, into docs/diarization
	$(BIN)/python -m tools.diarization_report --out docs/diarization $(ARGS)

segmentation-report: $(TEST_STAMP) ## the shipped segmentation model beside Silero; ARGS="--seed other"
	$(BIN)/python -m tools.segmentation.report $(ARGS)

model-report: $(TEST_STAMP) ## what the demo checkpoint can do, measured; ARGS="--seed other"
	$(BIN)/python -m tools.demo_whisper.report $(ARGS)
	$(BIN)/python -m tools.demo_whisper.server_report

# An hour of work on two cores by default; ended by Ctrl-C it keeps what it has learned.
reference-checkpoint: $(TEST_STAMP) ## whisper-tiny's shape trained on prompts and long windows, for the comparison, into build/reference-whisper
	$(BIN)/python -m tools.reference_whisper --out build/reference-whisper $(ARGS)

test-faults: $(TEST_STAMP) ## kills, cuts, crashes of the store and 500 simulated worlds; 15 minutes at most
	$(BIN)/python -m load_tests.faults $(ARGS)

faults-full: $(TEST_STAMP) ## the same in full, for hours: the figures in docs/testing.md
	$(BIN)/python -m load_tests.faults --full $(ARGS)

monitoring-test: $(TEST_STAMP) ## a real Prometheus beside a loaded server: queries, alerts, cost; 6 minutes
	$(BIN)/python -m load_tests.monitoring $(ARGS)

sim: $(TEST_STAMP) ## whole sessions under faults, in simulated time; SEEDS=2000 SEED_FROM=0
	$(BIN)/python -m tests.sim --seeds $(SEEDS) --from $(SEED_FROM) $(ARGS)

docs-check: $(TEST_STAMP) ## what the documents say against the code
	$(BIN)/python -m pytest tests/test_docs*.py $(ARGS)

lint: $(TEST_STAMP) ## formatting and lint rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: $(TEST_STAMP) ## format the code, repair what lint can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: $(TEST_STAMP) ## mypy, strict, code and tests
	$(BIN)/mypy

build: $(TEST_STAMP) ## the wheel, in dist/
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

clean: ## remove what the targets above made, except the environment
	rm -rf build dist *.egg-info .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache
