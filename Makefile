# Two commands do everything, set-up included: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
TEST_STAMP := .venv/.installed-test

.PHONY: coverage demo test programs bench bench-ops promises lint types clean

demo: $(STAMP)
	$(BIN)/fanal run examples/digits.py --out out/digits.png

test: $(TEST_STAMP)
	$(BIN)/ruff check fanal tests bench examples
	$(BIN)/mypy
	$(BIN)/python -m pytest tests

# The random programs, 2,000 of each kind, and 500 loops; `make test` runs the first few hundred. SURFACE=20000 takes two hours of a core.
# Their kernels are of no use to any other program, so none is kept on disk.
SURFACE ?= 2000
programs: $(TEST_STAMP)
	FANAL_CACHE=0 $(BIN)/python -m pytest tests/engine/test_random_programs.py tests/engine/test_loop_programs.py \
		--programs 2000 --surface $(SURFACE) --loops 500

promises: $(TEST_STAMP)
	$(BIN)/python bench/promises.py

bench: $(TEST_STAMP)
	$(BIN)/python bench/steps.py --workloads all --keep
	$(BIN)/python bench/breakdown.py --workloads all
	$(BIN)/python bench/matmul.py
	$(BIN)/python bench/bandwidth.py
	$(BIN)/python bench/threads.py

# Every operator of PyTorch's operator database beside PyTorch, small and large; the table goes to bench/results.
bench-ops: $(TEST_STAMP)
	$(BIN)/python bench/ops.py

# Which of PyTorch's names are there, missing or different.
coverage: $(STAMP)
	$(BIN)/python docs/coverage.py

lint: $(TEST_STAMP)
	$(BIN)/ruff check fanal tests bench examples

types: $(TEST_STAMP)
	$(BIN)/mypy

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[examples]'
	touch $@

# PyTorch is the oracle of the tests, in the build without CUDA; nothing else needs it.
$(TEST_STAMP): $(STAMP)
	$(BIN)/python -m pip install -q --disable-pip-version-check torch==2.13.0
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[examples,test]'
	touch $@

clean:
	rm -rf .venv out build *.egg-info
