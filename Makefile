# make demo       trains LIFT+ on scikit-learn's digits, ends with a table and a report; no GPU, no other download
# make test       the whole test suite, in parallel (JOBS=1: one test after another)
# make test-fast  the tests without whole runs, other processes and large cases
# make test-gpu   on a machine with a GPU: the tests that compute there, and those of the card alone (docs/gpu.md)
# make faults     every fault that tests/faults can try, in an hour (SEED=1: other random ones; docs/reliability.md)
# make lint       ruff: check and format; mypy: types
# make bench      measures our program against a plain one on this machine's CPU, in 3 minutes on 2 free cores
# make table      five seeds of each method and each loss on the digits, as the README shows them
# PYTHON=python3.12 chooses the Python (3.10 or newer) that .venv is made from.

PYTHON ?= python3
PY := .venv/bin/python
SEED ?= 0
JOBS ?= $(shell n=$$(nproc); echo $$((n < 4 ? n : 4)))

.PHONY: demo test test-fast test-gpu faults lint table bench clean

demo: .venv/installed
	$(PY) main.py -d digits_lt -b clip_tiny -m lift+

test: .venv/installed
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(JOBS) --dist worksteal

test-fast: .venv/installed
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(JOBS) --dist worksteal -m "not slow"

# fails without a GPU, as its tests would pass without testing anything
test-gpu: .venv/installed
	@$(PY) -c 'import torch; torch.cuda.is_available() or exit(f"make test-gpu: torch {torch.__version__} finds no GPU \
	here, so nothing was tested; see nvidia-smi and CUDA_VISIBLE_DEVICES, or run make test for the CPU")'
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(JOBS) --dist worksteal -m gpu

faults: .venv/installed
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(JOBS) --dist worksteal tests/faults --faults full --faults-seed $(SEED)

lint: .venv/installed
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

table: .venv/installed
	PYTHON=$(PY) scripts/run_digits.sh

bench: .venv/installed
	$(PY) benchmarks/run.py --quick

clean:
	rm -rf .venv output

# once, and again when requirements.txt changes; a failed installation leaves no mark and is taken up again
.venv/installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "Python 3.10 or newer is needed, found $$($(PYTHON) --version); name another: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' || \
		{ echo "this Python cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --disable-pip-version-check -r requirements.txt
	@touch $@
