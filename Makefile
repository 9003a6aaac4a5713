# make demo | make test | make install | make lint | make clean: each sets up .venv when it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
OPENCV := $(shell sed -n 's/^opencv-python-headless==//p' constraints.txt)

.PHONY: install demo test lint clean

install: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; use make PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --python $(BIN)/python --compile-bytecode --constraints constraints.txt --editable ".[dev]"
	@# Two packages write cv2/; the headless one must come last, so that it imports where libGL is absent.
	$(BIN)/uv pip install --python $(BIN)/python --reinstall --no-deps opencv-python-headless==$(OPENCV)
	touch $(READY)

demo: $(READY)
	$(BIN)/wsi-pipeline demo --out demo

test: $(READY)
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile -m "not data and not slurm"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

clean:
	rm -rf $(VENV) demo build dist
