# make demo       trains LIFT+ on scikit-learn's digits, ends with a table and a report; no GPU, no other download
# make test       the whole test suite, in parallel (JOBS=1: one test after another)
# make test-full  the same with every combination of values that make test has a sample of (tests/cases.py)
# make test-fast  the tests without whole runs, other processes and large cases
# make test-gpu   on a machine with a GPU: the tests that compute there, and those of the card alone (docs/gpu.md)
# make faults     every fault that tests/faults can try, in an hour (SEED=1: other random ones; docs/reliability.md)
# make lint       ruff: check and format; mypy: types; codespell: spelling; the language of code and pages
# make bench      measures our program against a plain one on this machine's CPU, in 3 minutes on 2 free cores
# make table      five seeds of each method and each loss on the digits, as docs/results.md shows them
# make docs       the pages of docs/ as a site: open site/index.html, no server and no network needed
# PYTHON=python3.12 chooses the Python (3.10 or newer) that .venv is made from.

PYTHON ?= python3
PY := .venv/bin/python
SEED ?= 0
JOBS ?= $(shell n=$$(nproc); echo $$((n < 4 ? n : 4)))
# the tests start many programs, so compiled modules are kept, even where PYTHONDONTWRITEBYTECODE is set
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(PY) -m pytest -n $(JOBS) --dist worksteal

.PHONY: demo test test-full test-fast test-gpu faults lint table bench docs clean

demo: .venv/installed
	$(PY) main.py -d digits_lt -b clip_tiny -m lift+

test: .venv/installed
	$(PYTEST)

test-full: .venv/installed
	$(PYTEST) --cases full

test-fast: .venv/installed
	$(PYTEST) -m "not slow"

# fails without a GPU, as its tests would pass without testing anything
test-gpu: .venv/installed
	@$(PY) -c 'import torch; torch.cuda.is_available() or exit(f"make test-gpu: torch {torch.__version__} finds no GPU \
	here, so nothing was tested; see nvidia-smi and CUDA_VISIBLE_DEVICES, or run make test for the CPU")'
	$(PYTEST) --cases full -m gpu

faults: .venv/installed
	$(PYTEST) tests/faults --faults full --faults-seed $(SEED)

lint: .venv/installed
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) -m codespell_lib
	$(PY) scripts/check_language.py

table: .venv/installed
	PYTHON=$(PY) scripts/run_digits.sh

bench: .venv/installed
	$(PY) benchmarks/run.py --quick

# the variable silences an announcement of the theme
docs: .venv/installed
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

clean:
	rm -rf .venv output site

# once, and again when requirements.txt changes; after a failed installation the next make tries again
.venv/installed: requirements.txt
	@scripts/install.sh $(PYTHON)
	@touch $@
