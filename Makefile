# Every target sets up what it needs in .venv first. PYTHON is the interpreter that makes it.
PYTHON ?= python3
BIN := .venv/bin
export RAY_USAGE_STATS_ENABLED := 0
export RAY_ENABLE_UV_RUN_RUNTIME_ENV := 0

.PHONY: setup demo test lint soak bench fuzz clean

setup: .venv/ready

# What is installed and never imported: half of all source
UNUSED := /(tests|pip|setuptools|mypyc?|sympy|mpmath|networkx|fontTools|botocore)/|/ray/(rllib|serve|tune|llm)/|/torch/(_inductor|_dynamo|onnx|testing/_internal)/

# torch comes first: nothing else may choose its version. What is installed is compiled on all cores, which pip would do on
# one, but for what nothing here imports; a few packages hold files that are not for this Python. Not left to imports: where
# an environment forbids them to write bytecode (PYTHONDONTWRITEBYTECODE), every worker of a cluster would compile all it imports
.venv/ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/python -m compileall -qq -j 0 -x '$(UNUSED)' .venv/lib || true
	touch $@

demo: setup
	$(BIN)/python demo/run.py

# Many tests wait for a cluster or a store, so that two files run at a time; a file's tests share what is costly to set up.
# With a thread each: two threads each on two cores wait for one another, and the network's tests take twice as long
# Style, types and architecture are checked beside the first tests; what is wrong with them is told last
test: setup
	$(MAKE) --no-print-directory lint > .lint.log 2>&1 & lint=$$!; \
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not gpu" -n 2 --dist loadfile; tests=$$?; \
	wait $$lint; style=$$?; [ $$style = 0 ] || cat .lint.log; exit $$((tests | style))

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Mutated DICOM series for ten minutes; what it prints belongs into tests/faults/test_d_mutation.py
fuzz: setup
	$(BIN)/python -m tests.faults.fuzz 10 $$(date +%s)

# 5,000 synthetic series while workers, drivers and the store are killed, then a count: `make soak SERIES=200` for less
soak: setup
	$(BIN)/python -m tests.faults.soak $(SERIES)

bench: setup
	$(BIN)/python -m benchmarks

clean:
	rm -rf demo/input demo/output .pytest_cache .mypy_cache .ruff_cache .lint.log
