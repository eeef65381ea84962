# Set-up and shortcuts: whatever a target does beyond installing is a kdbench command, for those without make.
# `make demo` is the whole pipeline on generated scenes; `make help` lists the rest.

PYTHON ?= python3
VENV := .venv
# Windows' make (Git Bash, MSYS2) has the environment's programs elsewhere.
BIN := $(if $(filter Windows_NT,$(OS)),$(VENV)/Scripts,$(VENV)/bin)
# cpu or gpu: what this machine has. `make EXTRA=cpu demo` overrules it.
EXTRA ?= $(if $(shell command -v nvidia-smi 2>/dev/null),gpu,cpu)

# The Python of gpu-quick and gpu-train: the environment's where there is one.
GPU_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))

DATASET ?= shapes
DATA_ROOT ?=
SEEDS ?= 0
METHOD ?= all
BACKEND ?= torch,onnx,trt
# Of `make bench`: the tree of runs, and batch sizes (above 1: PyTorch, and exports with --dynamic-batch).
RUNS ?= runs
BATCH ?= 1
# Of `make gate`: the revision to hold the working tree against, seconds to decide, and whether 3 (inconclusive) fails.
BASE ?= origin/main
BUDGET ?= 240
INCONCLUSIVE ?= fail
# 1: install the very files of requirements-ci.lock, by their hashes (Linux x86-64, Python 3.11, EXTRA=cpu).
LOCKED ?=
# Of `make fuzz`: how many damaged inputs and kills, and which; a case is found again by its seed and number.
CASES ?= 5000
KILLS ?= 210
SEED ?= 0
COVERED_SLOW := tests/test_sweep.py tests/test_regress_base_ref.py
# Of `make soak`: how long.
MINUTES ?= 30
pip := $(BIN)/python -m pip install --quiet --disable-pip-version-check
data_flags := --dataset $(DATASET) $(if $(DATA_ROOT),--data-root $(DATA_ROOT))

.DEFAULT_GOAL := help
.PHONY: help install demo train-all export-all compare test test-slow coverage check remeasure lock audit licences bench gate gpu-check gpu-bundle gpu-quick gpu-train fuzz soak mutation readme clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(VENV)/installed  ## create the environment .venv (cpu or gpu, by what the machine has)

$(VENV)/installed: pyproject.toml constraints.txt $(if $(LOCKED),requirements-ci.lock)
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'kdbench needs Python 3.11 or newer, got ' + sys.version.split()[0] + ': make PYTHON=python3.12 ...')"
	$(PYTHON) -m venv $(VENV)
ifeq ($(LOCKED),)
	$(pip) -c constraints.txt -e '.[$(EXTRA),dev]'
else ifneq ($(EXTRA),cpu)
	@echo "LOCKED=1: got EXTRA=$(EXTRA), the lock holds EXTRA=cpu: make install EXTRA=cpu LOCKED=1"; exit 2
else
	$(pip) --require-hashes --no-deps -r requirements-ci.lock
	$(pip) -c constraints.txt torch torchvision
	$(pip) --no-deps --no-build-isolation -e .
	$(BIN)/python -m pip check
endif
	@echo $(EXTRA) > $@

demo: install  ## teacher, three students, exports and the comparison and the report on generated scenes: runs/materials/
	$(BIN)/kdbench demo

train-all: install  ## teacher where needed, every method under one budget, exports, the table (DATASET= DATA_ROOT= SEEDS=)
	$(BIN)/kdbench train --method all $(data_flags) --seeds $(SEEDS) --resume
	$(BIN)/kdbench export --method all $(data_flags)
	$(BIN)/kdbench compare --backend $(BACKEND) $(data_flags)

export-all: install  ## ONNX files and TensorRT engines of what was trained last
	$(BIN)/kdbench export --method $(METHOD)

compare: install  ## the table of what was trained last
	$(BIN)/kdbench compare --backend $(BACKEND)

test: install  ## the test suite, on two cores
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-slow: install  ## the tests that take tens of seconds each
	$(BIN)/python -m pytest -n 2 --dist load -m slow

# One process: what pytest-xdist's are ended by would cost some of their counts. Sweeps, and the gate against another
# revision, have slow tests alone.
coverage: install  ## how much of kdbench the tests run through, branches too: results/coverage.json
	rm -f .coverage .coverage.* .coverage-data.json
	COVERAGE_FILE=$(CURDIR)/.coverage $(BIN)/python -m coverage run -m pytest
	COVERAGE_FILE=$(CURDIR)/.coverage $(BIN)/python -m coverage run -m pytest -m slow $(COVERED_SLOW)
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage json --quiet --fail-under=0 -o .coverage-data.json
	$(BIN)/python -m benchmarks.coverage_summary .coverage-data.json --json results/coverage.json \
	  --tests "the default suite, and the slow tests of $(COVERED_SLOW)"
	$(BIN)/python -m coverage report --skip-covered --show-missing

check: install  ## lint, format, types, the measured tables; names results whose sources changed since
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m benchmarks.readme_table --check
	$(BIN)/python -m benchmarks.stale_results

remeasure: install  ## measure again what `make check` names, by the commands that the results record: takes hours
	$(BIN)/python -m benchmarks.remeasure

lock: install  ## write requirements-ci.lock: what `make install LOCKED=1` and CI install, by hashes
	$(pip) -c constraints.txt uv
	PYTHON=$(BIN)/python .ci/lock

audit: install  ## known vulnerabilities of the locked packages, by pip-audit (asks a database on the network)
	$(pip) -c constraints.txt pip-audit
	$(BIN)/python -m pip_audit --strict --disable-pip --require-hashes -r requirements-ci.lock

licences: install  ## the licences of what kdbench needs: results/licences.json
	$(BIN)/python -m benchmarks.licences --json results/licences.json

bench: install  ## latency of all that was trained and exported: pytest-benchmark's JSON in runs/<dataset>/latency/
	$(BIN)/python -m benchmarks.latency_suite --runs $(RUNS) --backend all --precision all --batch $(BATCH)

gate: install runs/gate/shapes/baseline/student.json  ## is the working tree slower than BASE=origin/main? runs/gate/gate.*
	@$(BIN)/kdbench regress --base-ref $(BASE) --runs runs/gate --size 512x512 --budget $(BUDGET) \
	  --json runs/gate/gate.json; code=$$?; \
	if [ $$code = 3 ] && [ $(INCONCLUSIVE) = allow ]; then exit 0; else exit $$code; fi

runs/gate/shapes/baseline/student.json:  # latency does not depend on how long it was trained
	$(BIN)/kdbench train --method baseline --dataset shapes --recipe demo --epochs 1 --runs runs/gate

gpu-check: install  ## all that is measured on an NVIDIA GPU, in steps: results/gpu/ (DATA_ROOT=data/camvid; STEP= one alone)
	$(BIN)/python -m benchmarks.gpu_check $(if $(DATA_ROOT),--data-root $(DATA_ROOT)) $(if $(STEP),--step $(STEP))

gpu-bundle: install runs/gpu-bundle/camvid/baseline/student.json  ## what gpu-quick measures: .gpu/bundle (DATA_ROOT=data/camvid)
	$(BIN)/python -m benchmarks.gpu_bundle --runs runs/gpu-bundle --data-root $(DATA_ROOT) --out .gpu/bundle

runs/gpu-bundle/camvid/baseline/student.json:  # ten minutes on two cores
	$(BIN)/kdbench train --method baseline --dataset camvid --data-root $(DATA_ROOT) --size 360x480 --epochs 20 --runs runs/gpu-bundle

# These two need no environment of their own: a machine lent for minutes may have no network to make one.
gpu-quick:  ## latency, accuracy and training on an NVIDIA GPU in under 8 minutes: results/gpu/ (after gpu-bundle)
	$(GPU_PYTHON) -m benchmarks.gpu_quick --data-root $(or $(DATA_ROOT),data/camvid)

gpu-train:  ## the label study on an NVIDIA GPU, in slices of 7 minutes: run it again until it says done
	$(GPU_PYTHON) -m benchmarks.label_study --data-root $(or $(DATA_ROOT),data/camvid) --minutes 7

fuzz: install  ## damaged inputs (CASES=5000), and commands that are killed (KILLS=210): results/fuzz.json, kills.json
	$(BIN)/python -m tests.fuzz --cases $(CASES) --seed $(SEED) --json results/fuzz.json
	$(BIN)/python -m tests.fuzz.kills --kills $(KILLS) --seed $(SEED) --json results/kills.json

soak: install  ## train, export, compare, regress, report again and again: does anything grow? results/soak.json
	$(BIN)/python -m tests.soak --minutes $(MINUTES) --json results/soak.json

mutation: install  ## small faults in the formulas and the files' code: do the tests notice? results/mutation.json
	$(pip) -e '.[mutation]'
	$(BIN)/python -m tests.mutation --json results/mutation.json

readme: install  ## write the measured parts of README.md and docs/measured.md from the committed results
	$(BIN)/python -m benchmarks.readme_table

clean:  ## remove the environment and caches, keep runs/ and results/
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
